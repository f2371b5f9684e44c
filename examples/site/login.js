// Exchanges the token for this site's session cookie when the login is confirmed.
document.querySelector("qr-login").addEventListener("qr-login:confirmed", async (event) => {
  // Acknowledge after the exchange. Until then, a reload of the page receives the same token again.
  event.preventDefault();
  const headers = { authorization: `Bearer ${event.detail.web_token}` };
  const { ok } = await fetch("/session", { method: "POST", headers });
  if (ok) await event.target.acknowledge();
  location.assign(ok ? "/" : "/login-failed");
});
