// Shows all states of <qr-login> side by side, with logins that do not change.
// ?lang=…&theme=… select the language and the theme; only=STATE, which may be repeated, selects states.
import { QrLoginElement } from "../js/qr-login.js";
import { post, role } from "./api.js";

const query = new URLSearchParams(location.search);
const lang = query.get("lang") ?? "en";
const theme = query.get("theme") ?? "auto";

const user = { name: "Ada Lovelace" };
const userWithLongName = { name: "Bartholomew Featherstonehaugh-Cholmondeley the Third" };
const poses = {
  loading: {},
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

/** A login that stays in one state. */
class Pose extends EventTarget {
  constructor({ is_connected = true, ...state }) {
    super();
    Object.assign(this, { state, is_connected });
  }
  start() {}
  refresh() {}
  cancel() {}
  stop() {}
}

const { qr_url, qr_image } = await post("/v1/qr-login/generate", { client_info: "qrlogin gallery" });

customElements.define(
  "qr-login-pose",
  class extends QrLoginElement {
    static create = ({ client_info }) => {
      const ends_at = performance.now() + 192_000;
      return new Pose({ name: client_info, qr_url, qr_image, ends_at, lasts_ms: 300_000, ...poses[client_info] });
    };
  },
);

document.documentElement.lang = lang;
if (theme !== "auto") document.documentElement.style.colorScheme = theme;
for (const pose of Object.keys(poses)) {
  if (query.has("only") && !query.getAll("only").includes(pose)) continue;
  const element = document.createElement("qr-login-pose");
  element.setAttribute("client-info", pose);
  element.dataset.pose = pose;
  const caption = document.createElement("h2");
  caption.textContent = pose;
  const figure = document.createElement("section");
  figure.append(caption, element);
  role("gallery").append(figure);
}

for (const tag of ["en", "zh-CN", "de", "es"]) {
  for (const theme of ["light", "dark"]) {
    const link = document.createElement("a");
    link.href = `?lang=${tag}&theme=${theme}`;
    link.textContent = `${tag}, ${theme}`;
    role("views").append(link);
  }
}
