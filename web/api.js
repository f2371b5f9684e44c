// Functions that the pages of the demo use.

/** Returns the URL of a path of the server. `public_url` may have a path; this module is one folder below it. */
const urlOf = (path) => new URL(`..${path}`, import.meta.url);

/** Posts JSON, and returns the JSON of the response. A refusal throws the detail of its problem (PROTOCOL.md). */
export async function post(path, body) {
  const headers = { "content-type": "application/json" };
  const response = await fetch(urlOf(path), { method: "POST", headers, body: JSON.stringify(body) });
  const answer = await response.json().catch(() => undefined);
  if (!response.ok) throw new Error(answer?.detail ?? `The server answered ${response.status}.`);
  return answer;
}

/** Returns the element that has this `data-role`. */
export const role = (name) => document.querySelector(`[data-role="${name}"]`);

/** Returns the header and the claims of a JWT. It does not verify them; this is the task of the site's server. */
export function decodeToken(token) {
  const part = (text) => {
    const binary = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(binary, (letter) => letter.charCodeAt(0))));
  };
  const [header, claims] = token.split(".");
  return { header: part(header), claims: part(claims) };
}
