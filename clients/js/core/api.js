// @ts-check
// The requests of a browser to the server, as in PROTOCOL.md, and the refusals among the responses.

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
  Object.assign(new Error(detail ?? `status ${status}`), { status, code, retryAfterMs });

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
  return response.json();
}

/**
 * Calls `generate`, `ack` or `cancel`, and returns the body of the response, if it has one.
 * @param {string} base @param {string} call @param {object} body @param {AbortSignal} [signal]
 * @returns {Promise<any>}
 */
export async function post(base, call, body, signal) {
  const headers = { "content-type": "application/json" };
  // `keepalive`: an acknowledgement arrives even if the page navigates away.
  const init = { method: "POST", headers, body: JSON.stringify(body), signal, keepalive: true };
  const response = await request(`${base}/v1/qr-login/${call}`, init);
  if (response.status !== 204) return response.json();
}
