// A site with Express: users log in with a form or with qrlogin, and approve logins on a page of the site.
import express from "express";
import session from "express-session";
import { createRemoteJWKSet, jwtVerify, SignJWT } from "jose";
import { randomBytes } from "node:crypto";

const qrlogin = process.env.LOGIN_URL ?? "http://localhost:8080"; // `public_url` of qrlogin
const site = process.env.SITE_URL ?? "http://localhost:3000"; // the URL of this site
const secret = new TextEncoder().encode(process.env.APP_TOKEN_SECRET); // `app_auth.hmac_secret` of qrlogin
if (secret.length < 32) throw new Error("set APP_TOKEN_SECRET to the value of app_auth.hmac_secret");
const people = { ann: "Ann Miller", bob: "Bob Jones", li: "李雷" }; // in your database, with hashes of passwords

const escape = (text) => text.replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);
const page = (body) => `<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>Example site</title><main>${body}</main></html>`;
const home = (name) => page(`<h1>Hello, <span id="user">${escape(name)}</span></h1>
<form method="post" action="/logout"><button>Log out</button></form>`);
const scan = page(`<h1>Log in</h1>
<script type="module" src="${qrlogin}/js/qr-login.js" crossorigin="anonymous"></script>

<qr-login endpoint="${qrlogin}"></qr-login>

<script type="module" src="/login.js"></script>
<p><a href="/login">Log in without a phone</a></p>`);
const login = (next) => page(`<h1>Log in</h1>
<script type="module" src="${qrlogin}/js/keep-code.js" crossorigin="anonymous"></script>
<form method="post"><input type="hidden" name="next" value="${escape(next)}">
<p><label>User <select name="user">${Object.keys(people).map((id) => `<option>${id}</option>`).join("")}</select></label>
<p><label>Password <input name="password" type="password" placeholder="any, in this example"></label>
<p><button>Log in</button></form>`);
const approve = (name) => page(`
<script type="module" src="${qrlogin}/js/qr-approve.js" crossorigin="anonymous"></script>

<qr-approve endpoint="${qrlogin}" token-url="/approve/token" login-url="/login">
  <p slot="header">You are ${escape(name)}.</p>
</qr-approve>`);

const policy = `default-src 'none'; script-src 'self' ${qrlogin}; img-src data:; form-action 'self'; base-uri 'none';
  connect-src 'self' ${qrlogin} ${qrlogin.replace(/^http/, "ws")}; frame-ancestors 'none';
  require-trusted-types-for 'script'`.replace(/\s+/g, " ");

const app = express();
app.set("trust proxy", "loopback"); // your reverse proxy with TLS
app.use((request, response, next) => {
  response.set({ "Content-Security-Policy": policy, "Cache-Control": "no-store" });
  const { origin = site } = request.headers; // browsers send it with each POST
  if (request.method === "POST" && origin !== site) return response.sendStatus(403);
  next();
});
app.use(express.static(new URL("public", import.meta.url).pathname), express.urlencoded());
// Sessions are in memory here. Give a real site a store (https://www.npmjs.com/package/express-session).
const cookie = { httpOnly: true, sameSite: "lax", secure: site.startsWith("https:"), maxAge: 8 * 3600_000 };
const cookieSecret = process.env.COOKIE_SECRET ?? randomBytes(32).toString("hex");
app.use(session({ name: "session", secret: cookieSecret, cookie, resave: false, saveUninitialized: false }));

/** Begins a session with a new id, against session fixation. */
const begin = (request, user) =>
  new Promise((begun, failed) => {
    request.session.regenerate((error) => {
      if (error) return failed(error);
      request.session.user = user;
      begun();
    });
  });
const seconds = () => Math.floor(Date.now() / 1000);

app.get("/", ({ session: { user } }, response) => response.send(user ? home(user.name) : scan));
app.get("/login-failed", (_, response) => response.send(page('<h1>Login failed</h1><a href="/">Try again</a>')));
app.get("/login", ({ query: { next } }, response) => response.send(login(String(next ?? "/"))));
app.post("/login", async (request, response) => {
  const { user: id, next } = request.body ?? {};
  if (!Object.hasOwn(people, id)) return response.redirect(303, "/login-failed"); // check the password here
  await begin(request, { id, name: people[id], loggedInAt: seconds() });
  // Never redirects to another site: the approve page is the only other page.
  response.redirect(303, /^\/approve(#|$)/.test(next) ? next : "/");
});
app.post("/logout", (request, response) => {
  request.session.destroy(() => response.clearCookie("session").redirect(303, "/"));
});

// The phone: `approve.url` of qrlogin is this page, with `#{code}`. The fragment survives the redirect.
app.get("/approve", ({ session: { user } }, response) =>
  user ? response.send(approve(user.name)) : response.redirect(303, "/login?next=/approve"));

app.post("/approve/token", async (request, response) => {
  if (request.get("X-QR-Approve") !== "1") return response.sendStatus(400);
  const { user } = request.session;
  if (!user) return response.sendStatus(401);
  const token = new SignJWT({ sub: user.id, name: user.name, auth_time: user.loggedInAt })
    .setProtectedHeader({ alg: "HS256" }).setIssuedAt().setExpirationTime("60s");
  response.set("Cache-Control", "no-store").json({ token: await token.sign(secret) });
});

// The browser with the code: a `web_token` is exchanged once for a session.
const keys = createRemoteJWKSet(new URL(`${qrlogin}/.well-known/jwks.json`));
const used = new Map(); // the expiry of each exchanged token by its `jti`; in your database
function seenBefore({ jti, exp }) {
  for (const [old, expiry] of used) if (expiry < seconds()) used.delete(old);
  return used.has(jti) || !used.set(jti, exp);
}

app.post("/session", async (request, response) => {
  const token = request.get("authorization")?.slice(7) ?? "";
  const verified = await jwtVerify(token, keys, {
    issuer: qrlogin, audience: qrlogin, algorithms: ["EdDSA"], typ: "qrlogin+jwt",
    requiredClaims: ["sub", "exp", "jti"],
  }).catch(() => null);
  if (!verified || seenBefore(verified.payload)) return response.sendStatus(401); // accept each jti once
  const { sub } = verified.payload;
  await begin(request, { id: sub, name: people[sub] ?? sub });                    // your own cookie
  response.sendStatus(204);
});

app.listen(Number(new URL(site).port || 3000), "127.0.0.1", () => console.log(`the site is at ${site}`));
