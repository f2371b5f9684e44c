// Shows all states of an element side by side, with logins and decisions that do not change.
// ?element=qr-login or qr-approve; lang=…&theme=… select the language and the theme; only=STATE, which may be repeated,
// selects states.
import { QrApproveElement } from "../js/qr-approve.js";
import { QrLoginElement } from "../js/qr-login.js";
import { post, role } from "./api.js";

const query = new URLSearchParams(location.search);
const lang = query.get("lang") ?? "en";
const theme = query.get("theme") ?? "auto";
const tag = query.get("element") === "qr-approve" ? "qr-approve" : "qr-login";

const user = { name: "Ada Lovelace" };
const userWithLongName = { name: "Bartholomew Featherstonehaugh-Cholmondeley the Third" };
const loginPoses = {
  loading: { qr_image: "" },
  ready: {},
  scanned: { user },
  number: { name: "scanned", user, number: "42" },
  confirmed: { user },
  rejected: { user },
  cancelled: {},
  overload: { name: "cancelled", reason: "overload" },
  expired: {},
  claimed: { name: "expired", reason: "claimed" },
  replaced: {},
  blocked: {},
  reconnecting: { name: "ready", is_connected: false },
  "a long name": { name: "scanned", user: userWithLongName },
  "a long name, a number": { name: "scanned", number: "42", user: userWithLongName },
  "scanned, nameless": { name: "scanned" },
  "number, nameless": { name: "scanned", number: "42" },
  "confirmed, nameless": { name: "confirmed" },
};

const client = {
  ip: "203.0.113.7",
  browser: "Firefox",
  os: "Linux",
  origin: "https://www.example.com",
  client_info: null,
  time: "2026-01-01T10:42:00.000Z",
};
const clientAbroad = {
  ...client,
  location: { city: "Reykjavík", country: "Iceland", country_code: "IS" },
  network: { asn: 64496, organization: "Example Telecom" },
};
const clientWithLongTexts = {
  ...clientAbroad,
  ip: "2001:db8:85a3:8d3:1319:8a2e:370:7348",
  origin: "https://a-very-long-name-of-a-department.services.example.com",
  client_info: "the till in hall 3, beside the entrance of the large exhibition ".repeat(4).trim(),
};
const clientUnknown = { ip: "203.0.113.7", browser: null, os: null, origin: null, client_info: null, time: client.time };
const application = { name: "Grafana", scopes: ["openid", "profile", "email", "offline_access"] };
const numbers = ["05", "17", "42"];
const approvePoses = {
  loading: {},
  asking: { client },
  "asking, another country": { name: "asking", client: clientAbroad, risk: ["country", "network"] },
  "asking, another network": { name: "asking", client, risk: ["network"] },
  numbers: { name: "asking", client, numbers },
  "numbers, another country": { name: "asking", client: clientAbroad, numbers, risk: ["country"] },
  "asking, long texts": { name: "asking", client: clientWithLongTexts },
  "asking, unknown": { name: "asking", client: clientUnknown },
  "asking, an application": { name: "asking", client, application },
  deciding: { client },
  "deciding, no connection": { name: "deciding", client, is_connected: false },
  "loading, busy": { name: "loading", is_connected: false, is_busy: true },
  confirmed: {},
  rejected: {},
  expired: {},
  cancelled: {},
  unknown: {},
  taken: {},
  "decided before": { name: "taken", reason: "already_decided" },
  wrong_number: {},
  logged_out: {},
  "logged out, too old": { name: "logged_out", reason: "insufficient_user_authentication" },
  refused: {},
  no_code: {},
  blocked: {},
};

/** A login or a decision that stays in one state. */
class Pose extends EventTarget {
  constructor({ is_connected = true, is_busy = false, ...state }) {
    super();
    const ends_at = performance.now() + 192_000;
    Object.assign(this, { state: { ends_at, lasts_ms: 300_000, ...state }, is_connected, is_busy });
  }
  start() {}
  refresh() {}
  cancel() {}
  confirm() {}
  reject() {}
  stop() {}
}

customElements.define(
  "qr-approve-pose",
  class extends QrApproveElement {
    static create = ({ code }) => new Pose({ name: code, ...approvePoses[code] });
  },
);

async function defineLoginPose() {
  const { qr_url, qr_image } = await post("/v1/qr-login/generate", { client_info: "qrlogin gallery" });
  customElements.define(
    "qr-login-pose",
    class extends QrLoginElement {
      static create = ({ client_info }) =>
        new Pose({ name: client_info, qr_url, qr_image, ...loginPoses[client_info] });
    },
  );
}
if (tag === "qr-login") await defineLoginPose();

role("element").textContent = `<${tag}>`;
document.documentElement.lang = lang;
if (theme !== "auto") document.documentElement.style.colorScheme = theme;
for (const pose of Object.keys(tag === "qr-login" ? loginPoses : approvePoses)) {
  if (query.has("only") && !query.getAll("only").includes(pose)) continue;
  const element = document.createElement(`${tag}-pose`);
  element.setAttribute(tag === "qr-login" ? "client-info" : "code", pose);
  element.setAttribute("login-url", "/");
  element.dataset.pose = pose;
  const caption = document.createElement("h2");
  caption.textContent = pose;
  const figure = document.createElement("section");
  figure.append(caption, element);
  role("gallery").append(figure);
}

for (const element of ["qr-login", "qr-approve"]) {
  for (const lang of ["en", "zh-CN", "de", "es"]) {
    for (const theme of ["light", "dark"]) {
      const link = document.createElement("a");
      link.href = `?element=${element}&lang=${lang}&theme=${theme}`;
      link.textContent = `${element}, ${lang}, ${theme}`;
      role("views").append(link);
    }
  }
}
