// A service without a browser that authenticates with a key pair (private_key_jwt): device grant, introspection and
// revocation. Node runs keys.mjs once before.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as client from "openid-client";

const { DATA_DIR = "data", ISSUER = "http://localhost:8080" } = process.env;

const { kid, ...jwk } = JSON.parse(readFileSync(join(DATA_DIR, "service-key.json"), "utf8"));
const algorithm = { name: "ECDSA", namedCurve: "P-256" };
const key = await crypto.subtle.importKey("jwk", jwk, algorithm, false, ["sign"]);
const options = new URL(ISSUER).protocol === "http:" ? { execute: [client.allowInsecureRequests] } : {};
const authentication = client.PrivateKeyJwt({ key, kid });
const provider = await client.discovery(new URL(ISSUER), "service", undefined, authentication, options);

const started = await client.initiateDeviceAuthorization(provider, { scope: "openid email offline_access" });
console.log(`Open ${started.verification_uri} and type ${started.user_code}, or scan ${started.verification_uri_complete}`);
const tokens = await client.pollDeviceAuthorizationGrant(provider, started);
const print = async (token) => console.log(JSON.stringify(await client.tokenIntrospection(provider, token)));
await print(tokens.access_token);
await print(tokens.refresh_token);
await client.tokenRevocation(provider, tokens.refresh_token);
await print(tokens.refresh_token);
