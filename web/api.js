// Functions that both pages of the demo use.

/** A response that is a refusal; `code` is the stable code of the problem (PROTOCOL.md). */
export class Refusal extends Error {
  constructor(status, problem) {
    super(problem?.detail ?? `The server answered ${status}.`);
    this.status = status;
    this.code = problem?.code ?? "unknown";
  }
}

async function answer(response) {
  const body = await response.json().catch(() => undefined);
  if (!response.ok) throw new Refusal(response.status, body);
  return body;
}

/** Returns the URL of a path of the server. `public_url` may have a path; this module is one folder below it. */
const urlOf = (path) => new URL(`..${path}`, import.meta.url);

export async function get(path, headers = {}) {
  return answer(await fetch(urlOf(path), { headers, cache: "no-store" }));
}

export async function post(path, body, headers = {}) {
  const json = { "content-type": "application/json", ...headers };
  return answer(await fetch(urlOf(path), { method: "POST", headers: json, body: JSON.stringify(body) }));
}

/** Returns the element that has this `data-role`. */
export const role = (name) => document.querySelector(`[data-role="${name}"]`);

/** Returns the initials of a name: "AL" for "Ada Lovelace". */
export function initials(name) {
  const words = (name ?? "?").split(/\s+/).filter(Boolean);
  return words.map((word) => [...word][0]).slice(0, 2).join("").toUpperCase();
}

/** Returns the header and the claims of a JWT. It does not verify them; this is the task of the site's server. */
export function decodeToken(token) {
  const part = (text) => {
    const binary = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(binary, (letter) => letter.charCodeAt(0))));
  };
  const [header, claims] = token.split(".");
  return { header: part(header), claims: part(claims) };
}
