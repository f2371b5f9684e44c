// A site that logs its users in with Auth.js. Auth.js has the pages "/auth/signin" and "/auth/signout". It reads the
// issuer, the client id and its secrets from the environment.
import { ExpressAuth, getSession } from "@auth/express";
import express from "express";

const qrlogin = { id: "qrlogin", name: "QR code", type: "oidc", checks: ["pkce", "state", "nonce"] };
const auth = { providers: [qrlogin], trustHost: true };

const site = express();
site.use("/auth", ExpressAuth(auth));

const escape = (text) => String(text).replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);

site.get("/", async (request, response) => {
  const session = await getSession(request, auth);
  response.send(session
    ? `<!doctype html><title>Site</title>
       <p>You are <b id="user">${escape(session.user.name)}</b>, ${escape(session.user.email)}.</p>
       <a href="/auth/signout">Log out</a>`
    : `<!doctype html><title>Site</title><a href="/auth/signin">Log in</a>`);
});

site.listen(Number(process.env.PORT ?? "3000"), "127.0.0.1");
