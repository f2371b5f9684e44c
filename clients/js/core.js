// @ts-check
// The part of <qr-login> without a user interface: it requests a code, waits for changes of the session, and dispatches
// them as events. It needs no DOM, only fetch, WebSocket and EventTarget. Names of the wire are as in PROTOCOL.md.
import { diagnose, getStatus, post, refused, resolveEndpoint } from "./core/api.js";
import { backoffMs, pause } from "./core/pause.js";
import { transports } from "./core/transports.js";

/**
 * @typedef {import("./core/api.js").Refusal} Refusal
 * @typedef {import("./core/transports.js").End} End
 *
 * The user who scanned or confirmed, as far as the app token describes them.
 * @typedef {{ name?: string, picture?: string }} User
 *
 * The state that a page may show. `name` is one of: idle, loading, ready, scanned, confirmed, rejected, cancelled,
 * expired, replaced (superseded by another tab), blocked (the server refuses this page permanently).
 * @typedef {object} State
 * @property {string} name
 * @property {string} [qr_url] content of the code
 * @property {string} [qr_image] image of the code, a data: URL
 * @property {number} [ends_at] end of the session, in milliseconds of performance.now()
 * @property {number} [lasts_ms] duration of the session
 * @property {User} [user] user who scanned
 * @property {string} [number] number that the user must pick on the phone
 * @property {string} [reason] of cancelled: "overload"; of expired: "claimed"; of blocked: the code of the refusal
 *
 * @typedef {object} Options
 * @property {string | null} [endpoint] URL of the server; default: the root of the page's host
 * @property {string | null} [client_info] description of the page, which the phone shows
 * @property {Storage | null} [storage] storage of the session id, for reloads; default: sessionStorage
 * @property {Record<string, any> | null} [session] session that has begun already: the response of `generate` or of the
 *   device authorization endpoint (RFC 8628). No other session is begun or continued then
 */

/** Time in which a transport must deliver something, and the server must respond to a cancel. */
const FIRST_MESSAGE_MS = 4000;
/** The same for the transport that worked before the connection fell silent. */
const FIRST_MESSAGE_AFTER_SILENCE_MS = 1000;
const MAX_BACKOFF_MS = 30_000;
/** Time in which a probed connection must deliver something. */
const PROBE_MS = 1500;
/** Time between two checks for a silent connection. */
const CHECK_MS = 250;
/** Minimum advance of the wall clock between two checks that shows that the machine has slept. */
const SLEEP_MS = 5000;
/** Close code of a server that cannot make the token at present. The login stays confirmed. */
const TOKEN_FAILED = 1011;
const SUPERSEDED = 4409;
const FINAL_STATES = ["confirmed", "rejected", "cancelled", "expired", "replaced", "blocked"];

/** Index of the best transport that worked, by endpoint, for the life of the page. @type {Record<string, number>} */
const workingTransports = {};
/** Storage keys of the running logins of this page. @type {Set<string>} */
const usedKeys = new Set();

/**
 * A login by QR code. Events: change, and on entering a state ready, scanned, number, confirmed, rejected, cancelled,
 * expired, replaced, error. Only the detail of confirmed contains the token. The event refresh asks for another page
 * with a session that the server has begun; by default, the page is reloaded.
 */
class QrLogin extends EventTarget {
  /** @type {State} */
  state = { name: "idle" };
  /** Whether the server can be reached, as far as is known. */
  is_connected = true;
  #base;
  #clientInfo;
  #storage;
  #givenSession;
  #key = "";
  /** @type {string | undefined} */
  #sessionId;
  /** Aborted to end everything that is in progress. */
  #running = new AbortController();
  /** Time between two heartbeats of the server; 0 if it is unknown. */
  #heartbeatMs = 0;
  /** Checks the connection; in a pause between two attempts, ends the pause. @type {(() => void) | undefined} */
  #probe;

  /** @param {Options} options */
  constructor({ endpoint, client_info, storage, session } = {}) {
    super();
    this.#clientInfo = client_info;
    this.#givenSession = session;
    this.#base = resolveEndpoint(endpoint);
    try {
      this.#storage = session ? null : storage === undefined ? globalThis.sessionStorage : storage;
    } catch {
      // A page in a sandbox has no storage.
    }
  }

  /** Continues the given session or that of this tab, or requests a code. */
  start() {
    this.#sessionId = undefined;
    this.#begin({ name: "loading" });
  }

  /** Requests a new code. A phone that has scanned the previous one is informed. */
  refresh() {
    if (/ready|scanned/.test(this.state.name)) {
      post(this.#base, "cancel", { session_id: this.#sessionId }).catch(() => {});
    }
    if (this.#givenSession) {
      if (this.#dispatch("refresh")) globalThis.location?.reload();
    } else {
      this.#forget();
      this.#begin({ name: "loading" });
    }
  }

  /** Cancels the login. The phone is informed if the server can be reached. */
  async cancel() {
    const session_id = this.#sessionId;
    try {
      if (session_id) await post(this.#base, "cancel", { session_id }, AbortSignal.timeout(FIRST_MESSAGE_MS));
    } catch (/** @type {any} */ error) {
      // The session was decided before; the connection delivers the decision.
      if (/409|410/.test(error.status)) return;
      this.#dispatch("error", { code: (error.status && error.code) ?? "network", message: `${error}` });
    }
    // The connection may have delivered the cancellation first, and a new code may have been requested since.
    if (this.#sessionId === session_id && !this.#isOver()) this.#end("cancelled");
  }

  /** Closes the connection, and keeps the session. */
  stop() {
    this.#running.abort();
  }

  /**
   * Acknowledges the token: the server does not deliver it again. Called automatically, unless the default of the event
   * confirmed was prevented. Fails silently after three attempts.
   */
  async acknowledge(session_id = this.#sessionId) {
    this.#forget(session_id);
    for (const pauseMs of [500, 1000, 2000]) {
      try {
        return await post(this.#base, "ack", { session_id });
      } catch (/** @type {any} */ error) {
        if (error.status < 500) return;
        await pause(pauseMs);
      }
    }
  }

  /** @param {State} state */
  #begin(state) {
    this.stop();
    this.#running = new AbortController();
    const { signal } = this.#running;
    // Each login of a page has its own key. After a reload, they find their sessions in the order in which they start.
    this.#key ||= `qr-login ${this.#base}`;
    while (usedKeys.has(this.#key)) this.#key += "+";
    usedKeys.add(this.#key);
    signal.addEventListener("abort", () => usedKeys.delete(this.#key));
    this.#setState(state);
    this.#listen(signal);
    this.#run(signal);
  }

  /** Follows the events of the window, if there is one. @param {AbortSignal} signal */
  #listen(signal) {
    const listen = globalThis.addEventListener;
    // Not all of these events bubble.
    const options = { signal, capture: true };
    for (const event of ["online", "visibilitychange", "resume"]) listen?.(event, () => this.#check(), options);
    const setOffline = () => {
      if (!this.#isOver()) this.#setConnected(false);
    };
    listen?.("offline", setOffline, options);
    const restart = () => {
      if (!this.#isOver()) this.#begin(this.state);
    };
    // An open connection would keep the page out of the back/forward cache.
    const suspend = () => {
      this.stop();
      listen("pageshow", restart, { once: true });
    };
    listen?.("pagehide", suspend, options);
  }

  /** Checks a connection that may be dead without having been closed. */
  #check() {
    if (!globalThis.document?.hidden) this.#probe?.();
  }

  /** Attempts to wait for the session until the login is over. @param {AbortSignal} signal */
  async #run(signal) {
    let wasSilent = false;
    // A listener of confirmed may start anew. Its token is acknowledged and its session forgotten first.
    await null;
    for (let attempt = 0; ; attempt++) {
      const end = await this.#attempt(signal, attempt, wasSilent);
      if (signal.aborted || this.#handleEnd(end)) return;
      wasSilent = !!end.silent;
      // An event stream has worked before it ends with this code; without the second condition, pauses would not grow.
      if (end.worked && end.code !== TOKEN_FAILED) attempt = 0;
      if (!wasSilent) await this.#pause(signal, attempt, end);
    }
  }

  /**
   * Gets a session if there is none, and waits on a connection until it ends. `isDiagnosed`: a diagnosis has found that
   * the server does not allow the origin of the page.
   * @param {AbortSignal} signal @param {number} attempt @param {boolean} wasSilent @returns {Promise<End>}
   */
  async #attempt(signal, attempt, wasSilent, isDiagnosed = false) {
    try {
      if (!this.#base) throw refused(400, "no_endpoint", "endpoint must be an absolute URL");
      if (!this.#sessionId) await this.#findSession(signal);
      if (signal.aborted || this.#isOver()) return {};
      return await this.#wait(signal, attempt, wasSilent);
    } catch (/** @type {any} */ error) {
      if (error.status) return { refusal: error };
      // A browser reports a response that the page must not read as a TypeError.
      if (!attempt || error.name !== "TypeError") return {};
      const refusal = await diagnose(this.#base, signal);
      // The network may have returned between the request and the diagnosis, so that a second one is needed.
      return refusal && !isDiagnosed ? this.#attempt(signal, attempt, wasSilent, true) : { refusal };
    }
  }

  /** Ends the login if the end of a connection is final; returns whether it is. @param {End} end */
  #handleEnd({ code, refusal }) {
    if (this.#isOver()) this.#disconnect();
    else if (code === SUPERSEDED || refusal?.code === "replaced") this.#end("replaced");
    // The server deletes a session some time after its end.
    else if (refusal?.status === 404 && this.#sessionId) this.#end("expired");
    else if (refusal && !/408|429|5../.test(/** @type {any} */ (refusal.status))) this.#block(refusal);
    else return false;
    return true;
  }

  /** Pauses before the next attempt. @param {AbortSignal} signal @param {number} attempt @param {End} end */
  async #pause(signal, attempt, { refusal, reason = "" }) {
    this.#setConnected(false);
    const pausing = new AbortController();
    this.#probe = () => pausing.abort();
    const requestedMs = refusal ? refusal.retryAfterMs : /retry_after_ms=(\d+)/.exec(reason)?.[1];
    await pause(Number(requestedMs) || backoffMs(attempt, MAX_BACKOFF_MS), AbortSignal.any([signal, pausing.signal]));
    this.#probe = undefined;
  }

  /** Continues the given session or the one from before a reload, or generates a new one. @param {AbortSignal} signal */
  async #findSession(signal) {
    const given = this.#givenSession;
    // The response of the device authorization endpoint has no picture. A given session has no storage.
    const known = given?.device_code ?? this.#store("getItem");
    if (known) {
      try {
        const view = await getStatus(this.#base, "", known, signal);
        if (given || (view.status !== "expired" && !view.claimed)) {
          this.#sessionId = known;
          return this.#receive(view, known);
        }
      } catch (/** @type {any} */ error) {
        if (error.code !== "not_found") throw error;
        if (given) return this.#end("expired");
      }
      this.#forget();
    }
    const answer = given ?? (await post(this.#base, "generate", { client_info: this.#clientInfo }, signal));
    this.#sessionId = answer?.session_id;
    // A proxy or captive portal may have responded instead of the server.
    if (!this.#sessionId) throw given ? refused(400, "invalid_session") : Error();
    this.#store("setItem", this.#sessionId);
    this.#show({ ...answer, status: "pending" });
  }

  /**
   * Waits on the best transport that works. After silence, the one that has worked is tried twice, because the browser
   * may first reuse another connection that is dead too.
   * @param {AbortSignal} signal @param {number} attempt @param {boolean} wasSilent @returns {Promise<End>}
   */
  async #wait(signal, attempt, wasSilent) {
    const best = workingTransports[this.#base] ?? 0;
    const firstMessageMs = FIRST_MESSAGE_MS * Math.min(attempt + 1, 4);
    const tries = [[0, firstMessageMs], [1, firstMessageMs], [2, Infinity]].slice(best);
    if (wasSilent) tries.unshift([best, FIRST_MESSAGE_AFTER_SILENCE_MS]);
    for (const [index, ms] of tries) {
      const end = await this.#waitOn(index, ms, signal);
      // A server that refuses, or closes with a reason, has been reached.
      if (end.worked || end.refusal || end.reason || signal.aborted) return end;
    }
    return {};
  }

  /**
   * Waits on one transport until its connection ends, or delivers nothing for too long.
   * @param {number} index @param {number} firstMessageMs @param {AbortSignal} signal @returns {Promise<End>}
   */
  async #waitOn(index, firstMessageMs, signal) {
    const sessionId = this.#sessionId;
    const givenUp = new AbortController();
    const giveUp = () => givenUp.abort("");
    let giveUpAt = performance.now() + firstMessageMs;
    let checkedAt = Date.now();
    const checking = setInterval(() => {
      // In some browsers, only the wall clock shows that the machine has slept. It may be set, so nothing else uses it.
      const now = Date.now();
      if (now - checkedAt > SLEEP_MS) this.#check();
      checkedAt = now;
      if (performance.now() > giveUpAt) giveUp();
    }, CHECK_MS);
    let worked = false;
    const onAlive = (/** @type {(() => void) | undefined} */ probe = undefined) => {
      // A dead connection must be replaced within two and a half heartbeats.
      const intervalMs = this.#heartbeatMs || Infinity;
      const silenceMs = Math.max(1.6 * intervalMs, 2.5 * intervalMs - 2500);
      giveUpAt = performance.now() + silenceMs;
      this.#probe = probe ? () => {
        probe();
        giveUpAt = performance.now() + PROBE_MS;
      } : giveUp;
      worked = true;
      workingTransports[this.#base] = index;
      this.#setConnected(true);
    };
    /** @type {End} */
    let end = {};
    try {
      const anySignal = AbortSignal.any([signal, givenUp.signal]);
      const receive = (/** @type {any} */ frame, /** @type {(() => boolean) | undefined} */ sendAck = undefined) =>
        this.#receive(frame, sessionId, sendAck);
      end = await transports[index](this.#base, sessionId, anySignal, onAlive, receive, this.#heartbeatMs);
    } catch (/** @type {any} */ error) {
      // A refusal without a code is that of a proxy.
      if (error.status && error.code) end.refusal = error;
    }
    this.#probe = undefined;
    clearInterval(checking);
    const silent = worked && givenUp.signal.aborted;
    // Closes a response that was not read to its end.
    giveUp();
    return { ...end, worked, silent };
  }

  /**
   * Handles a message of the server, and acknowledges its token unless the page prevents it. Resolves to whether the
   * login is over.
   * @param {any} frame @param {string} [sessionId] @param {() => boolean} [sendAck]
   */
  async #receive(frame, sessionId, sendAck) {
    if (this.#show(frame)) {
      if (sendAck?.()) this.#forget(sessionId);
      else await this.acknowledge(sessionId);
    }
    return this.#isOver();
  }

  /** Shows the state in a message, and returns whether to acknowledge its token. @param {any} frame */
  #show(frame) {
    const { status, qr_url, qr_image, user = this.state.user, number, expires_in, heartbeat_seconds } = frame;
    const state = { ...this.state };
    if (heartbeat_seconds) this.#heartbeatMs = heartbeat_seconds * 1000;
    if (qr_image) Object.assign(state, { qr_url, qr_image });
    if (expires_in && status !== "confirmed") {
      state.ends_at = performance.now() + expires_in * 1000;
      state.lasts_ms = Math.max(state.lasts_ms ?? 0, expires_in * 1000);
    }
    if (status === "pending") this.#setState({ ...state, name: "ready" });
    else if (status === "rotated") this.#setState(state);
    else if (status === "scanned") this.#setState({ ...state, name: status, user, number });
    else if (frame.claimed) this.#end("expired", "claimed");
    else if (status === "confirmed") {
      const { web_token, token_type, collect } = frame;
      const detail = collect ? { collect, user } : { web_token, token_type, expires_in, user };
      // An OAuth client collects the login at the server, and there is no token to acknowledge.
      return this.#setState({ ...state, name: status, user }, detail) && !collect;
    } else if (FINAL_STATES.includes(status)) this.#end(status, frame.reason);
    return false;
  }

  /** Ends the login in a final state. @param {string} name @param {string} [reason] @param {object} [detail] */
  #end(name, reason, detail) {
    this.#disconnect();
    // A session that another tab continues can be continued here later.
    if (name === "replaced") this.#sessionId = undefined;
    else this.#forget();
    this.#setState({ ...this.state, name, reason }, detail);
  }

  /** @param {Refusal} refusal */
  #block({ code, message }) {
    console.error(`qr-login: ${message}`);
    this.#end("blocked", code, { code, message });
  }

  #isOver() {
    return FINAL_STATES.includes(this.state.name);
  }

  /** Closes the connection of a login that is over. The network does not matter to it. */
  #disconnect() {
    this.stop();
    this.#setConnected(true);
  }

  /** Forgets this session, unless another one has begun since. */
  #forget(sessionId = this.#sessionId) {
    if (this.#sessionId && this.#sessionId !== sessionId) return;
    this.#sessionId = undefined;
    this.#store("removeItem");
  }

  /** Calls the storage. @param {"getItem" | "setItem" | "removeItem"} call @param {string[]} rest */
  #store(call, ...rest) {
    try {
      return /** @type {any} */ (this.#storage)?.[call](this.#key, ...rest);
    } catch {
      // Storage may be full or blocked. A reload then begins a new session.
    }
  }

  /**
   * Sets the state, dispatches its events, and returns false if a listener has prevented the default.
   * @param {State} state @param {object} [detail]
   */
  #setState(state, detail = state) {
    const before = this.state;
    this.state = state;
    this.#dispatch("change");
    const { name, number } = state;
    const isAllowed = name === before.name || this.#dispatch(name === "blocked" ? "error" : name, detail);
    if (number && number !== before.number) this.#dispatch("number", state);
    return isAllowed;
  }

  /** @param {boolean} isConnected */
  #setConnected(isConnected) {
    if (this.is_connected === isConnected) return;
    this.is_connected = isConnected;
    this.#dispatch("change");
  }

  /** @param {string} type @param {object} [detail] */
  #dispatch(type, detail) {
    return this.dispatchEvent(new CustomEvent(type, { detail, cancelable: true }));
  }
}

/**
 * Creates a login by QR code without a user interface: the page shows `login.state` after each event `change`.
 * @param {Options} [options]
 */
export const createQrLogin = (options) => new QrLogin(options);
