// @ts-check
// The requests of a page to the server, as in PROTOCOL.md, and the refusals among the responses.

/**
 * A response that is a refusal (RFC 9457). No other error has a status.
 * @typedef {Error & { status: number, code?: string, retryAfterMs?: number }} Refusal
 */

/**
 * Returns the error for a refusal.
 * @param {number} status @param {string} [code] @param {string} [detail] @param {number} [retryAfterMs]
 * @returns {Refusal}
 */
export const refused = (status, code, detail, retryAfterMs) =>
  Object.assign(new Error(detail ?? code ?? `status ${status}`), { status, code, retryAfterMs });

/**
 * Returns the URL of the server without a slash at its end, or an empty text if the endpoint cannot be resolved.
 * @param {string | null} [endpoint] default: the root of the page's host
 */
export function resolveEndpoint(endpoint) {
  // A page at about:srcdoc, about:blank or blob: has no URL to resolve with, but an origin (in a sandbox, neither).
  const page = [globalThis.location?.href, globalThis.origin].find((url) => URL.canParse("/", url));
  try {
    return new URL(endpoint || "/", page).href.replace(/\/$/, "");
  } catch {
    return "";
  }
}

/**
 * Returns a refusal if the server responds, but does not allow the origin of the page. Call this after a request has
 * failed without a response.
 * @param {string} base @param {AbortSignal} signal
 */
export async function diagnose(base, signal) {
  const page = globalThis.origin;
  const { origin } = new URL(base);
  if (!page || page === origin) return;
  try {
    // The page can send this request to any origin, but cannot read the response.
    await fetch(`${base}/.well-known/jwks.json`, { mode: "no-cors", signal });
  } catch {
    return;
  }
  return refused(403, "forbidden_origin", `add "${page}" to the setting allowed_origins of ${origin}`);
}

/** Sends a request, and returns a successful response. @param {string} url @param {RequestInit} init */
async function request(url, init) {
  const response = await fetch(url, { ...init, cache: "no-store", credentials: "omit" });
  if (response.ok) return response;
  const { code, detail } = await response.json().catch(() => ({}));
  throw refused(response.status, code, detail, Number(response.headers.get("retry-after")) * 1000);
}

/**
 * Requests a path that belongs to a session, and returns the response.
 * @param {string} base @param {string} path @param {any} sessionId @param {AbortSignal} signal
 */
export const open = (base, path, sessionId, signal) =>
  request(base + path, { headers: { "x-qr-session": sessionId }, signal });

/**
 * Returns the session as `status` describes it.
 * @param {string} base @param {string} query @param {any} sessionId @param {AbortSignal} signal
 */
export async function getStatus(base, query, sessionId, signal) {
  const response = await open(base, `/v1/qr-login/status${query}`, sessionId, signal);
  return (await response.json()) ?? {};
}

/**
 * Calls `generate`, `ack` or `cancel`, or a route of the phone, and returns the body of the response, if it has one.
 * @param {string} base @param {string} call @param {object} body @param {AbortSignal} [signal]
 * @param {Record<string, string>} [more] further header fields
 * @returns {Promise<any>}
 */
export async function post(base, call, body, signal, more) {
  const headers = { "content-type": "application/json", ...more };
  // `keepalive`: an acknowledgement or a decision arrives even if the page navigates away.
  const init = { method: "POST", headers, body: JSON.stringify(body), signal, keepalive: true };
  const response = await request(`${base}/v1/qr-login/${call}`, init);
  if (response.status !== 204) return response.json();
}
