// The page of an authorization request: goes on to the client when the login is decided. Loaded before <qr-login>, so that
// no event is missed.
const login = document.querySelector("qr-login");
for (const type of ["confirmed", "rejected", "cancelled"]) {
  login.addEventListener(`qr-login:${type}`, () => location.replace(login.dataset.next));
}
// Without cookies, the login would end in a page that says so, so the browser goes there before a scan. Chromium sets
// navigator.cookieEnabled even if the user has blocked cookies.
document.cookie = "cookies=allowed; SameSite=Strict; Max-Age=5";
if (!document.cookie.includes("cookies=allowed")) location.assign(login.dataset.next);
