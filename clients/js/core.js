// @ts-check
// The headless part of <qr-login>: asks for a code, waits for what happens to it, and says so. It needs no DOM, only
// fetch, WebSocket and EventTarget. Words of the wire are as in PROTOCOL.md.

/**
 * Who scanned or confirmed, as far as the app token says.
 * @typedef {{ name?: string, picture?: string }} User
 *
 * What a page may show. `name` is one of: idle, loading, ready, scanned, confirmed, rejected, cancelled, expired,
 * replaced (by another tab), blocked (the server will have nothing to do with this page).
 * @typedef {object} State
 * @property {string} name
 * @property {string} [qr_url] what the picture says
 * @property {string} [qr_image] the picture, a data: URL
 * @property {number} [ends_at] when the session ends, in milliseconds of performance.now()
 * @property {number} [lasts_ms] how long it lasts in all
 * @property {User} [user] who scanned
 * @property {string} [number] what the phone's owner must pick
 * @property {string} [reason] of cancelled: "overload"; of expired: "claimed"; of blocked: the problem's code
 *
 * @typedef {object} Options
 * @property {string} [endpoint] where the server is; by default where the page is
 * @property {string} [client_info] shown to the phone as the browser's own word
 * @property {Storage | null} [storage] where a reload finds the session; by default sessionStorage
 *
 * How a connection ended: with a WebSocket's close code and reason, or refused.
 * @typedef {{ code?: number, reason?: string, refusal?: Refusal, worked?: boolean }} End
 */

/** Nothing at all comes in this time where a transport is blocked, or kept back by a proxy. A cancel waits no longer. */
const FIRST_WORD_MS = 4000;
/** Shorter than what proxies commonly allow a silent request. */
const POLL_SECONDS = 15;
const MAX_BACKOFF_MS = 30_000;
/** The server tells the end of a session; if it has not this long after it, the connection is dead. */
const OVERDUE_MS = 5000;
const REPLACED = 4409;
const OVER = ["confirmed", "rejected", "cancelled", "expired", "replaced", "blocked"];

/** By endpoint: the best transport that has worked, for the life of the page. @type {Map<string, number>} */
const working = new Map();

/** An answer that is a refusal (RFC 9457). */
class Refusal extends Error {
  /** @param {number} status @param {string} [code] @param {string} [detail] @param {number} [retry_after_ms] */
  constructor(status, code, detail, retry_after_ms) {
    super(detail ?? `the server answered ${status}`);
    this.status = status;
    this.code = code;
    this.retry_after_ms = retry_after_ms;
  }
}

/** @param {number} ms @param {AbortSignal} [signal] ends it early */
const pause = (ms, signal) =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => resolve(clearTimeout(timer)));
  });

/**
 * A login by QR code. Events: change, and when one of these begins ready, scanned, number, confirmed, rejected,
 * cancelled, expired, replaced, error. The token is in the detail of confirmed, and nowhere else.
 */
class QrLogin extends EventTarget {
  /** @type {State} */
  state = { name: "idle" };
  /** Whether the server is within reach, as far as one knows. */
  is_connected = true;
  #base;
  #origin;
  #client_info;
  #storage;
  #key;
  /** @type {string | undefined} */
  #id;
  /** What is under way. */
  #run = new AbortController();
  /** The pause between two attempts. @type {AbortController | undefined} */
  #pause;

  /** @param {Options} options */
  constructor({ endpoint, client_info, storage } = {}) {
    super();
    const url = new URL(endpoint || "/", globalThis.location?.href);
    this.#base = url.href.replace(/\/$/, "");
    this.#origin = url.origin;
    this.#client_info = client_info;
    this.#key = `qr-login ${this.#base}`;
    try {
      this.#storage = storage === undefined ? globalThis.sessionStorage : storage;
    } catch {
      // Pages in a sandbox have none.
    }
  }

  /** Goes on with the session that this tab has, if it has one, or asks for a code. */
  start() {
    this.#id = undefined;
    this.#begin({ name: "loading" });
  }

  /** Asks for a new code. Whoever has scanned the one before is told that it is of no use. */
  refresh() {
    if (/ready|scanned/.test(this.state.name)) this.#post("cancel", { session_id: this.#id }).catch(() => {});
    this.#forget();
    this.#begin({ name: "loading" });
  }

  /** Gives up; the phone is told so, if the server is within reach. */
  async cancel() {
    const session_id = this.#id;
    try {
      if (session_id) await this.#post("cancel", { session_id }, AbortSignal.timeout(FIRST_WORD_MS));
    } catch (/** @type {any} */ error) {
      // What has been decided meanwhile is on its way here.
      if (/409|410/.test(error.status)) return;
      this.#say("error", { code: (error.status && error.code) ?? "network", message: String(error) });
    }
    // (The connection may have been told first, and another code asked for since.)
    if (this.#id === session_id && !this.#is_over()) this.#end("cancelled");
  }

  /** Lets go of the connection, and leaves the session as it is. */
  stop() {
    this.#run.abort();
  }

  /**
   * Says that the token has been received: it is not given again. Happens by itself, unless the event confirmed was
   * prevented from its default. It is worth another try or two.
   */
  async acknowledge() {
    const session_id = this.#id;
    this.#forget();
    for (let attempt = 0; attempt < 3; attempt++) {
      try {
        return await this.#post("ack", { session_id });
      } catch (error) {
        if (error instanceof Refusal && error.status < 500) return;
        await pause(500 * 2 ** attempt);
      }
    }
  }

  /** @param {State} state */
  #begin(state) {
    this.#run.abort();
    this.#run = new AbortController();
    const { signal } = this.#run;
    this.#show(state);
    const hurry = () => globalThis.document?.hidden || this.#pause?.abort();
    const on = globalThis.addEventListener;
    // What was connected before may look so still, and be dead.
    on?.("online", () => (this.#pause ? hurry() : this.#is_over() || this.#begin(this.state)), { signal });
    on?.("offline", () => this.#is_over() || this.#reach(false), { signal });
    on?.("visibilitychange", hurry, { signal });
    this.#keep_on(signal);
  }

  /** @param {AbortSignal} signal */
  async #keep_on(signal) {
    const is_over = () => signal.aborted || this.#is_over();
    for (let attempt = 0; ; attempt++) {
      /** @type {End} */
      let end = {};
      try {
        if (!this.#id) await this.#ask(signal);
        if (!is_over()) end = await this.#wait(signal, attempt);
      } catch (refusal) {
        end = refusal instanceof Refusal ? { refusal } : await this.#diagnose(attempt, signal);
      }
      if (signal.aborted) return;
      const { code, reason, refusal, worked } = end;
      if (is_over()) return this.#let_go();
      if (code === REPLACED || refusal?.code === "replaced") return this.#end("replaced");
      // Swept: long past its end.
      if (refusal?.status === 404 && this.#id) return this.#end("expired");
      if (refusal && refusal.status < 500 && refusal.status !== 429) return this.#block(refusal);
      if (worked) attempt = 0;
      this.#reach(false);
      this.#pause = new AbortController();
      const told = refusal?.retry_after_ms ?? /retry_after_ms=(\d+)/.exec(reason ?? "")?.[1];
      const backoff = Math.random() * Math.min(MAX_BACKOFF_MS, 1000 * 2 ** attempt);
      await pause(told ? Number(told) : backoff, AbortSignal.any([signal, this.#pause.signal]));
      this.#pause = undefined;
    }
  }

  /** Finds the session that was here before a reload, or asks for a new one. @param {AbortSignal} signal */
  async #ask(signal) {
    const stored = this.#storage?.getItem(this.#key);
    if (stored) {
      try {
        const view = await this.#get("status", stored, signal);
        if (view.status !== "expired" && !view.claimed) {
          this.#id = stored;
          return this.#hear(view) && this.acknowledge();
        }
      } catch (error) {
        if (!(error instanceof Refusal) || error.status !== 404) throw error;
      }
      this.#forget();
    }
    const answer = await this.#post("generate", { client_info: this.#client_info }, signal);
    this.#id = answer.session_id;
    this.#storage?.setItem(this.#key, answer.session_id);
    this.#hear({ ...answer, status: "pending" });
  }

  /**
   * Waits for what happens, by the best transport that works.
   * @param {AbortSignal} signal @param {number} attempt @returns {Promise<End>}
   */
  async #wait(signal, attempt) {
    const ways = [this.#by_websocket, this.#by_events, this.#by_polling];
    for (let way = working.get(this.#base) ?? 0; way < ways.length; way++) {
      const given_up = new AbortController();
      const give_up = () => given_up.abort();
      // (The last one knows by itself.)
      const silent = way < 2 ? setTimeout(give_up, FIRST_WORD_MS * Math.min(attempt + 1, 4)) : 0;
      const overdue = setTimeout(give_up, Number(this.state.ends_at) - performance.now() + OVERDUE_MS);
      /** @type {End} */
      let end = {};
      const alive = () => {
        clearTimeout(silent);
        end.worked = true;
        working.set(this.#base, way);
        this.#reach(true);
      };
      try {
        Object.assign(end, await ways[way].call(this, AbortSignal.any([signal, given_up.signal]), alive));
      } catch (error) {
        // (What has no code is a proxy's.)
        if (error instanceof Refusal && error.code) end.refusal = error;
      }
      clearTimeout(silent);
      clearTimeout(overdue);
      // A server that refuses has been reached.
      if (end.worked || end.refusal || signal.aborted) return end;
    }
    return {};
  }

  /** @param {AbortSignal} signal @param {() => void} alive @returns {Promise<End>} */
  #by_websocket(signal, alive) {
    return new Promise((resolve) => {
      // The id is no part of the URL, which browsers and proxies write down.
      const words = ["qrlogin.ack", `qrlogin.session.${this.#id}`];
      const socket = new WebSocket(`${this.#base.replace("http", "ws")}/v1/ws/qr`, words);
      const close = () => socket.close(1000);
      signal.addEventListener("abort", () => {
        // (Closing what is not open yet would be an error in the console.)
        if (socket.readyState) close();
        else socket.onopen = close;
        resolve({});
      });
      socket.onmessage = ({ data }) => {
        if (signal.aborted) return;
        alive();
        if (this.#hear(JSON.parse(data))) {
          socket.send("ack");
          this.#forget();
        }
      };
      socket.onclose = ({ code, reason }) => resolve({ code, reason });
    });
  }

  /** @param {AbortSignal} signal @param {() => void} alive @returns {Promise<End>} */
  async #by_events(signal, alive) {
    const init = { headers: { "x-qr-session": String(this.#id) }, signal };
    const { body, headers } = await this.#fetch("/v1/sse/qr", init);
    // Something between says something of its own.
    if (!headers.get("content-type")?.startsWith("text/event-stream")) return (await body?.cancel(), {});
    const reader = /** @type {ReadableStream<Uint8Array>} */ (body).getReader();
    const decoder = new TextDecoder();
    for (let text = ""; ; ) {
      const { done, value } = await reader.read();
      if (done) return {};
      alive();
      const blocks = (text + decoder.decode(value, { stream: true })).split("\n\n");
      text = blocks.pop() ?? "";
      for (const block of blocks) {
        const said = JSON.parse(/^data: (.*)/m.exec(block)?.[1] ?? "null");
        if (/^event: close/m.test(block)) return said;
        if (said && this.#hear(said)) await this.acknowledge();
      }
    }
  }

  /** @param {AbortSignal} signal @param {() => void} alive @returns {Promise<End>} */
  async #by_polling(signal, alive) {
    for (let version = 0; !signal.aborted; ) {
      const asked_at = performance.now();
      // A request that nobody answers is given up, and sent again.
      const silence = AbortSignal.any([signal, AbortSignal.timeout((POLL_SECONDS + 10) * 1000)]);
      const view = await this.#get(`status?wait=${POLL_SECONDS}&version=${version}`, String(this.#id), silence);
      alive();
      if (this.#hear(view)) await this.acknowledge();
      // Something between answers at once, in the server's place.
      if (view.version === version && performance.now() - asked_at < 1000) await pause(1000, signal);
      version = view.version;
    }
    return {};
  }

  /** Takes in what the server says; whether that is to be acknowledged. @param {any} frame @returns {boolean} */
  #hear(frame) {
    const { status, qr_url, qr_image, user = this.state.user, number, expires_in } = frame;
    const state = { ...this.state };
    if (qr_image) Object.assign(state, { qr_url, qr_image });
    if (expires_in && status !== "confirmed") {
      state.ends_at = performance.now() + expires_in * 1000;
      state.lasts_ms = Math.max(state.lasts_ms ?? 0, expires_in * 1000);
    }
    if (status === "pending") this.#show({ ...state, name: "ready" });
    else if (status === "rotated") this.#show(state);
    else if (status === "scanned") this.#show({ ...state, name: "scanned", user, number });
    else if (frame.claimed) this.#end("expired", "claimed");
    else if (status === "confirmed") {
      const { web_token, token_type } = frame;
      return this.#show({ ...state, name: "confirmed", user }, { web_token, token_type, expires_in, user });
    } else this.#end(status, frame.reason);
    return false;
  }

  /** @param {string} name @param {string} [reason] @param {object} [detail] */
  #end(name, reason, detail) {
    this.#let_go();
    // What another tab has now can be taken back.
    if (name === "replaced") this.#id = undefined;
    else this.#forget();
    this.#show({ ...this.state, name, reason }, detail);
  }

  /** @param {Refusal} refusal */
  #block({ code, message }) {
    console.error(`qr-login: ${message}`);
    this.#end("blocked", code, { code, message });
  }

  /** Why the server cannot be reached. @param {number} attempt @param {AbortSignal} signal @returns {Promise<End>} */
  async #diagnose(attempt, signal) {
    const page = globalThis.location?.origin;
    // A server that does not know this origin answers, and the page may not read it.
    if (!page || page === this.#origin || attempt === 0) return {};
    try {
      await fetch(`${this.#base}/.well-known/jwks.json`, { mode: "no-cors", signal });
    } catch {
      return {};
    }
    const detail = `${this.#origin} does not let in pages of ${page}: add "${page}" to its setting allowed_origins`;
    return { refusal: new Refusal(403, "forbidden_origin", detail) };
  }

  #is_over() {
    return OVER.includes(this.state.name);
  }

  /** Nothing hangs on the network any more. */
  #let_go() {
    this.stop();
    this.#reach(true);
  }

  #forget() {
    this.#id = undefined;
    this.#storage?.removeItem(this.#key);
  }

  /** Whether nobody has prevented what follows. @param {State} state @param {object} [detail] */
  #show(state, detail = state) {
    const before = this.state;
    this.state = state;
    this.dispatchEvent(new Event("change"));
    const { name, number } = state;
    const goes_on = name === before.name || this.#say(name === "blocked" ? "error" : name, detail);
    if (number && number !== before.number) this.#say("number", state);
    return goes_on;
  }

  /** @param {boolean} is_connected */
  #reach(is_connected) {
    if (this.is_connected === is_connected) return;
    this.is_connected = is_connected;
    this.dispatchEvent(new Event("change"));
  }

  /** @param {string} type @param {object} detail */
  #say(type, detail) {
    return this.dispatchEvent(new CustomEvent(type, { detail, cancelable: true }));
  }

  /** @param {string} call @param {string} id @param {AbortSignal} signal */
  async #get(call, id, signal) {
    return (await this.#fetch(`/v1/qr-login/${call}`, { headers: { "x-qr-session": id }, signal })).json();
  }

  /** @param {string} call @param {object} body @param {AbortSignal} [signal] @returns {Promise<any>} */
  async #post(call, body, signal) {
    const headers = { "content-type": "application/json" };
    // (A receipt is to arrive though the page goes on to where the login leads.)
    const init = { method: "POST", headers, body: JSON.stringify(body), signal, keepalive: true };
    const response = await this.#fetch(`/v1/qr-login/${call}`, init);
    return response.status === 204 || response.json();
  }

  /** @param {string} path @param {RequestInit} init */
  async #fetch(path, init) {
    const response = await fetch(this.#base + path, { ...init, cache: "no-store", credentials: "omit" });
    if (response.ok) return response;
    const { code, detail } = await response.json().catch(() => ({}));
    throw new Refusal(response.status, code, detail, Number(response.headers.get("retry-after")) * 1000 || undefined);
  }
}

/**
 * A login by QR code, without anything to see: the page shows `login.state` whenever there is a `change`.
 * @param {Options} [options]
 */
export const createQrLogin = (options) => new QrLogin(options);
