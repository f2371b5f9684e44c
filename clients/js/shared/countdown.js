// @ts-check
import { make, makeIcon, setText } from "./dom.js";

/** The time that a session has left, as a ring and as text. */
export class Countdown {
  #ring = make("circle", { pathLength: "1" });
  #icon = makeIcon(make("circle"), this.#ring);
  #label = make("span.sr");
  #time = make("bdi");
  element = make("div.left", { role: "timer" }, this.#icon, this.#label, this.#time);
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #timer;
  /** @type {{ ends_at?: number, lasts_ms?: number }} */
  #session = {};

  /**
   * Shows a session, and updates the time each second if the session is running.
   * @param {{ ends_at?: number, lasts_ms?: number }} session @param {string} label @param {unknown} isRunning
   */
  show(session, label, isRunning) {
    this.#session = session;
    setText(this.#label, label);
    this.#update();
    if (!isRunning) this.stop();
    else this.#timer ??= setInterval(() => this.#update(), 1000);
  }

  stop() {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  #update() {
    const { ends_at = 0, lasts_ms = 1 } = this.#session;
    const leftMs = Math.max(0, ends_at - performance.now());
    const seconds = Math.ceil(leftMs / 1000);
    setText(this.#time, `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`);
    this.#ring.style.strokeDashoffset = `${1 - Math.min(1, leftMs / lasts_ms)}`;
  }
}
