// Sessions of a tab: reloads, storage, and what a page may call in each state.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Page, Storage, state, until } from "./page.js";
import { disconnect, ignore, refuse } from "./server.js";

const timeout = 5000;

test("a reload continues the session of the tab", { timeout }, async (t) => {
  const page = await Page.open(t);
  await page.start();
  const { session } = page.server;
  session.rotate();
  await page.reload();
  await until(() => page.server.connections.size === 0);
  const login = await page.start();
  assert.equal(login.state.qr_url, session.code.qr_url);
  assert.equal(login.state.lasts_ms, 300_000);
  assert.equal(page.server.sessions.length, 1);
});

test("a reload shows a scan and its number", { timeout }, async (t) => {
  const page = await Page.open(t);
  await page.start();
  page.server.session.scan({ number: "42" });
  await page.reload();
  const login = await page.start();
  assert.equal(login.state.number, "42");
  assert.deepEqual(login.state.user, { name: "Ada" });
  assert.deepEqual(login.events, ["scanned", "number"]);
});

for (const [decision, name] of [["confirm", "confirmed"], ["reject", "rejected"], ["cancel", "cancelled"]]) {
  test(`a reload shows that the login was ${name} meanwhile`, { timeout }, async (t) => {
    const page = await Page.open(t);
    (await page.start()).stop();
    await until(() => page.server.connections.size === 0);
    page.server.session[decision]();
    await page.reload();
    const login = page.create();
    login.start();
    await state(login, name);
    await until(() => page.storage.items.size === 0);
    assert.deepEqual(login.events, [name]);
    const isAcknowledged = name === "confirmed";
    await until(() => page.server.acknowledged.length === Number(isAcknowledged));
  });
}

const ended = {
  "has expired": (session) => session.expire(),
  "has been acknowledged": (session) => session.confirm({ isClaimed: true }),
  "is unknown to the server": (session) => (session.id = "another"),
};
for (const [name, end] of Object.entries(ended)) {
  test(`a reload begins a new session if the one before ${name}`, { timeout }, async (t) => {
    const page = await Page.open(t);
    (await page.start()).stop();
    await until(() => page.server.connections.size === 0);
    end(page.server.session);
    const login = page.create();
    login.start();
    await until(() => page.server.sessions.length === 2);
    await page.connected(login);
    assert.deepEqual(login.events, ["ready"]);
    assert.deepEqual([...page.storage.items.values()], [page.server.session.id]);
  });
}

const broken = {
  "throws on each call": { getItem: thrower(), setItem: thrower(), removeItem: thrower() },
  "is full": Object.assign(new Storage(), { setItem: thrower() }),
  "cannot be read": Object.assign(new Storage(), { getItem: thrower() }),
  "is not there": null,
};
function thrower() {
  return () => {
    throw new DOMException("no", "SecurityError");
  };
}
for (const [name, storage] of Object.entries(broken)) {
  test(`a page whose storage ${name} logs in, and a reload begins a new session`, { timeout }, async (t) => {
    const page = await Page.open(t);
    await page.start({ storage });
    await page.reload();
    const login = page.create({ storage });
    login.start();
    await until(() => page.server.sessions.length === 2);
    await page.connected(login);
    page.server.session.confirm();
    await until(() => page.server.session.isClaimed);
    assert.equal(login.state.name, "confirmed");
    login.refresh();
    await until(() => page.server.sessions.length === 3);
  });
}

test("a page whose storage throws when it is asked for logs in", { timeout }, async (t) => {
  const page = await Page.open(t);
  Object.defineProperty(globalThis, "sessionStorage", { get: thrower(), configurable: true });
  const login = await page.start();
  page.server.session.confirm();
  await until(() => page.server.session.isClaimed);
  assert.equal(login.state.name, "confirmed");
});

test("several logins with one storage have keys of their own, also over a reload", { timeout }, async (t) => {
  const page = await Page.open(t);
  const codes = [];
  for (let index = 0; index < 3; index++) {
    const login = page.create();
    login.start();
    await until(() => page.server.sessions.length === index + 1);
    await page.connected(login);
    codes.push(login.state.qr_url);
  }
  assert.equal(new Set(codes).size, 3);
  assert.equal(page.storage.items.size, 3);
  await page.reload();
  const again = Array.from(codes, () => page.create());
  for (const login of again) login.start();
  for (const login of again) await state(login, "ready");
  assert.deepEqual(again.map((login) => login.state.qr_url), codes);
  page.server.sessions[1].confirm();
  await state(again[1], "confirmed");
  await until(() => page.storage.items.size === 2);
  assert.equal(again[0].state.name, "ready");
  assert.equal(again[2].state.name, "ready");
});

test("a login that has ended does not free the key of a later one", { timeout }, async (t) => {
  const page = await Page.open(t);
  const first = await page.start();
  page.server.session.expire();
  await state(first, "expired");
  const second = page.create();
  second.start();
  await until(() => page.server.sessions.length === 2);
  await page.connected(second);
  // As an element does when it is removed.
  first.stop();
  const third = page.create();
  third.start();
  await until(() => page.server.sessions.length === 3);
  await page.connected(third);
  assert.equal(page.storage.items.size, 2);
  assert.equal(second.state.name, "ready");
});

test("logins at several endpoints have keys of their own", { timeout }, async (t) => {
  const page = await Page.open(t);
  await page.start();
  const login = page.create({ endpoint: `${page.server.url}/login/` });
  login.start();
  await until(() => page.server.sessions.length === 2);
  await page.connected(login);
  await until(() => page.storage.items.size === 2);
  const keys = [...page.storage.items.keys()];
  assert.deepEqual(keys, [`qr-login ${page.server.url}`, `qr-login ${page.server.url}/login`]);
});

/** Brings a login into each state. */
const states = {
  idle: async (page) => page.create(),
  loading: async (page) => {
    page.server.instead.generate = ignore;
    const login = page.create();
    login.start();
    await until(() => page.server.count("generate") === 1);
    delete page.server.instead.generate;
    return login;
  },
  ready: (page) => page.start(),
  scanned: (page) => after(page, "scanned", (session) => session.scan()),
  confirmed: (page) => after(page, "confirmed", (session) => session.confirm()),
  rejected: (page) => after(page, "rejected", (session) => session.reject()),
  cancelled: (page) => after(page, "cancelled", (session) => session.cancel()),
  expired: (page) => after(page, "expired", (session) => session.expire()),
  replaced: (page) => after(page, "replaced", (session) => session.replace()),
  blocked: async (page) => {
    page.server.instead.generate = refuse(403, "forbidden_origin");
    const login = page.create();
    login.start();
    await state(login, "blocked");
    delete page.server.instead.generate;
    return login;
  },
};
async function after(page, name, happens) {
  const login = await page.start();
  happens(page.server.session);
  await state(login, name);
  if (name === "confirmed") await until(() => page.server.session.isClaimed);
  if (name !== "scanned") await until(() => page.server.connections.size === 0);
  return login;
}

for (const [name, bring] of Object.entries(states)) {
  const continues = ["ready", "scanned", "replaced"].includes(name);

  test(`${name}: stop() closes the connection and keeps the state and the session`, { timeout }, async (t) => {
    const page = await Page.open(t);
    const login = await bring(page);
    const before = [login.state, [...page.storage.items.values()]];
    login.stop();
    login.stop();
    await until(() => page.server.connections.size === 0);
    const { length } = page.sent;
    await page.clock.advance(60_000);
    await until(() => page.clock.timers === 0, "timers are cleared");
    assert.equal(page.sent.length, length);
    assert.deepEqual([login.state, [...page.storage.items.values()]], before);
    assert.deepEqual(page.server.cancelled, []);
  });

  test(`${name}: start() ${continues ? "continues the session" : "begins a session"}`, { timeout }, async (t) => {
    const page = await Page.open(t);
    const login = await bring(page);
    const { length } = page.server.sessions;
    login.start();
    assert.deepEqual(login.state, { name: "loading" });
    await until(() => login.state.name !== "loading");
    await until(() => page.server.connections.size === 1);
    assert.equal(login.state.name, name === "scanned" ? "scanned" : "ready");
    assert.equal(page.server.sessions.length, continues ? length : length + 1);
    assert.deepEqual([...page.storage.items.values()], [page.server.session.id]);
    assert.deepEqual(page.server.cancelled, []);
  });

  test(`${name}: refresh() begins a session`, { timeout }, async (t) => {
    const page = await Page.open(t);
    const login = await bring(page);
    const before = page.server.session;
    const { length } = page.server.sessions;
    login.refresh();
    assert.deepEqual(login.state, { name: "loading" });
    await until(() => page.server.sessions.length === length + 1);
    await page.connected(login);
    await until(() => page.server.connections.size === 1);
    assert.deepEqual([...page.storage.items.values()], [page.server.session.id]);
    // The phone that has the code learns that it is of no use.
    const isOpen = ["ready", "scanned"].includes(name);
    await until(() => page.server.cancelled.length === Number(isOpen));
    assert.deepEqual(page.server.cancelled, isOpen ? [before.id] : []);
  });

  const cancels = ["idle", "loading", "ready", "scanned"].includes(name);
  test(`${name}: cancel() ${cancels ? "ends the login" : "changes nothing"}`, { timeout }, async (t) => {
    const page = await Page.open(t);
    const login = await bring(page);
    await login.cancel();
    assert.equal(login.state.name, cancels ? "cancelled" : name);
    const isOpen = ["ready", "scanned"].includes(name);
    assert.equal(page.server.cancelled.length, isOpen ? 1 : 0);
    await until(() => page.server.connections.size === 0);
    await until(() => page.clock.timers === 0);
  });
}

for (const [status, code] of [[409, "already_decided"], [410, "expired"]]) {
  test(`cancel() that is refused with ${status} leaves the login to its decision`, { timeout }, async (t) => {
    const page = await Page.open(t);
    const login = await page.start();
    page.server.instead.cancel = refuse(status, code);
    await login.cancel();
    assert.equal(login.state.name, "ready");
    page.server.session.confirm();
    await until(() => page.server.session.isClaimed);
    assert.deepEqual(login.events, ["ready", "confirmed"]);
  });
}

test("cancel() of a login whose server is out of reach ends it, and reports the network", { timeout }, async (t) => {
  const page = await Page.open(t);
  const login = await page.start();
  page.server.instead.cancel = disconnect;
  await login.cancel();
  assert.equal(login.state.name, "cancelled");
  assert.deepEqual(login.events, ["ready", "error", "cancelled"]);
  assert.equal(login.details.error.code, "network");
});

test("cancel() waits 4 seconds for an answer", { timeout }, async (t) => {
  const page = await Page.open(t);
  const login = await page.start();
  page.server.instead.cancel = ignore;
  const cancelling = login.cancel();
  await until(() => page.server.count("cancel") === 1);
  await page.clock.advance(3999);
  assert.equal(login.state.name, "ready");
  await page.clock.advance(1);
  await cancelling;
  assert.equal(login.state.name, "cancelled");
  assert.equal(login.details.error.code, "network");
});

const frames = {
  "without location and origin": {},
  "at about:srcdoc in a sandbox": { location: { href: "about:srcdoc" }, origin: "null" },
};
for (const [name, globals] of Object.entries(frames)) {
  for (const endpoint of [undefined, null, "", "/login", "login", "//login.example.com", "http://"]) {
    test(`a page ${name} is blocked with the endpoint ${endpoint}`, { timeout }, async (t) => {
      const page = await Page.open(t);
      page.globals(t, globals);
      const login = page.create({ endpoint });
      login.start();
      await state(login, "blocked");
      assert.equal(login.state.reason, "no_endpoint");
      assert.deepEqual(login.events, ["error"]);
      assert.equal(login.details.error.code, "no_endpoint");
      assert.match(page.errors.join("\n"), /^qr-login: .*endpoint.*$/);
      assert.deepEqual(page.sent, []);
      login.start();
      await state(login, "blocked");
    });
  }
}

for (const href of ["about:srcdoc", "about:blank", "blob:null/1"]) {
  test(`a frame at ${href} has the endpoint of its origin`, { timeout }, async (t) => {
    const page = await Page.open(t);
    page.globals(t, { location: { href }, origin: page.server.url });
    await page.start({ endpoint: undefined });
  });
}

test("the endpoint of a page is the root of its host, and a relative one is of its URL", { timeout }, async (t) => {
  const page = await Page.open(t);
  page.globals(t, { location: { href: `${page.server.url}/shop/till?x=1` } });
  await page.start({ endpoint: undefined });
  assert.deepEqual([...page.storage.items.keys()], [`qr-login ${page.server.url}`]);
  const login = page.create({ endpoint: "login/" });
  login.start();
  await until(() => page.server.sessions.length === 2);
  await page.connected(login);
  assert.equal([...page.storage.items.keys()][1], `qr-login ${page.server.url}/shop/login`);
});
