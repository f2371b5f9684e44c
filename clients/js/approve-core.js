// @ts-check
// The part of <qr-approve> without a user interface: it scans a code for the user of the page, and sends the decision.
// It needs no DOM, only fetch and EventTarget. Names of the wire are as in PROTOCOL.md.
import { diagnose, post, refused, resolveEndpoint } from "./core/api.js";
import { forgetCode, keepCode, storeCode } from "./core/kept-code.js";
import { backoffMs, pause } from "./core/pause.js";

export { keepCode };

/**
 * @typedef {import("./core/api.js").Refusal} Refusal
 *
 * The browser that requested the session.
 * @typedef {object} Client
 * @property {string} ip
 * @property {string | null} [browser]
 * @property {string | null} [os]
 * @property {string | null} [origin]
 * @property {string | null} [client_info] the browser's own unverified description
 * @property {string} time
 * @property {{ city?: string, region?: string, country?: string, country_code?: string }} [location]
 * @property {{ asn?: number, organization?: string }} [network]
 *
 * The OAuth client for which the browser requested the session.
 * @typedef {object} Application
 * @property {string} name
 * @property {string | null} [logo] URL of an image
 * @property {string[]} scopes
 *
 * The state that a page may show. `name` is one of: idle, loading, asking, deciding, confirmed, rejected, expired,
 * cancelled (by the browser, or by the server because of overload), unknown, taken (scanned by another user, or decided
 * before), wrong_number, logged_out, refused (the phone and the browser are in different locations), no_code, blocked
 * (the server or the token endpoint refuses this page permanently).
 * @typedef {object} State
 * @property {string} name
 * @property {Client} [client] of asking and deciding
 * @property {Application} [application] of asking and deciding, if the session is that of an OAuth client
 * @property {string[]} [numbers] numbers of which the user must pick that of the browser, if numbers are compared
 * @property {string[]} [risk] properties in which the locations of the phone and the browser differ
 * @property {number} [ends_at] end of the session, in milliseconds of performance.now()
 * @property {number} [lasts_ms] duration of the session, as far as it is known
 * @property {string} [reason] code of the refusal
 * @property {string} [message] of blocked: text for the developer of the page
 *
 * @typedef {string | null | undefined} Token
 *
 * @typedef {object} Options
 * @property {string | null} [endpoint] URL of the server; default: the root of the page's host
 * @property {string | null} [code] code, or URL in the QR code; default: that in the URL of the page, or the kept one
 * @property {Token | (() => Token | Promise<Token>)} [token] app token, or a function that returns one
 * @property {string | null} [token_url] URL of the page's origin that returns an app token
 * @property {Storage | null} [storage] storage of the code; default: sessionStorage
 */

const MAX_BACKOFF_MS = 10_000;
/** Time in which the server must respond to a request. It responds to a phone within 5 seconds. */
const RESPONSE_MS = 10_000;
/** State for each refusal that is not permanent for the page. @type {Record<string, string>} */
const REFUSALS = {
  not_found: "unknown",
  expired: "expired",
  cancelled: "cancelled",
  already_scanned: "taken",
  already_decided: "taken",
  wrong_user: "taken",
  number_mismatch: "wrong_number",
  risk: "refused",
};
/** States after which the code may be of use. */
const KEEPING = ["logged_out", "refused", "blocked"];

/**
 * A decision about a login. Events: change, and on entering a state its name with hyphens: asking, confirmed, rejected,
 * expired, cancelled, unknown, taken, wrong-number, logged-out, refused, no-code, and error for blocked.
 */
class QrApprove extends EventTarget {
  /** @type {State} */
  state = { name: "idle" };
  /** Whether the server can be reached, as far as is known. */
  is_connected = true;
  /** Whether the server can be reached, but asks for patience. */
  is_busy = false;
  /** App token, or a function that returns one. @type {Options["token"]} */
  token;
  #base;
  #tokenUrl;
  #givenCode;
  #storage;
  /** @type {string | null | undefined} */
  #code;
  /** Token that was used last. @type {Token} */
  #usedToken;
  /** Aborted to end everything that is in progress. */
  #running = new AbortController();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #expiry;
  /** Ends the pause between two attempts. @type {(() => void) | undefined} */
  #endPause;

  /** @param {Options} options */
  constructor({ endpoint, code, token, token_url, storage } = {}) {
    super();
    this.#base = resolveEndpoint(endpoint);
    this.#givenCode = code;
    this.token = token;
    this.#tokenUrl = token_url;
    this.#storage = storage;
  }

  /** Scans the code. Call this again if the user has logged in, or has opened another code. */
  start() {
    this.stop();
    this.#running = new AbortController();
    this.#setConnected(true);
    this.#usedToken = undefined;
    this.#code = this.#givenCode || keepCode(this.#storage) || this.#code;
    if (!this.#code) return this.#setState({ name: "no_code" });
    if (isFramedByAnother()) return this.#refuse(refused(403, "framed", "a page of another origin contains this page"));
    const { signal } = this.#running;
    // Not all of these events bubble.
    const options = { signal, capture: true };
    const wake = () => {
      if (!globalThis.document?.hidden) this.#endPause?.();
    };
    for (const event of ["online", "visibilitychange", "resume", "pageshow"]) {
      globalThis.addEventListener?.(event, wake, options);
    }
    this.#setState({ name: "loading" });
    this.#scan(signal);
  }

  /** Confirms the login. If the state has `numbers`, the number is required. @param {string | number} [number] */
  async confirm(number) {
    const { numbers } = this.state;
    if (!numbers) await this.#decide("confirm");
    else if (numbers.includes(`${number}`)) await this.#decide("confirm", { number: `${number}` });
  }

  /** Rejects the login. */
  async reject() {
    await this.#decide("reject");
  }

  /** Stops all requests but a decision, and keeps the state. */
  stop() {
    this.#running.abort();
    clearTimeout(this.#expiry);
  }

  /** @param {AbortSignal} signal */
  async #scan(signal) {
    const answer = await this.#send("scan", "scanned", signal);
    if (!answer) return;
    const { client, application, numbers, risk, expires_in } = answer;
    const lasts_ms = expires_in * 1000;
    // The code is kept for as long as its session lasts.
    if (!this.#givenCode) storeCode(`${this.#code}`, lasts_ms, this.#storage);
    this.#expiry = setTimeout(() => this.#end("expired"), lasts_ms);
    const ends_at = performance.now() + lasts_ms;
    this.#setState({ name: "asking", client, application, numbers, risk, ends_at, lasts_ms });
  }

  /** @param {"confirm" | "reject"} call @param {object} [more] further members of the request */
  async #decide(call, more) {
    if (this.state.name !== "asking") return;
    // From now on, only the server knows whether the decision was in time.
    clearTimeout(this.#expiry);
    this.#setState({ ...this.state, name: "deciding" });
    const status = call === "confirm" ? "confirmed" : "rejected";
    if (await this.#send(call, status, this.#running.signal, more)) this.#end(status);
  }

  /**
   * Sends a call until the server has answered it, and returns the answer. A call whose answer was lost is repeated,
   * because the server answers a repeated call in the same way. A refusal ends the decision.
   * @param {string} call @param {string} status status in the answer @param {AbortSignal} signal @param {object} [more]
   */
  async #send(call, status, signal, more) {
    let isForbidden = false;
    for (let attempt = 0; !signal.aborted; attempt++) {
      /** @type {Refusal | undefined} */
      let refusal;
      try {
        const answer = await this.#authorize(call, { code: this.#code, ...more }, signal);
        if (signal.aborted) return;
        // A proxy or captive portal may have responded instead of the server.
        if (answer?.status !== status) throw Error();
        this.#setConnected(true);
        return answer;
      } catch (/** @type {any} */ error) {
        if (error.status) refusal = error;
        // A browser reports a response that the page must not read as a TypeError.
        else if (attempt && error.name === "TypeError" && !error.isOfToken) {
          refusal = await diagnose(this.#base, signal);
        }
      }
      if (signal.aborted) return;
      // The network may have returned between the request and the diagnosis, so that a second one is needed.
      const wasForbidden = isForbidden;
      isForbidden = refusal?.code === "forbidden_origin";
      if (isForbidden && !wasForbidden) continue;
      if (refusal && !/408|429|5../.test(`${refusal.status}`)) return this.#refuse(refusal);
      await this.#pause(signal, attempt, refusal);
    }
  }

  /**
   * Sends a call with a token, and with another one if the first one was refused.
   * @param {string} call @param {object} body @param {AbortSignal} signal @returns {Promise<any>}
   */
  async #authorize(call, body, signal, isLast = typeof this.token === "string") {
    if (!this.#base) throw refused(400, "no_endpoint", "endpoint must be an absolute URL");
    this.#usedToken ??= await this.#getToken(signal);
    if (!this.#usedToken) throw refused(401, "no_token");
    try {
      const authorization = `Bearer ${this.#usedToken}`;
      // A decision is not aborted, because the page may remove the element after the user has decided.
      const timeout = AbortSignal.timeout(RESPONSE_MS);
      const anySignal = call === "scan" ? AbortSignal.any([signal, timeout]) : timeout;
      return await post(this.#base, call, body, anySignal, { authorization });
    } catch (/** @type {any} */ error) {
      if (error.status !== 401) throw error;
      this.#usedToken = undefined;
      if (isLast || signal.aborted) throw error;
      return this.#authorize(call, body, signal, true);
    }
  }

  /** Returns an app token, or nothing if the user is not logged in. @param {AbortSignal} signal */
  async #getToken(signal) {
    try {
      if (this.token) return typeof this.token === "string" ? this.token : await this.token();
      return await fetchToken(this.#tokenUrl, AbortSignal.any([signal, AbortSignal.timeout(RESPONSE_MS)]));
    } catch (/** @type {any} */ error) {
      // The cause is not in the connection to qrlogin.
      throw Object.assign(error, { isOfToken: true });
    }
  }

  /** Shows a refusal. @param {Refusal} refusal */
  #refuse({ status, code, message }) {
    const name = status === 401 ? "logged_out" : REFUSALS[code ?? ""];
    if (name) this.#end(name, { reason: code });
    // Numbers are compared, and the scan is lost.
    else if (code === "not_scanned") this.start();
    else {
      console.error(`qr-approve: ${message}`);
      this.#end("blocked", { reason: code ?? `status_${status}`, message });
    }
  }

  /** Pauses before the next attempt. @param {AbortSignal} signal @param {number} attempt @param {Refusal} [refusal] */
  async #pause(signal, attempt, refusal) {
    this.#setConnected(false, !!refusal);
    const pausing = new AbortController();
    this.#endPause = () => pausing.abort();
    await pause(refusal?.retryAfterMs || backoffMs(attempt, MAX_BACKOFF_MS), AbortSignal.any([signal, pausing.signal]));
    this.#endPause = undefined;
  }

  /** Ends the decision in a state. @param {string} name @param {object} [more] */
  #end(name, more) {
    this.stop();
    if (!KEEPING.includes(name)) {
      this.#code = undefined;
      if (!this.#givenCode) forgetCode(this.#storage);
    }
    this.#setConnected(true);
    this.#setState({ name, ...more });
  }

  /** @param {State} state */
  #setState(state) {
    this.state = state;
    this.#dispatch("change");
    const { name, reason, message } = state;
    if (name === "blocked") this.#dispatch("error", { code: reason, message });
    else this.#dispatch(name.replace("_", "-"), state);
  }

  /** @param {boolean} isConnected @param {boolean} [isBusy] */
  #setConnected(isConnected, isBusy = false) {
    if (this.is_connected === isConnected && this.is_busy === isBusy) return;
    Object.assign(this, { is_connected: isConnected, is_busy: isBusy });
    this.#dispatch("change");
  }

  /** @param {string} type @param {object} [detail] */
  #dispatch(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** Whether a page of another origin contains this one, and could let the user click on what is hidden. */
function isFramedByAnother() {
  try {
    return globalThis.top?.location.href === "";
  } catch {
    return true;
  }
}

/**
 * Returns an app token for the user of the page's session, or nothing if there is none.
 * @param {string | null | undefined} tokenUrl @param {AbortSignal} signal @returns {Promise<Token>}
 */
async function fetchToken(tokenUrl, signal) {
  const url = tokenUrl && URL.canParse(tokenUrl, globalThis.location?.href) && new URL(tokenUrl, location.href);
  if (!url) throw refused(400, "no_token_url");
  if (url.origin !== globalThis.origin) throw refused(400, "foreign_token_url");
  const response = await fetch(url, {
    method: "POST",
    // A form of another site cannot send this header, and a script of another site only with the permission of CORS.
    headers: { "x-qr-approve": "1", accept: "application/json" },
    credentials: "same-origin",
    cache: "no-store",
    // A redirect leads to the site's login page.
    redirect: "manual",
    signal,
  });
  const { ok, status, type, headers } = response;
  if (type === "opaqueredirect" || /401|403|3../.test(`${status}`)) return;
  if (!ok) {
    const retryAfterMs = Number(headers.get("retry-after")) * 1000;
    throw refused(status, `token_url_${status}`, undefined, retryAfterMs);
  }
  const body = await response.json().catch((error) => {
    // A body that broke off, or that the page no longer waits for, is an error of the network.
    if (error.name !== "SyntaxError") throw error;
    console.error("qr-approve: the token URL responded without JSON");
  });
  return typeof body?.token === "string" ? body.token : undefined;
}

/**
 * Creates a decision about a login without a user interface: the page shows `approve.state` after each event `change`.
 * @param {Options} [options]
 */
export const createQrApprove = (options) => new QrApprove(options);
