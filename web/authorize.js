// The page of an authorization request: goes on to the client when the login is decided. Loaded before <qr-login>, so that
// no event is missed.
const login = document.querySelector("qr-login");
for (const type of ["confirmed", "rejected", "cancelled"]) {
  login.addEventListener(`qr-login:${type}`, () => location.replace(login.dataset.next));
}
