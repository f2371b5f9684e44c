// The demo's phone: plays the part of the site's own app, on which somebody is logged in.
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
  already_scanned: "Somebody else has scanned this code.",
  already_decided: "This login has been decided already.",
  wrong_user: "Somebody else has scanned this code.",
};

function show(state, message = "") {
  card.dataset.state = state;
  role("title").textContent = titles[state];
  role("mark").textContent = marks[state] ?? "";
  role("message").textContent = message;
  for (const button of document.querySelectorAll("[data-action]")) button.disabled = state === "deciding";
}

function fail(error) {
  const known = error instanceof Refusal ? failures[error.code] ?? error.message : "The server cannot be reached.";
  show("failed", known);
}

async function choose(user) {
  show("loading");
  try {
    const { app_token } = await post("/demo/token", { user: user.id });
    authorization = { authorization: `Bearer ${app_token}` };
    const { client } = await post("/v1/qr-login/scan", { code }, authorization);
    role("name").textContent = user.name;
    describe(client);
    show("asking");
  } catch (error) {
    fail(error);
  }
}

function describe(client) {
  const facts = {
    Browser: client.browser,
    System: client.os,
    Address: client.ip,
    Page: client.origin,
    "Says it is": client.client_info,
  };
  role("facts").replaceChildren(...Object.entries(facts).filter(([, value]) => value).flatMap(([name, value]) => {
    const term = Object.assign(document.createElement("dt"), { textContent: name });
    return [term, Object.assign(document.createElement("dd"), { textContent: value })];
  }));
}

async function decide(verdict) {
  show("deciding");
  try {
    const { status } = await post(`/v1/qr-login/${verdict}`, { code }, authorization);
    show(status, status === "confirmed" ? "The browser is logged in." : "The browser was told no.");
  } catch (error) {
    fail(error);
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-action]");
  if (button) decide(button.dataset.action);
});

function person(user) {
  const avatar = Object.assign(document.createElement("span"), { className: "avatar", textContent: initials(user.name) });
  const button = Object.assign(document.createElement("button"), { type: "button", onclick: () => choose(user) });
  button.append(avatar, user.name);
  const item = document.createElement("li");
  item.append(button);
  return item;
}

get("/demo/users").then((users) => role("people").replaceChildren(...users.map(person)), fail);
