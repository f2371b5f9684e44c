// The demo's phone: takes the place of the site's own app, in which a user is logged in.
import { Refusal, get, initials, post, role } from "./api.js";

const card = document.querySelector(".card");
const code = location.pathname.split("/").pop();
let authorization;

const titles = {
  choosing: "Who are you?",
  loading: "One moment…",
  asking: "Log in?",
  deciding: "Log in?",
  confirmed: "Done",
  rejected: "Rejected",
  failed: "That did not work",
};
const marks = { confirmed: "✓", rejected: "✕", failed: "!" };
const failures = {
  expired: "This code has expired. Get a new one on the page that showed it.",
  cancelled: "The browser has cancelled this login.",
  not_found: "This code is not known. Get a new one on the page that showed it.",
  already_scanned: "Another user has scanned this code.",
  already_decided: "This login has been decided already.",
  wrong_user: "Another user has scanned this code.",
  number_mismatch: "That is not the number that the screen shows. The login was rejected.",
  risk: "The screen is in another country or network than this phone. The login was refused.",
};

function show(state, message = "") {
  card.dataset.state = state;
  role("title").textContent = titles[state];
  role("mark").textContent = marks[state] ?? "";
  role("message").textContent = message;
  for (const button of document.querySelectorAll(".actions button")) button.disabled = state === "deciding";
}

function fail(error) {
  if (error instanceof Refusal) show("failed", failures[error.code] ?? error.message);
  else show("failed", "The server cannot be reached.");
}

async function choose(user) {
  show("loading");
  try {
    const { app_token } = await post("/demo/token", { user: user.id });
    authorization = { authorization: `Bearer ${app_token}` };
    const { client, numbers, risk } = await post("/v1/qr-login/scan", { code }, authorization);
    role("name").textContent = user.name;
    describe(client);
    warn(risk ?? []);
    offer(numbers ?? []);
    show("asking");
  } catch (error) {
    fail(error);
  }
}

/** Creates an element with these properties. */
const make = (tag, properties) => Object.assign(document.createElement(tag), properties);

/** Shows the browser that requested the code. */
function describe(client) {
  const facts = {
    Browser: client.browser,
    System: client.os,
    Address: client.ip,
    Place: [client.location?.city, client.location?.country].filter(Boolean).join(", "),
    Network: client.network?.organization,
    Page: client.origin,
    "Says it is": client.client_info,
  };
  role("facts").replaceChildren();
  for (const [name, value] of Object.entries(facts)) {
    if (value) role("facts").append(make("dt", { textContent: name }), make("dd", { textContent: value }));
  }
}

/** Warns of a browser that is in another location than this phone. */
function warn(risk) {
  const where = risk.includes("country") ? "another country" : "another network";
  role("risk").textContent = `Careful: that screen is in ${where} than this phone.`;
  role("risk").hidden = !risk.length;
}

/** With number matching, the user confirms with the number that the browser shows. */
function offer(numbers) {
  const button = (number) =>
    make("button", { type: "button", textContent: number, onclick: () => decide("confirm", number) });
  role("numbers").replaceChildren(...numbers.map(button));
  role("numbers").hidden = !numbers.length;
  role("yes").hidden = numbers.length > 0;
  if (numbers.length) role("warning").textContent = "Pick the number that you see on the screen in front of you.";
}

async function decide(verdict, number) {
  show("deciding");
  try {
    const { status } = await post(`/v1/qr-login/${verdict}`, { code, number }, authorization);
    show(status, status === "confirmed" ? "The browser is logged in." : "The login is rejected.");
  } catch (error) {
    fail(error);
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-action]");
  if (button) decide(button.dataset.action);
});

function listItem(user) {
  const avatar = make("span", { className: "avatar", textContent: initials(user.name) });
  const button = make("button", { type: "button", onclick: () => choose(user) });
  button.append(avatar, user.name);
  const item = make("li");
  item.append(button);
  return item;
}

get("/demo/users").then((users) => role("people").replaceChildren(...users.map(listItem)), fail);
