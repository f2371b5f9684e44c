// Sessions of devices: the response of the device authorization endpoint (RFC 8628), which has no picture of the code.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Page, state, transports, until } from "./page.js";
import { disconnect, refuse, respond } from "./server.js";

const timeout = 5000;

/** Opens a page with the session of a device. */
async function open(t, way) {
  const page = await Page.open(t, way);
  return { page, device: await page.beginDevice() };
}

for (const way of Object.keys(transports)) {
  test(`${way}: a device's session is shown with its picture until it is collected`, { timeout }, async (t) => {
    const { page, device } = await open(t, way);
    const login = await page.start({ session: device });
    const { session } = page.server;
    assert.equal(session.connection.kind, way);
    assert.equal(login.state.qr_url, device.verification_uri_complete);
    assert.equal(login.state.qr_image, session.code.qr_image);
    assert.equal(login.state.lasts_ms, 300_000);
    session.scan();
    await state(login, "scanned");
    await page.connected(login);
    session.confirm({ isCollected: true });
    await state(login, "confirmed");
    assert.deepEqual(login.details.confirmed, { collect: true, user: { name: "Ada" } });
    assert(!JSON.stringify([login.state, login.details]).includes("token"));
    assert.deepEqual(login.events, ["ready", "scanned", "confirmed"]);
    await until(() => page.server.connections.size === 0);
    assert.deepEqual([page.server.count("status"), page.server.count("generate"), page.server.count("ack")], [1, 0, 0]);
    assert.equal(page.storage.items.size, 0);
  });
}

test("a device's session that was scanned before it is shown is shown as scanned", { timeout }, async (t) => {
  const { page, device } = await open(t);
  page.server.session.scan();
  const login = await page.start({ session: device });
  assert.equal(login.state.name, "scanned");
  assert.deepEqual(login.events, ["scanned"]);
});

const ends = {
  confirmed: (session) => session.confirm({ isCollected: true }),
  rejected: (session) => session.reject(),
  expired: (session) => session.expire(),
  cancelled: (session) => session.cancel(),
};
for (const [name, end] of Object.entries(ends)) {
  test(`a device's session that is ${name} before it is shown ends without a connection`, { timeout }, async (t) => {
    const { page, device } = await open(t);
    end(page.server.session);
    const login = page.create({ session: device });
    login.start();
    await state(login, name);
    await until(() => page.clock.timers === 0, "timers are cleared");
    assert.deepEqual(login.events, [name]);
    assert.deepEqual(page.sent, ["GET status"]);
  });
}

test("a device's session that was collected before it is shown has ended", { timeout }, async (t) => {
  const { page, device } = await open(t);
  page.server.session.confirm({ isCollected: true });
  page.server.session.isClaimed = true;
  const login = page.create({ session: device });
  login.start();
  await state(login, "expired");
  assert.equal(login.state.reason, "claimed");
});

test("a device's session that the server does not have any more has expired", { timeout }, async (t) => {
  const { page, device } = await open(t);
  page.server.session.id = "another";
  const login = page.create({ session: device });
  login.start();
  await state(login, "expired");
  assert.deepEqual(page.sent, ["GET status"]);
  assert.deepEqual(page.errors, []);
});

const failures = {
  "a lost connection": disconnect,
  "a server that is overloaded": refuse(503, "unavailable"),
  "a limit": refuse(429, "rate_limited"),
  "a captive portal": respond("<h1>Log in</h1>"),
};
for (const [what, fail] of Object.entries(failures)) {
  test(`the picture of a device's session is requested again after ${what}`, { timeout }, async (t) => {
    const { page, device } = await open(t);
    page.server.instead.status = fail;
    const login = page.create({ session: device });
    login.start();
    await page.clock.paused(500);
    assert.equal(login.state.name, "loading");
    assert.equal(login.is_connected, false);
    page.server.instead.status = undefined;
    await page.clock.advance(500);
    await page.connected(login);
    assert.equal(login.state.qr_image, page.server.session.code.qr_image);
    assert.deepEqual(login.events, ["ready"]);
  });
}

test("a device's session on a host without qrlogin is shown as blocked", { timeout }, async (t) => {
  const { page, device } = await open(t);
  page.server.instead.status = respond("<h1>Not found</h1>", "text/html", 404);
  const login = page.create({ session: device });
  login.start();
  await state(login, "blocked");
  assert.deepEqual(page.errors, ["qr-login: status 404"]);
});

test("a device's session keeps its picture when the connection is lost", { timeout }, async (t) => {
  const { page, device } = await open(t);
  const login = await page.start({ session: device });
  const { qr_image } = login.state;
  page.server.session.connection.destroy();
  await page.clock.paused(500);
  await page.clock.advance(500);
  await page.connected(login);
  assert.equal(login.state.qr_image, qr_image);
  assert.equal(page.server.count("status"), 1);
});

test("refresh() of a device's session cancels it and asks the page for the next one", { timeout }, async (t) => {
  const { page, device } = await open(t);
  const login = await page.start({ session: device });
  login.addEventListener("refresh", (event) => event.preventDefault());
  login.refresh();
  await state(login, "cancelled");
  assert.deepEqual(page.server.cancelled, [device.device_code]);
  assert.deepEqual(login.events, ["ready", "refresh", "cancelled"]);
});
