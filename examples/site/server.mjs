// The backend of a site that logs users in with qrlogin: it serves the page with the element, verifies the `web_token`
// and sets a session cookie. Settings: LOGIN_URL (`public_url` of qrlogin) and SITE_URL (this site's own URL).
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRemoteJWKSet, jwtVerify } from "jose";

const qrlogin = process.env.LOGIN_URL ?? "http://localhost:8080";
const site = new URL(process.env.SITE_URL ?? "http://localhost:3000");
const keys = createRemoteJWKSet(new URL(`${qrlogin}/.well-known/jwks.json`));
const script = readFileSync(new URL("login.js", import.meta.url));
const SESSION_SECONDS = 8 * 3600;

// A real site has both in its database, so that all of its processes share them and a restart keeps them.
/** The user and the end of each session, by its id, which is the value of the cookie. */
const sessions = new Map();
/** The expiry of each token that was exchanged, by its `jti`. */
const used = new Map();

/** Returns the user of a valid `web_token` that was not exchanged before, or `null`. */
async function verify(token) {
  const options = { issuer: qrlogin, audience: qrlogin, algorithms: ["EdDSA"], typ: "qrlogin+jwt" };
  const { payload } = await jwtVerify(token, keys, { ...options, requiredClaims: ["sub", "exp", "jti"] });
  // No `await` between the look-up and the entry, so that two requests with one token cannot both pass.
  if (used.has(payload.jti)) return null;
  used.set(payload.jti, payload.exp * 1000);
  return payload.sub;
}

/** Returns the id of the request's session cookie, or `undefined`. */
const cookie = (request) => /(?:^|; )session=([\w-]+)/.exec(request.headers.cookie ?? "")?.[1];

/** Returns the user of the request's session, or `undefined`. */
function user(request) {
  const session = sessions.get(cookie(request));
  return session && session.ends > Date.now() ? session.user : undefined;
}

function setCookie(response, id, seconds) {
  const secure = site.protocol === "https:" ? "; Secure" : "";
  response.setHeader("set-cookie", `session=${id}; Path=/; Max-Age=${seconds}; HttpOnly; SameSite=Lax${secure}`);
}

const escape = (text) => text.replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);
const page = (body) => `<!doctype html><html lang="en"><meta charset="utf-8"><title>Example site</title>${body}</html>`;
const loginPage = page(`<h1>Log in</h1>
<script type="module" src="${escape(qrlogin)}/js/qr-login.js" crossorigin="anonymous"></script>
<script type="module" src="/login.js"></script>
<qr-login endpoint="${escape(qrlogin)}"></qr-login>`);
const failedPage = page('<h1>Login failed</h1><p><a href="/">Try again</a></p>');
const homePage = (name) => page(`<h1>Hello, <span id="user">${escape(name)}</span></h1>
<form method="post" action="/logout"><button>Log out</button></form>`);

// The policy that the element works under (clients/js/README.md), and this site's own script and requests.
const origin = new URL(qrlogin).origin;
const policy = [
  "default-src 'none'",
  `script-src 'self' ${origin}`,
  `connect-src 'self' ${origin} ${origin.replace(/^http/, "ws")}`,
  "img-src data:",
  "require-trusted-types-for 'script'",
  "form-action 'self'",
  "frame-ancestors 'none'",
  "base-uri 'none'",
].join("; ");

const routes = {
  "GET /": (request, response) => {
    const name = user(request);
    response.setHeader("content-type", "text/html");
    response.end(name === undefined ? loginPage : homePage(name));
  },
  "GET /login-failed": (_, response) => response.setHeader("content-type", "text/html").end(failedPage),
  "GET /login.js": (_, response) => response.setHeader("content-type", "text/javascript").end(script),
  // A page of another origin cannot call this, because a request with `Authorization` needs a CORS response.
  "POST /session": async (request, response) => {
    const token = /^Bearer (.+)$/.exec(request.headers.authorization ?? "")?.[1] ?? "";
    const name = await verify(token).catch((error) => {
      console.warn(`token refused: ${error.code ?? error.name}`); // and never the token itself
      return null;
    });
    if (name === null) return response.writeHead(401).end();
    const id = randomBytes(32).toString("base64url"); // a new id at each login, against session fixation
    sessions.set(id, { user: name, ends: Date.now() + SESSION_SECONDS * 1000 });
    setCookie(response, id, SESSION_SECONDS);
    response.writeHead(204).end();
  },
  "POST /logout": (request, response) => {
    sessions.delete(cookie(request));
    setCookie(response, "", 0);
    response.writeHead(303, { location: "/" }).end();
  },
};

createServer(async (request, response) => {
  response.setHeader("content-security-policy", policy).setHeader("cache-control", "no-store");
  const route = routes[`${request.method} ${request.url.split("?")[0]}`];
  if (route) await route(request, response);
  else response.writeHead(404).end();
}).listen(Number(site.port || 3000), "127.0.0.1", () => console.log(`the site is at ${site.origin}`));

setInterval(() => {
  for (const [id, { ends }] of sessions) if (ends <= Date.now()) sessions.delete(id);
  for (const [id, expiry] of used) if (expiry <= Date.now()) used.delete(id);
}, 60_000);
