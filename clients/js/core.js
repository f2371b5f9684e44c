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
 * @property {string | null} [endpoint] where the server is; by default where the page is
 * @property {string | null} [client_info] shown to the phone as the browser's own word
 * @property {Storage | null} [storage] where a reload finds the session; by default sessionStorage
 *
 * How a connection ended: with a WebSocket's close code and reason, or refused.
 * `silent`: nothing came on it any more.
 * @typedef {{ code?: number, reason?: string, refusal?: Refusal, worked?: boolean, silent?: boolean }} End
 */

/** Nothing at all comes in this time where a transport is blocked, or kept back by a proxy. A cancel waits no longer. */
const FIRST_WORD_MS = 4000;
/** Shorter than what proxies commonly allow a silent request. */
const POLL_SECONDS = 15;
const MAX_BACKOFF_MS = 30_000;
/** A connection that is asked whether it is alive answers in this time. */
const ANSWER_MS = 1500;
/** How often it is looked whether a connection has fallen silent ... */
const LOOK_MS = 250;
/** ... and by how much time jumps when the machine has slept. */
const JUMP_MS = 5000;
/** Close code of a server that cannot make the token now. The login stays confirmed. */
const FAILED = 1011;
const REPLACED = 4409;
const OVER = ["confirmed", "rejected", "cancelled", "expired", "replaced", "blocked"];

/** By endpoint: the best transport that has worked, for the life of the page. @type {Map<string, number>} */
const working = new Map();
/** The keys under which logins of this page store their sessions. @type {Set<string>} */
const in_use = new Set();

/**
 * An answer that is a refusal (RFC 9457). No other error has a status.
 * @typedef {Error & { status: number, code?: string, retry_after_ms?: number }} Refusal
 * @param {number} status @param {string} [code] @param {string} [detail] @param {number} [retry_after_ms]
 * @returns {Refusal}
 */
const refused = (status, code, detail, retry_after_ms) =>
  Object.assign(new Error(detail ?? `status ${status}`), { status, code, retry_after_ms });

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
  #base = "";
  #client_info;
  #storage;
  #key = "";
  /** @type {string | undefined} */
  #id;
  /** What is under way. */
  #run = new AbortController();
  /** Between two heartbeats of the server; 0 for one that sends none that a page sees. */
  #beat_ms = 0;
  /** Finds out whether the connection is alive; in a pause between two attempts, ends it. @type {(() => void) | undefined} */
  #doubt;

  /** @param {Options} options */
  constructor({ endpoint, client_info, storage } = {}) {
    super();
    this.#client_info = client_info;
    // A page at about:srcdoc, about:blank or blob: has an origin and no URL of it, and in a sandbox no origin.
    const page = [globalThis.location?.href, globalThis.origin].find((url) => URL.canParse("/", url));
    try {
      this.#base = new URL(endpoint || "/", page).href.replace(/\/$/, "");
    } catch {
      // #keep_on says so.
    }
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
      this.#say("error", { code: (error.status && error.code) ?? "network", message: `${error}` });
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
  async acknowledge(session_id = this.#id) {
    this.#forget(session_id);
    for (const pause_ms of [500, 1000, 2000]) {
      try {
        return await this.#post("ack", { session_id });
      } catch (/** @type {any} */ error) {
        if (error.status < 500) return;
        await pause(pause_ms);
      }
    }
  }

  /** @param {State} state */
  #begin(state) {
    this.stop();
    this.#run = new AbortController();
    const { signal } = this.#run;
    // Several logins of a page each keep their own session: after a reload they find it in the order in which they start.
    this.#key ||= `qr-login ${this.#base}`;
    while (in_use.has(this.#key)) this.#key += "+";
    in_use.add(this.#key);
    signal.addEventListener("abort", () => in_use.delete(this.#key));
    this.#show(state);
    const on = globalThis.addEventListener;
    // (Captured, as not all of them bubble.)
    for (const event of ["online", "visibilitychange", "resume"]) on?.(event, () => this.#wake(), { signal, capture: true });
    on?.("offline", () => this.#is_over() || this.#reach(false), { signal });
    // A page with an open connection would not be kept for going back to.
    const back = () => this.#is_over() || this.#begin(this.state);
    on?.("pagehide", () => (this.stop(), on("pageshow", back, { once: true })), { signal });
    this.#keep_on(signal);
  }

  /** What was connected before may look so still, and be dead. */
  #wake() {
    if (!this.#is_over() && !globalThis.document?.hidden) this.#doubt?.();
  }

  /** @param {AbortSignal} signal */
  async #keep_on(signal) {
    let silent = false;
    // A listener of confirmed may begin anew: the token is acknowledged first, and its session forgotten.
    await null;
    for (let attempt = 0; ; attempt++) {
      /** @type {End} */
      let end = {};
      try {
        if (!this.#base) throw refused(400, "no_endpoint", "endpoint must be an absolute URL");
        if (!this.#id) await this.#ask(signal);
        if (!signal.aborted && !this.#is_over()) end = await this.#wait(signal, attempt, silent);
      } catch (/** @type {any} */ refusal) {
        end = refusal.status ? { refusal } : await this.#diagnose(attempt, signal);
      }
      if (signal.aborted) return;
      const { code, reason, refusal, worked } = end;
      if (this.#is_over()) return this.#let_go();
      if (code === REPLACED || refusal?.code === "replaced") return this.#end("replaced");
      // Swept: long past its end.
      if (refusal?.status === 404 && this.#id) return this.#end("expired");
      if (refusal && !/408|429|5../.test(/** @type {any} */ (refusal.status))) return this.#block(refusal);
      silent = !!end.silent;
      // (A stream of events has worked before it ends so: without this, each pause would be as short as the first.)
      if (worked && code !== FAILED) attempt = 0;
      if (silent) continue;
      this.#reach(false);
      const pausing = new AbortController();
      this.#doubt = () => pausing.abort();
      const told = refusal ? refusal.retry_after_ms : /retry_after_ms=(\d+)/.exec(reason ?? "")?.[1];
      const backoff = Math.random() * Math.min(MAX_BACKOFF_MS, 1000 * 2 ** attempt);
      await pause(Number(told) || backoff, AbortSignal.any([signal, pausing.signal]));
      this.#doubt = undefined;
    }
  }

  /** Finds the session that was here before a reload, or asks for a new one. @param {AbortSignal} signal */
  async #ask(signal) {
    const stored = this.#store("getItem");
    if (stored) {
      try {
        const view = await this.#get("status", signal, stored);
        if (view.status !== "expired" && !view.claimed) {
          this.#id = stored;
          return this.#hear(view) && this.acknowledge(stored);
        }
      } catch (/** @type {any} */ error) {
        if (error.status !== 404) throw error;
      }
      this.#forget();
    }
    const answer = await this.#post("generate", { client_info: this.#client_info }, signal);
    // Something between answers in the server's place.
    if (!answer.session_id) throw Error();
    this.#store("setItem", (this.#id = answer.session_id));
    this.#hear({ ...answer, status: "pending" });
  }

  /**
   * Waits for what happens, by the best transport that works. After a silence that is the one that has, tried twice: the
   * browser may have kept another connection, which is dead, too, until it is given up.
   * @param {AbortSignal} signal @param {number} attempt @param {boolean} again @returns {Promise<End>}
   */
  async #wait(signal, attempt, again) {
    const ways = [this.#by_websocket, this.#by_events, this.#by_polling];
    for (let way = working.get(this.#base) ?? 0; way < ways.length; again ? (again = false) : way++) {
      const given_up = new AbortController();
      const give_up = () => given_up.abort();
      // When the next word must have come. (Of the last way, the first may take its time.)
      let until = performance.now() + (again ? 1000 : way < 2 ? FIRST_WORD_MS * Math.min(attempt + 1, 4) : Infinity);
      let looked = Date.now();
      const looking = setInterval(() => {
        // Only the wall clock shows that the machine has slept, in some browsers. It may be set: nothing else hangs on it.
        const now = Date.now();
        if (now - looked > JUMP_MS) this.#wake();
        looked = now;
        if (performance.now() > until) give_up();
      }, LOOK_MS);
      /** @type {End} */
      let end = {};
      const alive = (/** @type {(() => void) | undefined} */ ask = undefined) => {
        const beat = this.#beat_ms;
        // Within two and a half heartbeats all is to be as it should again.
        until = performance.now() + (beat ? Math.max(1.6 * beat, 2.5 * beat - 2500) : Infinity);
        this.#doubt = ask ? () => (ask(), (until = performance.now() + ANSWER_MS)) : give_up;
        end.worked = true;
        working.set(this.#base, way);
        this.#reach(true);
      };
      try {
        Object.assign(end, await ways[way].call(this, AbortSignal.any([signal, given_up.signal]), alive, this.#id));
      } catch (/** @type {any} */ error) {
        // (What has no code is a proxy's.)
        if (error.status && error.code) end.refusal = error;
      }
      this.#doubt = undefined;
      clearInterval(looking);
      end.silent = end.worked && given_up.signal.aborted;
      // What could not be read is still open.
      give_up();
      // A server that refuses, or closes with a reason, has been reached.
      if (end.worked || end.refusal || end.reason || signal.aborted) return end;
    }
    return {};
  }

  /** @param {AbortSignal} signal @param {(ask?: () => void) => void} alive @param {any} id @returns {Promise<End>} */
  #by_websocket(signal, alive, id) {
    return new Promise((resolve) => {
      // The id is no part of the URL, which browsers and proxies write down.
      const words = ["qrlogin.ack", `qrlogin.session.${id}`];
      const socket = new WebSocket(`${this.#base.replace("http", "ws")}/v1/ws/qr`, words);
      const close = () => socket.close(1000);
      signal.addEventListener("abort", () => {
        // (Closing what is not open yet would be an error in the console. What the page stops when it is told of its token
        // is closed after the acknowledgement.)
        if (socket.readyState) queueMicrotask(close);
        else socket.onopen = close;
        resolve({});
      });
      socket.onmessage = ({ data }) => {
        if (signal.aborted) return;
        try {
          // (A heartbeat is binary.)
          const frame = typeof data === "string" && JSON.parse(data);
          alive(() => socket.send("ping"));
          if (!frame || !this.#hear(frame)) return;
          // (A page that is being left may have closed it.)
          if (socket.readyState > 1) return this.acknowledge(id);
          socket.send("ack");
          this.#forget(id);
        } catch {
          // This is no qrlogin.
          close();
        }
      };
      socket.onclose = ({ code, reason }) => resolve({ code, reason });
    });
  }

  /** @param {AbortSignal} signal @param {() => void} alive @param {any} id @returns {Promise<End>} */
  async #by_events(signal, alive, id) {
    const { body, headers } = await this.#open("/v1/sse/qr", signal);
    // Something between says something of its own.
    const type = /** @type {any} */ (headers.get("content-type"));
    if (!/^text\/event-stream/.test(type)) return (await body?.cancel(), {});
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
        if (said && this.#hear(said)) await this.acknowledge(id);
      }
    }
  }

  /** @param {AbortSignal} signal @param {() => void} alive @param {any} id @returns {Promise<End>} */
  async #by_polling(signal, alive, id) {
    const seconds = Math.min(POLL_SECONDS, this.#beat_ms / 1000 || POLL_SECONDS);
    for (let version = 0; !this.#is_over(); ) {
      const asked_at = performance.now();
      const view = await this.#get(`status?wait=${seconds}&version=${version}`, signal);
      alive();
      if (this.#hear(view)) await this.acknowledge(id);
      // Something between answers at once, in the server's place.
      const { version: now = version } = view;
      if (now === version && performance.now() - asked_at < 1000) await pause(1000, signal);
      version = now;
    }
    return {};
  }

  /** Takes in what the server says; whether that is to be acknowledged. @param {any} frame @returns {boolean} */
  #hear(frame) {
    const { status, qr_url, qr_image, user = this.state.user, number, expires_in, heartbeat_seconds } = frame;
    const state = { ...this.state };
    if (heartbeat_seconds) this.#beat_ms = heartbeat_seconds * 1000;
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
    } else if (OVER.includes(status)) this.#end(status, frame.reason);
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
    const page = globalThis.origin;
    const { origin } = new URL(this.#base);
    // A server that does not know this origin answers, and the page may not read it.
    if (!page || page === origin || !attempt) return {};
    try {
      await fetch(`${this.#base}/.well-known/jwks.json`, { mode: "no-cors", signal });
    } catch {
      return {};
    }
    const detail = `${origin} does not let in this page: add "${page}" to its setting allowed_origins`;
    return { refusal: refused(403, "forbidden_origin", detail) };
  }

  #is_over() {
    return OVER.includes(this.state.name);
  }

  /** Nothing hangs on the network any more. */
  #let_go() {
    this.stop();
    this.#reach(true);
  }

  /** Forgets this session, unless another has been begun since. */
  #forget(id = this.#id) {
    if (this.#id && this.#id !== id) return;
    this.#id = undefined;
    this.#store("removeItem");
  }

  /** Storage may be full, or blocked at any time. @param {"getItem" | "setItem" | "removeItem"} call @param {string[]} rest */
  #store(call, ...rest) {
    try {
      return /** @type {any} */ (this.#storage)?.[call](this.#key, ...rest);
    } catch {
      // A reload begins anew then.
    }
  }

  /** Whether nobody has prevented what follows. @param {State} state @param {object} [detail] */
  #show(state, detail = state) {
    const before = this.state;
    this.state = state;
    this.#say("change");
    const { name, number } = state;
    const goes_on = name === before.name || this.#say(name === "blocked" ? "error" : name, detail);
    if (number && number !== before.number) this.#say("number", state);
    return goes_on;
  }

  /** @param {boolean} is_connected */
  #reach(is_connected) {
    if (this.is_connected === is_connected) return;
    this.is_connected = is_connected;
    this.#say("change");
  }

  /** @param {string} type @param {object} [detail] */
  #say(type, detail) {
    return this.dispatchEvent(new CustomEvent(type, { detail, cancelable: true }));
  }

  /** @param {string} call @param {AbortSignal} signal @param {any} [id] */
  async #get(call, signal, id) {
    return (await this.#open(`/v1/qr-login/${call}`, signal, id)).json();
  }

  /** @param {string} path @param {AbortSignal} signal @param {any} [id] */
  #open(path, signal, id = this.#id) {
    return this.#fetch(path, { headers: { "x-qr-session": id }, signal });
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
    throw refused(response.status, code, detail, /** @type {any} */ (response.headers.get("retry-after")) * 1000);
  }
}

/**
 * A login by QR code, without anything to see: the page shows `login.state` whenever there is a `change`.
 * @param {Options} [options]
 */
export const createQrLogin = (options) => new QrLogin(options);
