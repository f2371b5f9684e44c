// A site that logs its users in with openid-client: authorization code with PKCE, userinfo, refresh, and logout at the
// provider. Its pages are "/", "/login" and "/callback", and "/refresh" and "/logout" are forms.
import express from "express";
import session from "express-session";
import * as client from "openid-client";

const { CLIENT_SECRET, ISSUER = "http://localhost:8080", PORT = "3000" } = process.env;
const url = new URL(process.env.URL ?? `http://127.0.0.1:${PORT}/`);

// By default, openid-client verifies no signature of an ID token that it received from the token endpoint.
const execute = [client.enableNonRepudiationChecks];
// By default, it refuses http.
if (new URL(ISSUER).protocol === "http:") execute.push(client.allowInsecureRequests);
const provider = await client.discovery(new URL(ISSUER), "site", CLIENT_SECRET, undefined, { execute });

const site = express();
site.use(session({
  secret: process.env.COOKIE_SECRET ?? client.randomState(), resave: false, saveUninitialized: false,
  cookie: { httpOnly: true, sameSite: "lax", secure: url.protocol === "https:" },
}));

const escape = (text) => String(text).replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);

site.get("/", (request, response) => {
  const { user } = request.session;
  response.send(user
    ? `<!doctype html><title>Site</title><p>You are <b id="user">${escape(user.name)}</b>, ${escape(user.email ?? "no e-mail address")}.</p>
       <form method="post" action="/refresh"><button>Refresh</button></form>
       <form method="post" action="/logout"><button>Log out</button></form>`
    : `<!doctype html><title>Site</title><a href="/login">Log in</a>`);
});

site.get("/login", async (request, response) => {
  const checks = {
    pkceCodeVerifier: client.randomPKCECodeVerifier(), expectedState: client.randomState(),
    expectedNonce: client.randomNonce(),
  };
  request.session.checks = checks;
  response.redirect(client.buildAuthorizationUrl(provider, {
    redirect_uri: new URL("/callback", url).href,
    scope: "openid profile email offline_access",
    code_challenge: await client.calculatePKCECodeChallenge(checks.pkceCodeVerifier),
    code_challenge_method: "S256",
    state: checks.expectedState,
    nonce: checks.expectedNonce,
    // OpenID Connect grants offline_access only after the user was asked.
    prompt: "consent",
  }).href);
});

site.get("/callback", async (request, response) => {
  const { checks } = request.session;
  delete request.session.checks;
  const tokens = await client.authorizationCodeGrant(provider, new URL(request.originalUrl, url), checks);
  const user = await client.fetchUserInfo(provider, tokens.access_token, tokens.claims().sub);
  request.session.regenerate(() => {
    Object.assign(request.session, { user, idToken: tokens.id_token, refreshToken: tokens.refresh_token });
    response.redirect("/");
  });
});

site.post("/refresh", async (request, response) => {
  const { refreshToken, user } = request.session;
  const tokens = await client.refreshTokenGrant(provider, refreshToken);
  // Each refresh token is used once. The next one is kept before anything else can fail.
  request.session.refreshToken = tokens.refresh_token;
  request.session.user = await client.fetchUserInfo(provider, tokens.access_token, user.sub);
  response.redirect("/");
});

site.post("/logout", (request, response) => {
  const { idToken } = request.session;
  request.session.destroy(() => {
    response.redirect(client.buildEndSessionUrl(provider, {
      post_logout_redirect_uri: url.href, id_token_hint: idToken,
    }).href);
  });
});

site.use((error, _request, response, _next) => {
  console.error(error);
  response.status(400).send(`<!doctype html><title>Site</title><p id="error">${escape(error.error ?? error.code)}</p>`);
});

site.listen(Number(PORT), "127.0.0.1");
