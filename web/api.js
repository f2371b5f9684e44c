// What both pages of the demo use.

/** An answer that is a refusal: `code` is the problem's stable code (PROTOCOL.md). */
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

/** Where the server has this path. (The server may be at a path itself: this module is one folder below it.) */
const at = (path) => new URL(`..${path}`, import.meta.url);

export async function get(path, headers = {}) {
  return answer(await fetch(at(path), { headers, cache: "no-store" }));
}

export async function post(path, body, headers = {}) {
  const json = { "content-type": "application/json", ...headers };
  return answer(await fetch(at(path), { method: "POST", headers: json, body: JSON.stringify(body) }));
}

/** The element of this role on the page. */
export const role = (name) => document.querySelector(`[data-role="${name}"]`);

/** Ada Lovelace is AL. */
export function initials(name) {
  const words = (name ?? "?").split(/\s+/).filter(Boolean);
  return words.map((word) => [...word][0]).slice(0, 2).join("").toUpperCase();
}

/** What a JWT says. (Whether it is true is for the site's own server to verify.) */
export function decodeToken(token) {
  const part = (text) => {
    const binary = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(binary, (letter) => letter.charCodeAt(0))));
  };
  const [header, claims] = token.split(".");
  return { header: part(header), claims: part(claims) };
}
