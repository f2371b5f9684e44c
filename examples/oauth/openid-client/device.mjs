// A program without a browser that logs its user in with openid-client: the device grant (RFC 8628). It prints the URL
// for the phone, waits for the decision, and prints the claims of the user.
import * as client from "openid-client";

const { ISSUER = "http://localhost:8080" } = process.env;

const options = new URL(ISSUER).protocol === "http:" ? { execute: [client.allowInsecureRequests] } : {};
const provider = await client.discovery(new URL(ISSUER), "program", undefined, client.None(), options);
const started = await client.initiateDeviceAuthorization(provider, { scope: "openid profile email" });
const { user_code, verification_uri, verification_uri_complete } = started;
console.log(`Open ${verification_uri} and type ${user_code}, or scan ${verification_uri_complete}`);
const tokens = await client.pollDeviceAuthorizationGrant(provider, started);
const { sub } = tokens.claims();
console.log(JSON.stringify(await client.fetchUserInfo(provider, tokens.access_token, sub)));
