// A login from its code to its end, on each transport.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Page, state, transports, until } from "./page.js";
import { disconnect, ignore, refuseUpgrade, respond } from "./server.js";

const timeout = 5000;

for (const way of Object.keys(transports)) {
  test(`${way}: a login is shown from its code to its token`, { timeout }, async (t) => {
    const page = await Page.open(t, way);
    const login = await page.start({ client_info: "the till in hall 3" });
    const { session } = page.server;
    assert.equal(session.client_info, "the till in hall 3");
    assert.equal(session.connection.kind, way);
    assert.deepEqual(login.details.ready, login.state);
    assert.equal(login.state.qr_url, session.code.qr_url);
    assert.equal(login.state.qr_image, session.code.qr_image);
    assert.equal(login.state.lasts_ms, 300_000);
    session.scan({ user: { name: "Ada", picture: "https://example.com/ada.png" } });
    await state(login, "scanned");
    assert.deepEqual(login.state.user, { name: "Ada", picture: "https://example.com/ada.png" });
    await page.connected(login);
    session.confirm();
    await until(() => session.isClaimed);
    const { user } = session;
    const detail = { web_token: session.token, token_type: "Bearer", expires_in: 3600, user };
    assert.deepEqual(login.details.confirmed, detail);
    assert.deepEqual(login.events, ["ready", "scanned", "confirmed"]);
    assert(!JSON.stringify(login.state).includes(session.token), "the token is in the state");
    assert.equal(page.storage.items.size, 0);
    await until(() => page.server.connections.size === 0);
    await until(() => page.clock.timers === 0, "timers are cleared");
  });

  test(`${way}: the acknowledgement is sent once, and nothing after it`, { timeout }, async (t) => {
    const page = await Page.open(t, way);
    const login = await page.start();
    page.server.session.confirm();
    await until(() => page.server.acknowledged.length && page.server.connections.size === 0);
    const { sent } = page;
    await page.clock.advance(60_000);
    assert.deepEqual(page.server.acknowledged, [page.server.session.id]);
    assert.equal(sent.at(-1), way === "ws" ? "send ack" : "POST ack");
    assert.equal(login.state.name, "confirmed");
  });

  const begins = {
    "starts again": (login) => login.start(),
    "requests a new code": (login) => login.refresh(),
    "starts another login": (login, page) => page.create().start(),
  };
  for (const [name, begin] of Object.entries(begins)) {
    test(`${way}: the acknowledgement precedes what a listener of confirmed ${name}`, { timeout }, async (t) => {
      const page = await Page.open(t, way);
      const login = await page.start();
      const [first] = page.server.sessions;
      login.addEventListener("confirmed", () => begin(login, page), { once: true });
      first.confirm();
      await until(() => page.server.sessions.length === 2);
      await until(() => first.isClaimed);
      await page.connected(page.logins.at(-1));
      const acks = page.sent.filter((what) => what.endsWith(" ack"));
      assert.equal(acks.length, 1);
      assert(page.sent.indexOf(acks[0]) < page.sent.lastIndexOf("POST generate"), page.sent.join());
      assert.deepEqual(page.server.acknowledged, [first.id]);
      assert.equal(page.server.count("status"), 0);
    });
  }

  test(`${way}: a listener of confirmed that stops the login keeps the acknowledgement`, { timeout }, async (t) => {
    const page = await Page.open(t, way);
    const login = await page.start();
    login.addEventListener("confirmed", () => login.stop());
    page.server.session.confirm();
    await until(() => page.server.session.isClaimed);
    await until(() => page.server.connections.size === 0);
    assert.equal(page.storage.items.size, 0);
  });

  test(`${way}: a token whose event is prevented is acknowledged by acknowledge() alone`, { timeout }, async (t) => {
    const page = await Page.open(t, way);
    const login = await page.start();
    const { session } = page.server;
    login.addEventListener("confirmed", (event) => event.preventDefault());
    session.confirm();
    await state(login, "confirmed");
    // The server waits for 5 seconds.
    if (way === "ws") session.connection.close(1000);
    await until(() => page.server.connections.size === 0);
    const requests = page.server.requests.length;
    await page.clock.advance(10_000);
    assert.equal(page.server.requests.length, requests);
    assert.deepEqual(page.server.acknowledged, []);
    assert.deepEqual([...page.storage.items.values()], [session.id]);
    await login.acknowledge();
    assert.deepEqual(page.server.acknowledged, [session.id]);
    assert.equal(page.storage.items.size, 0);
    assert.equal(login.events.filter((name) => name === "confirmed").length, 1);
  });

  test(`${way}: a reload before acknowledge() receives the same token again`, { timeout }, async (t) => {
    const page = await Page.open(t, way);
    const login = await page.start();
    const { session } = page.server;
    login.addEventListener("confirmed", (event) => event.preventDefault());
    session.confirm();
    await state(login, "confirmed");
    await page.reload();
    const again = page.create();
    again.start();
    await state(again, "confirmed");
    assert.equal(again.details.confirmed.web_token, session.token);
    await until(() => session.isClaimed);
    assert.deepEqual(page.server.acknowledged, [session.id]);
    assert.equal(page.server.sessions.length, 1);
  });

  const ends = {
    rejected: (session) => session.reject(),
    expired: (session) => session.expire(),
    cancelled: (session) => session.cancel("overload"),
    replaced: (session) => session.replace(),
  };
  for (const [name, end] of Object.entries(ends)) {
    test(`${way}: a login that is ${name} ends, and can be started again`, { timeout }, async (t) => {
      const page = await Page.open(t, way);
      const login = await page.start();
      const { session } = page.server;
      session.scan();
      await page.connected(login);
      end(session);
      await state(login, name);
      assert.deepEqual(login.events, ["ready", "scanned", name]);
      assert.equal(login.state.reason, name === "cancelled" ? "overload" : undefined);
      await until(() => page.server.connections.size === 0);
      await until(() => page.clock.timers === 0, "timers are cleared");
      assert.equal(login.is_connected, true);
      login.start();
      // What another tab has now can be taken back.
      if (name === "replaced") await state(login, "scanned");
      else await state(login, "ready");
      await until(() => page.server.session.connection);
      assert.equal(page.server.sessions.length, name === "replaced" ? 1 : 2);
    });
  }

  test(`${way}: a rotated code is shown in the place of the one before`, { timeout }, async (t) => {
    const page = await Page.open(t, way);
    const login = await page.start();
    const { session } = page.server;
    const [before, { ends_at }] = [session.code, login.state];
    session.rotate();
    await until(() => login.state.qr_url === session.code.qr_url);
    assert.notEqual(session.code.qr_url, before.qr_url);
    assert.equal(login.state.qr_image, session.code.qr_image);
    assert.equal(login.state.name, "ready");
    assert.equal(login.state.ends_at, ends_at);
    assert.deepEqual(login.events, ["ready"]);
  });

  test(`${way}: the number is announced once`, { timeout }, async (t) => {
    const page = await Page.open(t, way);
    const login = await page.start();
    const { session } = page.server;
    session.scan({ number: "42" });
    await state(login, "scanned");
    await page.connected(login);
    // A poll whose answer is the same is followed by a pause.
    if (way !== "poll") session.connection.deliver();
    session.confirm();
    await until(() => session.isClaimed);
    assert.equal(login.details.number.number, "42");
    assert.deepEqual(login.events, ["ready", "scanned", "number", "confirmed"]);
    assert.equal(login.state.number, "42");
  });

  test(`${way}: a token that was acknowledged elsewhere reads as expired`, { timeout }, async (t) => {
    const page = await Page.open(t, way);
    const login = await page.start();
    page.server.session.confirm({ isClaimed: true });
    await state(login, "expired");
    assert.equal(login.state.reason, "claimed");
    assert.deepEqual(login.events, ["ready", "expired"]);
    assert.equal(page.storage.items.size, 0);
  });

  test(`${way}: cancel() informs the server`, { timeout }, async (t) => {
    const page = await Page.open(t, way);
    const login = await page.start();
    await login.cancel();
    assert.deepEqual(page.server.cancelled, [page.server.session.id]);
    await until(() => page.server.connections.size === 0);
    assert.equal(login.state.name, "cancelled");
    assert.deepEqual(login.events, ["ready", "cancelled"]);
    assert.equal(page.storage.items.size, 0);
  });
}

const failures = {
  "closes the connection": [disconnect, disconnect],
  "refuses it as a proxy does": [refuseUpgrade(502), respond("<h1>Bad Gateway</h1>", "text/html", 502)],
  "answers something else": [refuseUpgrade(200), respond("<h1>Welcome to the hotel</h1>")],
  "has no content": [refuseUpgrade(204), respond("", "text/event-stream", 200)],
};
for (const [name, [webSocketHandler, eventsHandler]] of Object.entries(failures)) {
  test(`a server that ${name} is waited on by the next transport`, { timeout }, async (t) => {
    const page = await Page.open(t);
    page.server.instead = { ws: webSocketHandler, sse: eventsHandler };
    const login = await page.start();
    assert.equal(page.server.session.connection.kind, "poll");
    assert.deepEqual(page.server.requests, ["generate", "ws", "sse", "poll", "poll"]);
    assert.equal(login.is_connected, true);
  });
}

test("a transport on which nothing arrives within 4 seconds is given up for the next one", { timeout }, async (t) => {
  const page = await Page.open(t);
  page.server.instead = { ws: ignore, sse: ignore };
  const login = page.create();
  login.start();
  await until(() => page.server.count("ws") === 1);
  await page.clock.advance(3900);
  assert.equal(page.server.count("sse"), 0);
  await page.clock.advance(500);
  await until(() => page.server.count("sse") === 1);
  await page.clock.advance(4500);
  await page.connected(login, "poll");
});

// A server that accepted it later would let it supersede the next connection.
test("a WebSocket that is given up before it opens is closed", { timeout }, async (t) => {
  const page = await Page.open(t);
  let hasEnded = false;
  page.server.instead.ws = (_, socket) => socket.on("end", () => (hasEnded = true)).resume();
  const login = page.create();
  login.start();
  await until(() => page.server.count("ws") === 1);
  await page.clock.advance(4500);
  await page.connected(login, "sse");
  await until(() => hasEnded, "the WebSocket is closed");
});

test("a page without WebSocket waits on events", { timeout }, async (t) => {
  const page = await Page.open(t);
  delete globalThis.WebSocket;
  await page.start();
  assert.equal(page.server.session.connection.kind, "sse");
});

test("the transport that has worked is remembered for the life of the page", { timeout }, async (t) => {
  const page = await Page.open(t, "poll");
  const login = await page.start();
  page.server.instead = {};
  login.refresh();
  await until(() => page.server.sessions.length === 2);
  await page.connected(login, "poll");
  assert.equal(page.server.count("ws"), 1);
  await page.reload();
  const again = page.create();
  again.start();
  await page.connected(again, "ws");
});

test("events are read also if each byte arrives alone", { timeout }, async (t) => {
  const page = await Page.open(t, "sse");
  const login = await page.start();
  const { connection } = page.server.session;
  const frame = JSON.stringify({ status: "scanned", version: 2, user: { name: "Ådá 愛達" } });
  for (const byte of Buffer.from(`data: ${frame}\nid: 2\n\n`)) {
    connection.send(Buffer.from([byte]));
    await new Promise((resolve) => setImmediate(resolve));
  }
  await state(login, "scanned");
  assert.equal(login.state.user.name, "Ådá 愛達");
});

for (const [heartbeat_seconds, wait] of [[10, "10"], [30, "15"], [undefined, "15"]]) {
  test(`a long poll is of ${wait} seconds with heartbeats of ${heartbeat_seconds} seconds`, { timeout }, async (t) => {
    const page = await Page.open(t, "poll");
    page.server.heartbeat_seconds = heartbeat_seconds;
    await page.start();
    assert.deepEqual(page.server.polls, [{ wait, version: "0" }, { wait, version: "1" }]);
  });
}

test("a poll that is answered at once without a change is repeated after a second", { timeout }, async (t) => {
  const page = await Page.open(t, "poll");
  const login = await page.start();
  page.server.instead.poll = (request, response) => {
    const view = JSON.stringify(page.server.session.view);
    respond(view)(request, response);
  };
  page.server.session.connection.deliver();
  await page.clock.paused(1000);
  const polls = page.server.polls.length;
  await page.clock.advance(999);
  assert.equal(page.server.polls.length, polls);
  await page.clock.advance(1);
  await until(() => page.server.polls.length === polls + 1);
  assert.equal(login.state.name, "ready");
});

test("an acknowledgement that fails is repeated after half a second, one and two", { timeout }, async (t) => {
  const page = await Page.open(t, "sse");
  page.server.instead.ack = disconnect;
  const login = await page.start();
  page.server.session.confirm();
  for (const ms of [500, 1000, 2000]) {
    await page.clock.paused(ms);
    await page.clock.advance(ms);
  }
  assert.equal(login.state.name, "confirmed");
  assert.equal(page.sent.filter((what) => what === "POST ack").length, 3);
  assert.equal(page.clock.pauses.length, 0);
});

test("an acknowledgement that is refused is not repeated", { timeout }, async (t) => {
  const page = await Page.open(t, "sse");
  page.server.instead.ack = respond("{}", "application/problem+json", 410);
  const login = await page.start();
  page.server.session.confirm();
  await until(() => page.server.count("ack") === 1);
  await until(() => page.clock.timers === 0);
  assert.equal(login.state.name, "confirmed");
  assert.equal(page.sent.filter((what) => what === "POST ack").length, 1);
});

test("an acknowledgement on a socket that closes meanwhile is sent as a request", { timeout }, async (t) => {
  const page = await Page.open(t);
  const Native = globalThis.WebSocket;
  const sockets = [];
  globalThis.WebSocket = class extends Native {
    constructor(...how) {
      super(...how);
      sockets.push(this);
    }
  };
  const login = await page.start();
  // As Firefox does it while the page is being left.
  login.addEventListener("confirmed", () => sockets[0].close());
  page.server.session.confirm();
  await until(() => page.server.session.isClaimed);
  assert.equal(page.sent.at(-1), "POST ack");
  assert.deepEqual(page.server.acknowledged, [page.server.session.id]);
});
