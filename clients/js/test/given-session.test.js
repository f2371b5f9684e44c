// Sessions that the server of the page has begun, as for an OAuth client, whose login ends without a token.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Page, state, transports, until } from "./page.js";
import { disconnect } from "./server.js";

const timeout = 5000;

/** Opens a page with a login that shows a given session, and waits until the session has a connection. */
async function open(t, way) {
  const page = await Page.open(t, way);
  const session = await page.begin();
  page.server.requests = [];
  const location = { href: page.server.url, reloads: 0, reload: () => location.reloads++ };
  page.globals(t, { location });
  return { page, location, login: await page.start({ session }) };
}

/** Confirms the newest session, whose login an OAuth client collects. */
const confirm = (page) => page.server.session.confirm({ isCollected: true });

for (const way of Object.keys(transports)) {
  test(`${way}: a given session is shown and waited for`, { timeout }, async (t) => {
    const { page, login } = await open(t, way);
    const { session } = page.server;
    assert.equal(session.connection.kind, way);
    assert.equal(login.state.qr_url, session.code.qr_url);
    assert.equal(login.state.qr_image, session.code.qr_image);
    assert.equal(login.state.lasts_ms, 300_000);
    session.scan();
    await state(login, "scanned");
    assert.equal(page.server.count("generate"), 0);
    assert.equal(page.storage.items.size, 0);
  });

  test(`${way}: a login that an OAuth client collects is confirmed without an ack`, { timeout }, async (t) => {
    const { page, login } = await open(t, way);
    page.server.session.scan();
    await state(login, "scanned");
    await page.connected(login);
    confirm(page);
    await state(login, "confirmed");
    assert.deepEqual(login.details.confirmed, { collect: true, user: { name: "Ada" } });
    assert.deepEqual(login.state.user, { name: "Ada" });
    assert.deepEqual(login.events, ["ready", "scanned", "confirmed"]);
    await until(() => page.server.connections.size === 0);
    await until(() => page.clock.timers === 0, "timers are cleared");
    const { length } = page.sent;
    await page.clock.advance(60_000);
    assert.equal(page.sent.length, length);
    assert(!page.sent.some((what) => what.endsWith(" ack")), page.sent.join());
    assert.equal(login.is_connected, true);
  });

  test(`${way}: a connection after the decision receives it again`, { timeout }, async (t) => {
    const { page, login } = await open(t, way);
    page.server.session.scan();
    await state(login, "scanned");
    confirm(page);
    for (let times = 0; times < 2; times++) {
      await state(login, "confirmed");
      await until(() => page.server.connections.size === 0);
      login.start();
    }
    await state(login, "confirmed");
    assert.deepEqual(login.details.confirmed, { collect: true, user: { name: "Ada" } });
  });
}

test("a login that is collected ends without a user if the app token describes none", { timeout }, async (t) => {
  const { page, login } = await open(t);
  confirm(page);
  await state(login, "confirmed");
  assert.deepEqual(login.details.confirmed, { collect: true, user: undefined });
});

test("a reload of a page without a given session shows a login that was collected", { timeout }, async (t) => {
  const page = await Page.open(t);
  (await page.start()).stop();
  await until(() => page.server.connections.size === 0);
  confirm(page);
  const login = page.create();
  login.start();
  await state(login, "confirmed");
  await until(() => page.clock.timers === 0, "timers are cleared");
  assert.equal(login.details.confirmed.collect, true);
  assert.equal(page.server.count("ack"), 0);
  assert.equal(page.server.opened.length, 1);
});

test("a given session neither continues nor replaces that of the tab", { timeout }, async (t) => {
  const page = await Page.open(t);
  (await page.start()).stop();
  await until(() => page.server.connections.size === 0);
  const kept = [...page.storage.items];
  await page.reload();
  const session = await page.begin();
  const login = page.create({ session });
  login.start();
  await until(() => page.server.session.connection);
  await page.connected(login);
  assert.equal(login.state.qr_url, session.qr_url);
  page.server.session.expire();
  await state(login, "expired");
  assert.deepEqual([...page.storage.items], kept);
  assert.equal(page.server.count("status"), 0);
});

test("a given session survives a lost connection", { timeout }, async (t) => {
  const { page, login } = await open(t);
  const { session } = page.server;
  session.connection.destroy();
  await page.clock.paused(500);
  session.scan();
  await page.clock.advance(500);
  await state(login, "scanned");
  assert.equal(page.server.count("generate"), 0);
});

test("a given session that the server does not have any more has expired", { timeout }, async (t) => {
  const page = await Page.open(t, "sse");
  const session = await page.begin();
  page.server.session.id = "another";
  const login = page.create({ session });
  login.start();
  await state(login, "expired");
  assert.equal(page.server.sessions.length, 1);
});

const ends = {
  rejected: (session) => session.reject(),
  expired: (session) => session.expire(),
  cancelled: (session) => session.cancel("overload"),
};
for (const [name, end] of Object.entries(ends)) {
  test(`refresh() after a given session is ${name} reloads the page`, { timeout }, async (t) => {
    const { page, location, login } = await open(t);
    end(page.server.session);
    await state(login, name);
    const { length } = page.sent;
    login.refresh();
    assert.equal(location.reloads, 1);
    assert.deepEqual(login.events, ["ready", name, "refresh"]);
    assert.equal(login.state.name, name);
    assert.equal(page.sent.length, length);
  });
}

test("a listener of refresh can prevent the reload", { timeout }, async (t) => {
  const { page, location, login } = await open(t);
  page.server.session.expire();
  await state(login, "expired");
  login.addEventListener("refresh", (event) => event.preventDefault());
  login.refresh();
  assert.equal(location.reloads, 0);
  assert.equal(page.server.sessions.length, 1);
});

test("refresh() of a given session that is open cancels it", { timeout }, async (t) => {
  const { page, location, login } = await open(t);
  login.refresh();
  assert.equal(location.reloads, 1);
  await state(login, "cancelled");
  assert.deepEqual(page.server.cancelled, [page.server.session.id]);
  assert.equal(page.server.sessions.length, 1);
});

test("refresh() without a page to reload leaves the login as it is", { timeout }, async (t) => {
  const { page, login } = await open(t);
  page.globals(t, { location: undefined });
  page.server.session.expire();
  await state(login, "expired");
  login.refresh();
  assert.equal(login.state.name, "expired");
});

test("cancel() cancels a given session", { timeout }, async (t) => {
  const { page, login } = await open(t);
  await login.cancel();
  assert.equal(login.state.name, "cancelled");
  assert.deepEqual(page.server.cancelled, [page.server.session.id]);
});

for (const session of [{}, { session_id: "" }, { error: "invalid_client" }, [], "text"]) {
  test(`a given session ${JSON.stringify(session)} is shown as blocked`, { timeout }, async (t) => {
    const page = await Page.open(t);
    page.server.instead.generate = disconnect;
    const login = page.create({ session });
    login.start();
    await state(login, "blocked");
    assert.equal(login.state.reason, "invalid_session");
    assert.deepEqual(page.errors, ["qr-login: invalid_session"]);
    assert.deepEqual(page.sent, []);
  });
}

for (const session of [null, undefined]) {
  test(`a login whose session is ${session} requests one`, { timeout }, async (t) => {
    const page = await Page.open(t);
    await page.start({ session });
    assert.equal(page.server.count("generate"), 1);
  });
}
