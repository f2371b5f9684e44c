// Exchanges the token for this site's session cookie when the login is confirmed.
document.querySelector("qr-login").addEventListener("qr-login:confirmed", async (event) => {
  event.preventDefault(); // acknowledge later: until then, a reload receives the same token again
  const headers = { authorization: `Bearer ${event.detail.web_token}` };
  const { ok } = await fetch("/session", { method: "POST", headers });
  if (ok) await event.target.acknowledge();
  location.assign(ok ? "/" : "/login-failed");
});
