// A page in the process of the test: an instance of core.js or approve-core.js with the globals of a browser that it
// uses, a clock that the test sets, and a record of what it has sent.
import assert from "node:assert/strict";
import { WebSocket } from "ws";
import { Server, disconnect } from "./server.js";

/** Maximum real time until a condition holds. */
const PATIENCE_MS = 3000;
const EVENTS = [
  "ready", "scanned", "number", "confirmed", "rejected", "cancelled", "expired", "replaced", "refresh", "error",
];
const APPROVE_EVENTS = [
  "asking", "deciding", "confirmed", "rejected", "expired", "cancelled", "unknown", "taken", "wrong-number",
  "logged-out", "refused", "no-code", "error",
];
/** Routes that fail for a page that waits on each transport. */
export const transports = { ws: [], sse: ["ws"], poll: ["ws", "sse"] };

const { setTimeout, setInterval, clearTimeout, clearInterval, fetch, performance } = globalThis;
const real = { now: performance.now.bind(performance), date: Date.now, timeout: AbortSignal.timeout };

/** Waits until the condition holds. */
export async function until(condition, what = condition) {
  const deadline = real.now() + PATIENCE_MS;
  while (!condition()) {
    if (real.now() > deadline) assert.fail(`did not happen: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

/** Lets promises and local connections that are ready make progress. */
async function settle() {
  for (let turn = 0; turn < 4; turn++) await new Promise((resolve) => setImmediate(resolve));
}

/** Waits until the login has this state. */
export const state = (login, name) => until(() => login.state.name === name, `state ${name}, not ${login.state.name}`);

/** The clock of core.js. Node's mock timers would also stop the timers of fetch and of the WebSocket client. */
class Clock {
  #timers = new Map();
  #now = 1_000_000;
  /** Signals of `AbortSignal.timeout()`, which a page cannot cancel. */
  #deadlines = [];
  /** Difference between the wall clock and the monotonic clock. */
  wallMs = 1.7e12;

  #add(run, ms, everyMs) {
    const timer = { id: Symbol(), run, ms, everyMs, at: this.#now + ms };
    this.#timers.set(timer.id, timer);
    return timer.id;
  }

  install() {
    const isCore = () => /\/js\/(approve-)?core(\.js\?|\/)/.test(new Error().stack.split("\n")[3]);
    const clear = (id, native) => {
      this.#timers.delete(id);
      if (typeof id !== "symbol") native(id);
    };
    Object.assign(globalThis, {
      setTimeout: (run, ms, ...rest) => (isCore() ? this.#add(run, ms) : setTimeout(run, ms, ...rest)),
      setInterval: (run, ms, ...rest) => (isCore() ? this.#add(run, ms, ms) : setInterval(run, ms, ...rest)),
      clearTimeout: (id) => clear(id, clearTimeout),
      clearInterval: (id) => clear(id, clearInterval),
    });
    performance.now = () => this.#now;
    Date.now = () => this.wallMs + this.#now;
    AbortSignal.timeout = (ms) => {
      const controller = new AbortController();
      this.#deadlines.push({ at: this.#now + ms, controller });
      return controller.signal;
    };
  }

  static uninstall() {
    Object.assign(globalThis, { setTimeout, setInterval, clearTimeout, clearInterval });
    Object.assign(performance, { now: real.now });
    Date.now = real.date;
    AbortSignal.timeout = real.timeout;
  }

  /** Delays of the timeouts that are running. The pause between two attempts is one. */
  get pauses() {
    return [...this.#timers.values()].filter(({ everyMs }) => !everyMs).map(({ ms }) => ms);
  }

  get timers() {
    return this.#timers.size;
  }

  /** Waits until a pause of this length has begun. */
  async paused(ms) {
    await until(() => this.pauses.includes(ms), `a pause of ${ms} ms`);
  }

  /** Advances the time, and runs the timers that are due, each at its time. */
  async advance(ms) {
    const end = this.#now + ms;
    for (const { at, controller } of this.#deadlines) if (at <= end) controller.abort();
    const firstDue = () => {
      const [timer] = [...this.#timers.values()].sort((a, b) => a.at - b.at);
      return timer?.at <= end ? timer : undefined;
    };
    for (let next = firstDue(); next; next = firstDue()) {
      this.#now = Math.max(this.#now, next.at);
      if (next.everyMs) next.at = this.#now + next.everyMs;
      else this.#timers.delete(next.id);
      next.run();
      await settle();
    }
    this.#now = end;
  }
}

/** Storage of a tab. */
export class Storage {
  items = new Map();
  getItem(key) {
    return this.items.get(key) ?? null;
  }
  setItem(key, value) {
    this.items.set(key, `${value}`);
  }
  removeItem(key) {
    this.items.delete(key);
  }
}

let pages = 0;

/** A server, and a page of a browser with a tab's storage. */
export class Page {
  clock = new Clock();
  storage = new Storage();
  /** Requests and messages of the page, in the order of its calls. */
  sent = [];
  errors = [];
  logins = [];

  /** Opens a page, which the end of the test closes. It waits on the transport that is named. */
  static async open(t, transport = "ws") {
    const page = new Page();
    page.server = await new Server().start();
    t.after(() => page.#close());
    for (const route of transports[transport]) page.server.instead[route] = disconnect;
    t.mock.method(Math, "random", () => 0.5);
    t.mock.method(console, "error", (line) => page.errors.push(line));
    page.#install();
    await page.reload();
    return page;
  }

  #install() {
    const { sent } = this;
    this.clock.install();
    globalThis.sessionStorage = this.storage;
    globalThis.fetch = (url, init) => {
      sent.push(`${init?.method ?? "GET"} ${new URL(url).pathname.split("/").at(-1)}`);
      return fetch(url, init);
    };
    globalThis.WebSocket = class extends WebSocket {
      constructor(...how) {
        super(...how);
        sent.push("WebSocket");
        // A browser reports the failure in its console.
        this.on("error", () => {});
      }
      send(data) {
        sent.push(`send ${data}`);
        super.send(data);
      }
    };
  }

  /** Begins with a new instance of core.js, as a reload does. */
  async reload() {
    for (const login of this.logins) login.stop();
    this.module = await import(`../core.js?page=${++pages}`);
  }

  /** Creates a login that records its events. */
  create(options) {
    const login = this.module.createQrLogin({ endpoint: this.server.url, ...options });
    login.events = [];
    login.details = {};
    for (const name of EVENTS) {
      login.addEventListener(name, ({ detail }) => {
        login.events.push(name);
        login.details[name] = detail;
      });
    }
    this.logins.push(login);
    return login;
  }

  /** Requests a session, as a browser does, and returns it. */
  async generate() {
    await this.begin();
    return this.server.session;
  }

  /** Begins a session of a device, and returns the response of the device authorization endpoint (RFC 8628). */
  async beginDevice() {
    const { session_id, qr_url, expires_in } = await this.begin();
    this.server.requests = [];
    return {
      device_code: session_id,
      user_code: "BCDF-GHJK",
      verification_uri: `${this.server.url}/device`,
      verification_uri_complete: qr_url,
      expires_in,
      interval: 5,
      ws_uri: `${this.server.url.replace("http", "ws")}/v1/ws/qr/${session_id}`,
    };
  }

  /** Requests a session, as the server of a page does, and returns the response. */
  async begin() {
    const response = await fetch(`${this.server.url}/v1/qr-login/generate`, { method: "POST" });
    return response.json();
  }

  /** Shows an address in the page. It is of the origin of the server, which takes the place of the site too. */
  visit(t, path) {
    const { url } = this.server;
    const location = { href: `${url}${path}` };
    const replaceState = (state, _, href) => Object.assign(location, { href, state });
    const history = { state: { of: "the site" }, replaceState };
    this.globals(t, { location, history, origin: url });
    return location;
  }

  /** Creates a decision that records its events. */
  async approve(options) {
    const { createQrApprove } = await import(`../approve-core.js?page=${++pages}`);
    const approve = createQrApprove({ endpoint: this.server.url, token: "token of Ada", ...options });
    approve.events = [];
    for (const name of APPROVE_EVENTS) approve.addEventListener(name, () => approve.events.push(name));
    this.logins.push(approve);
    return approve;
  }

  /** Starts a decision about the newest session, and waits until it asks. */
  async ask(options) {
    const approve = await this.approve({ code: this.server.session.code.qr_url, ...options });
    approve.start();
    await state(approve, "asking");
    return approve;
  }

  /** Starts a login, and waits until its session has a connection. */
  async start(options) {
    const login = this.create(options);
    login.start();
    await this.connected(login);
    return login;
  }

  /** Waits until the page has received the first message of the newest session's connection, or its poll waits. */
  async connected(login, kind) {
    await until(() => this.server.session?.connection, "a connection");
    const { session } = this.server;
    await until(() => !kind || session.connection?.kind === kind, `a connection of kind ${kind}`);
    const isWaiting = () => this.server.polls.at(-1).version === `${session.version}`;
    if (session.connection?.kind === "poll") await until(isWaiting, "a poll that waits");
    await state(login, session.status === "pending" ? "ready" : session.status);
    await until(() => login.is_connected);
    await settle();
  }

  /** Sets globals of a page for the time of the test. */
  globals(t, values) {
    for (const [name, value] of Object.entries(values)) {
      const before = Object.getOwnPropertyDescriptor(globalThis, name);
      Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
      t.after(() => {
        if (before) Object.defineProperty(globalThis, name, before);
        else delete globalThis[name];
      });
    }
  }

  /** Stops all logins, and asserts that no timer and no connection is left. */
  async #close() {
    try {
      for (const login of this.logins) login.stop();
      await until(() => this.clock.pauses.length === this.clock.timers, "intervals are cleared");
      await until(() => this.server.connections.size === 0, "connections are closed");
    } finally {
      Clock.uninstall();
      globalThis.fetch = fetch;
      delete globalThis.WebSocket;
      delete globalThis.sessionStorage;
      await this.server.stop();
    }
  }
}
