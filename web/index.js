// The page that logs in: shows the claims of the token that <qr-login> receives.
import "../js/qr-login.js";
import { decodeToken, role } from "./api.js";

const login = document.querySelector("qr-login");

// Attributes can be set in the URL: ?lang=zh-CN&theme=dark&auto-refresh.
for (const [name, value] of new URLSearchParams(location.search)) {
  if (["lang", "theme", "auto-refresh"].includes(name)) login.setAttribute(name, value);
}

login.addEventListener("qr-login:confirmed", ({ detail }) => {
  // A site sends the token to its own server, which verifies it and sets its own cookie.
  role("claims").textContent = JSON.stringify(decodeToken(detail.web_token), null, 2);
  role("token").hidden = false;
});
login.addEventListener("qr-login:ready", () => {
  role("token").hidden = true;
});
