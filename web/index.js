// The page that logs in: shows a code, waits on the WebSocket, and says what happens.
import { Refusal, decodeToken, get, initials, post, role } from "./api.js";

const card = document.querySelector(".card");
const qr = document.querySelector(".qr");
const STORED = "qrlogin.session_id";
/** Close codes after which nobody comes back (PROTOCOL.md). */
const FINAL = new Set([1000, 1002, 1007, 1009]);
const REPLACED = 4409;
const MAX_RECONNECT_MS = 10_000;

let session; // {id, socket, endsAt, totalSeconds, attempts, timer}
let user;

const messages = {
  loading: "Getting a code…",
  ready: "Scan this code with the phone on which you are logged in.",
  scanned: "Check your phone and confirm there.",
  number: "On your phone, pick this number.",
  confirmed: "You are logged in.",
  rejected: "The login was rejected on the phone.",
  cancelled: "You cancelled the login.",
  overload: "Too many people are logging in. Please get a new code.",
  expired: "This code has expired.",
  replaced: "This login goes on in another tab.",
  blocked: "The server cannot be reached.",
};
const marks = { rejected: "✕", cancelled: "–", replaced: "⧉", blocked: "!" };

function show(state, detail) {
  card.dataset.state = state;
  role("message").textContent = detail ?? messages[state];
  role("mark").textContent = marks[state] ?? "";
  role("notice").hidden = true;
}

/** Leaves the running session, whatever state it is in. */
function leave() {
  clearTimeout(session?.timer);
  if (session?.socket) {
    session.socket.onmessage = session.socket.onclose = null;
    session.socket.close(1000);
  }
  session = user = undefined;
}

function begin(id, answer) {
  session = { id, attempts: 0, totalSeconds: answer.expires_in, endsAt: performance.now() + answer.expires_in * 1000 };
  showCode(answer);
  sessionStorage.setItem(STORED, id);
}

/** The code changes from time to time, if the server rotates it. */
function showCode({ qr_image, qr_url }) {
  if (!qr_image) return;
  qr.src = qr_image;
  role("open").href = qr_url;
  role("url").textContent = qr_url;
}

async function refresh() {
  leave();
  sessionStorage.removeItem(STORED);
  show("loading");
  try {
    const answer = await post("/v1/qr-login/generate", { client_info: "qrlogin demo page" });
    begin(answer.session_id, answer);
    wait();
  } catch (error) {
    show("blocked", error instanceof Refusal ? error.message : messages.blocked);
  }
}

/** After a reload: the session that this tab had, if it can still be decided or was decided meanwhile. */
async function resume() {
  const id = sessionStorage.getItem(STORED);
  if (!id) return refresh();
  try {
    const answer = await get("/v1/qr-login/status", { "x-qr-session": id });
    if (answer.claimed || ["expired", "cancelled", "rejected"].includes(answer.status)) return refresh();
    begin(id, answer);
    wait();
  } catch {
    refresh();
  }
}

function wait() {
  const waiting = session;
  const url = new URL(`/v1/ws/qr/${waiting.id}`, location.href.replace(/^http/, "ws"));
  const socket = new WebSocket(url, "qrlogin.ack");
  waiting.socket = socket;
  socket.onmessage = ({ data }) => {
    waiting.attempts = 0;
    told(JSON.parse(data), socket);
  };
  socket.onclose = ({ code, reason }) => {
    if (session !== waiting || FINAL.has(code)) return;
    if (code === REPLACED) return show("replaced");
    role("notice").hidden = false;
    const told = /retry_after_ms=(\d+)/.exec(reason);
    const backoff = Math.min(MAX_RECONNECT_MS, 500 * 2 ** waiting.attempts++);
    waiting.timer = setTimeout(() => comeBack(waiting), told ? Number(told[1]) : Math.random() * backoff);
  };
}

/** A session that is gone cannot be waited for: ask first, since a refused WebSocket does not say why. */
async function comeBack(waiting) {
  try {
    const answer = await get("/v1/qr-login/status", { "x-qr-session": waiting.id });
    if (session === waiting) showCode(answer);
  } catch (error) {
    if (session === waiting && error instanceof Refusal && error.status === 404) return show("expired");
  }
  if (session === waiting) wait();
}

function told(frame, socket) {
  user = frame.user ?? user;
  switch (frame.status) {
    case "pending":
      session.endsAt = performance.now() + frame.expires_in * 1000;
      return show("ready");
    case "rotated":
      return showCode(frame);
    case "scanned":
      showUser();
      showNumber(frame.number);
      return show("scanned", frame.number && messages.number);
    case "confirmed":
      if (frame.claimed) return show("expired", "This login was completed before.");
      socket.send("ack");
      sessionStorage.removeItem(STORED);
      showUser(frame.web_token);
      return show("confirmed");
    default:
      sessionStorage.removeItem(STORED);
      return show(frame.status, frame.reason === "overload" ? messages.overload : undefined);
  }
}

/** What the phone's owner must pick, if the server compares numbers. */
function showNumber(number) {
  role("number").textContent = number ?? "";
  role("number").hidden = !number;
}

function showUser(token) {
  const decoded = token && decodeToken(token);
  const name = user?.name ?? decoded?.claims.sub ?? "Somebody";
  role("name").textContent = name;
  role("avatar").textContent = initials(name);
  if (decoded) role("token").textContent = JSON.stringify(decoded, null, 2);
}

async function cancel() {
  try {
    // The answer comes over the WebSocket too.
    await post("/v1/qr-login/cancel", { session_id: session.id });
  } catch (error) {
    if (!(error instanceof Refusal)) show("blocked");
  }
}

async function copy({ target }) {
  await navigator.clipboard.writeText(role("url").textContent);
  target.textContent = "Copied";
  setTimeout(() => (target.textContent = "Copy"), 2000);
}

setInterval(() => {
  if (!session) return;
  const left = Math.max(0, session.endsAt - performance.now());
  const seconds = Math.ceil(left / 1000);
  role("left").textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
  role("ring").setAttribute("stroke-dashoffset", String(1 - Math.min(1, left / 1000 / session.totalSeconds)));
}, 250);

const actions = { refresh, cancel, copy, resume: () => { show("loading"); wait(); } };
document.addEventListener("click", (event) => {
  const target = event.target.closest("[data-action]");
  if (target) actions[target.dataset.action]({ target });
});
resume();
