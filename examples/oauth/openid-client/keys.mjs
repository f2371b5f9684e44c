// Makes the key pair of service.mjs in DATA_DIR: service-key.json for the program, service-keys.json for the server.
import { generateKeyPairSync, randomUUID } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const { DATA_DIR = "data" } = process.env;
const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
const kid = randomUUID();
const write = (name, content, mode) => writeFileSync(join(DATA_DIR, name), JSON.stringify(content), { mode });
mkdirSync(DATA_DIR, { recursive: true });
write("service-key.json", { ...privateKey.export({ format: "jwk" }), kid, alg: "ES256", use: "sig" }, 0o600);
const published = { ...publicKey.export({ format: "jwk" }), kid, alg: "ES256", use: "sig" };
write("service-keys.json", { keys: [published] }, 0o644);
