// A service without a browser that authenticates with a key pair (private_key_jwt), and receives ID tokens signed with
// EdDSA: device grant, introspection and revocation. Run keys.mjs once before.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as client from "openid-client";

const { DATA_DIR = "data", ISSUER = "http://localhost:8080" } = process.env;

const { kid, ...jwk } = JSON.parse(readFileSync(join(DATA_DIR, "service-key.json"), "utf8"));
const algorithm = { name: "ECDSA", namedCurve: "P-256" };
const key = await crypto.subtle.importKey("jwk", jwk, algorithm, false, ["sign"]);
// By default, openid-client verifies no signature of an ID token that it received from the token endpoint.
const execute = [client.enableNonRepudiationChecks];
if (new URL(ISSUER).protocol === "http:") execute.push(client.allowInsecureRequests);
const authentication = client.PrivateKeyJwt({ key, kid });
const metadata = { id_token_signed_response_alg: "EdDSA" };
const provider = await client.discovery(new URL(ISSUER), "service", metadata, authentication, { execute });

const started = await client.initiateDeviceAuthorization(provider, { scope: "openid email offline_access" });
const { user_code, verification_uri, verification_uri_complete } = started;
console.log(`Open ${verification_uri} and type ${user_code}, or scan ${verification_uri_complete}`);
const tokens = await client.pollDeviceAuthorizationGrant(provider, started);
const print = async (token) => console.log(JSON.stringify(await client.tokenIntrospection(provider, token)));
await print(tokens.access_token);
await print(tokens.refresh_token);
await client.tokenRevocation(provider, tokens.refresh_token);
await print(tokens.refresh_token);
