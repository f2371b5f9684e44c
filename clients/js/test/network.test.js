// What a login does on an unreliable network: pauses, close codes, silence, refusals and garbage. Math.random() is 0.5,
// so the first pause is half a second.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Page, state, transports, until } from "./page.js";
import { disconnect, ignore, refuse, refuseUpgrade, respond } from "./server.js";

const timeout = 5000;
const FIRST_PAUSE_MS = 500;

/** Waits until the page has begun another connection of its session. */
const reconnected = async (page, login, before) => {
  await until(() => page.server.opened.length > before, "another connection");
  await page.connected(login);
};

/** Asserts that the login pauses for this time, and then waits on the same transport. */
async function pauses(page, login, ms, way) {
  await page.clock.paused(ms);
  assert.equal(login.is_connected, false);
  const before = page.server.opened.length;
  await page.clock.advance(ms - 1);
  assert.equal(page.server.opened.length, before);
  await page.clock.advance(1);
  await reconnected(page, login, before);
  assert.equal(page.server.session.connection.kind, way);
  assert.equal(page.server.sessions.length, 1);
}

for (const way of Object.keys(transports)) {
  const routes = [...transports[way], way];

  test(`${way}: a connection that breaks is begun again after a random pause`, { timeout }, async (t) => {
    const page = await Page.open(t, way);
    const login = await page.start();
    page.server.session.connection.destroy();
    await pauses(page, login, FIRST_PAUSE_MS, way);
    page.server.session.confirm();
    await until(() => page.server.session.isClaimed);
    assert.deepEqual(login.events, ["ready", "confirmed"]);
  });

  test(`${way}: the pauses grow to half a minute while the server is out of reach`, { timeout }, async (t) => {
    const page = await Page.open(t, way);
    const login = await page.start();
    for (const route of Object.keys(transports)) page.server.instead[route] = disconnect;
    page.server.session.connection.destroy();
    for (const ms of [500, 1000, 2000, 4000, 8000, 15_000, 15_000]) {
      await page.clock.paused(ms);
      assert.equal(login.is_connected, false);
      await page.clock.advance(ms);
    }
    await page.clock.paused(15_000);
    for (const route of routes) delete page.server.instead[route];
    const before = page.server.opened.length;
    await page.clock.advance(15_000);
    await reconnected(page, login, before);
    assert.equal(login.state.name, "ready");
  });

  test(`${way}: nothing for two and a half heartbeats leads to a reconnect`, { timeout }, async (t) => {
    const page = await Page.open(t, way);
    const login = await page.start();
    for (let beat = 0; beat < 3; beat++) {
      await page.clock.advance(10_000);
      // The answer to a poll begins another one.
      const { connection } = page.server.session;
      connection.heartbeat();
      await until(() => way !== "poll" || ![undefined, connection].includes(page.server.session.connection));
      await page.connected(login);
    }
    const before = page.server.opened.length;
    page.server.session.connection.isDead = true;
    page.server.session.scan();
    await page.clock.advance(22_000);
    assert.equal(page.server.opened.length, before);
    await page.clock.advance(3000);
    await until(() => page.server.opened.length > before);
    await state(login, "scanned");
    await page.connected(login);
    assert.equal(page.server.session.connection.kind, way);
    assert.equal(login.is_connected, true);
  });

  test(`${way}: a server without heartbeats is waited for`, { timeout }, async (t) => {
    const page = await Page.open(t, way);
    page.server.heartbeat_seconds = undefined;
    await page.start();
    const before = page.server.opened.length;
    await page.clock.advance(200_000);
    assert.equal(page.server.opened.length, before);
  });

  test(`${way}: a token that cannot be made (1011) is asked for again, less and less often`, { timeout }, async (t) => {
    const page = await Page.open(t, way);
    const login = await page.start();
    for (const ms of [500, 1000, 2000]) {
      if (way === "poll") page.server.instead.poll = refuse(500, "internal");
      page.server.session.connection?.close(1011, "the token cannot be made");
      await page.clock.paused(ms);
      assert.equal(login.is_connected, false);
      const before = page.server.opened.length;
      // A poll is answered at once until the token can be made again.
      if (way === "poll" && ms === 2000) delete page.server.instead.poll;
      await page.clock.advance(ms);
      if (way !== "poll" || ms === 2000) await reconnected(page, login, before);
    }
    assert.equal(page.server.session.connection.kind, way);
    page.server.session.confirm();
    await until(() => page.server.session.isClaimed);
  });

  test(`${way}: a newer connection (4409) ends the login for good`, { timeout }, async (t) => {
    const page = await Page.open(t, way);
    const login = await page.start();
    page.server.session.connection.close(4409, "a newer connection took over");
    await state(login, "replaced");
    const { length } = page.server.requests;
    await page.clock.advance(120_000);
    assert.equal(page.server.requests.length, length);
    assert.deepEqual([...page.storage.items.values()], [page.server.session.id]);
  });

  test(`${way}: a session that the server does not have any more (404) has expired`, { timeout }, async (t) => {
    const page = await Page.open(t, way);
    const login = await page.start();
    page.server.session.id = "another";
    page.server.session.connection.destroy();
    await page.clock.paused(FIRST_PAUSE_MS);
    // A page does not see the status of a refused WebSocket: events have it.
    if (way === "ws") delete page.server.instead.sse;
    await page.clock.advance(FIRST_PAUSE_MS);
    await state(login, "expired");
    assert.equal(page.storage.items.size, 0);
    assert.equal(login.state.reason, undefined);
  });

  test(`${way}: a page that the server refuses (403) is blocked`, { timeout }, async (t) => {
    const page = await Page.open(t, way);
    page.server.instead[way] = way === "ws" ? refuseUpgrade(403) : refuse(403, "forbidden_origin");
    if (way === "ws") page.server.instead.sse = refuse(403, "forbidden_origin");
    const login = page.create();
    login.start();
    await state(login, "blocked");
    assert.equal(login.state.reason, "forbidden_origin");
    assert.deepEqual(login.events, ["ready", "error"]);
    assert.deepEqual(login.details.error, { code: "forbidden_origin", message: "refused: forbidden_origin" });
    assert.deepEqual(page.errors, ["qr-login: refused: forbidden_origin"]);
    await page.clock.advance(120_000);
    assert.equal(page.server.sessions.length, 1);
  });

  test(`${way}: too many connections (429) are begun again after Retry-After`, { timeout }, async (t) => {
    const page = await Page.open(t, way);
    const refused = refuse(429, "rate_limited", { "retry-after": "7" });
    page.server.instead[way] = way === "ws" ? refuseUpgrade(429) : refused;
    if (way === "ws") page.server.instead.sse = refused;
    const login = page.create();
    login.start();
    await page.clock.paused(7000);
    delete page.server.instead[way];
    await pauses(page, login, 7000, way);
  });
}

for (const way of ["ws", "sse"]) {
  test(`${way}: a server that restarts (1012) is returned to after retry_after_ms`, { timeout }, async (t) => {
    const page = await Page.open(t, way);
    const login = await page.start();
    page.server.session.connection.close(1012, "restarting, retry_after_ms=1234");
    await pauses(page, login, 1234, way);
  });

  for (const [code, what] of [[4408, "that left heartbeats unanswered"], [1013, "whose store does not answer"]]) {
    test(`${way}: a connection ${what} (${code}) is begun again`, { timeout }, async (t) => {
      const page = await Page.open(t, way);
      const login = await page.start();
      for (let times = 0; times < 2; times++) {
        page.server.session.connection.close(code, "");
        await pauses(page, login, FIRST_PAUSE_MS, way);
      }
    });
  }
}

test("a server that stops answers a long poll with 503 and Retry-After", { timeout }, async (t) => {
  const page = await Page.open(t, "poll");
  const login = await page.start();
  page.server.session.connection.close(1012);
  await pauses(page, login, 2000, "poll");
});

const generate = {
  "429 and Retry-After": [refuse(429, "rate_limited", { "retry-after": "7" }), 7000],
  "503 and Retry-After": [refuse(503, "unavailable", { "retry-after": "3" }), 3000],
  "503 without Retry-After": [refuse(503, "unavailable"), FIRST_PAUSE_MS],
  "429 and a date": [refuse(429, "rate_limited", { "retry-after": "Sat, 28 Nov 2026 00:00:00 GMT" }), FIRST_PAUSE_MS],
  "408": [refuse(408, "request_timeout"), FIRST_PAUSE_MS],
  "a proxy's page": [respond("<h1>Bad Gateway</h1>", "text/html", 502), FIRST_PAUSE_MS],
  "a captive portal's page": [respond("<h1>Welcome to the hotel</h1>"), FIRST_PAUSE_MS],
  "JSON of another shape": [respond("{}", "application/json"), FIRST_PAUSE_MS],
  "null": [respond("null", "application/json"), FIRST_PAUSE_MS],
  "a closed connection": [disconnect, FIRST_PAUSE_MS],
};
for (const [name, [handler, ms]] of Object.entries(generate)) {
  test(`a request for a code that is answered with ${name} is repeated after ${ms} ms`, { timeout }, async (t) => {
    const page = await Page.open(t);
    page.server.instead.generate = handler;
    const login = page.create();
    login.start();
    await page.clock.paused(ms);
    assert.equal(login.state.name, "loading");
    assert.equal(login.is_connected, false);
    assert.equal(page.storage.items.size, 0);
    delete page.server.instead.generate;
    await page.clock.advance(ms - 1);
    assert.equal(page.server.sessions.length, 0);
    await page.clock.advance(1);
    await until(() => page.server.sessions.length === 1);
    await page.connected(login);
    assert.deepEqual(login.events, ["ready"]);
  });
}

for (const [status, code] of [[403, "forbidden_origin"], [404, "not_found"], [410, "expired"]]) {
  test(`a page whose request for a code is refused with ${status} is blocked`, { timeout }, async (t) => {
    const page = await Page.open(t);
    page.server.instead.generate = refuse(status, code);
    const login = page.create();
    login.start();
    await state(login, "blocked");
    assert.equal(login.details.error.code, code);
    await page.clock.advance(120_000);
    assert.equal(page.server.count("generate"), 1);
  });
}

test("a reload whose session cannot be read for now keeps it", { timeout }, async (t) => {
  const page = await Page.open(t);
  (await page.start()).stop();
  await until(() => page.server.connections.size === 0);
  const login = page.create();
  for (const handler of [disconnect, refuse(429, "rate_limited"), refuse(503, "unavailable"), respond("welcome")]) {
    page.server.instead.status = handler;
    login.start();
    await page.clock.paused(FIRST_PAUSE_MS);
    assert.equal(login.state.name, "loading");
  }
  delete page.server.instead.status;
  await page.clock.advance(FIRST_PAUSE_MS);
  await until(() => page.server.session.connection);
  await page.connected(login);
  assert.equal(page.server.sessions.length, 1);
});

const garbage = [
  ...["", "text", "{", "null", "true", "5", '"text"', "[]", "{}"],
  ...['{"status":"postponed"}', '{"status":null}', '{"status":["confirmed"]}', '{"status":"toString"}'],
  '{"state":"confirmed"}',
];

for (const way of ["ws", "sse"]) {
  for (const text of garbage) {
    test(`${way}: the message ${text || "without text"} changes no state`, { timeout }, async (t) => {
      const page = await Page.open(t, way);
      const login = await page.start();
      const { state: before } = login;
      const { session } = page.server;
      const connection = session.connection;
      connection.send(way === "ws" ? text : `data: ${text}\n\n`);
      // Text that is no JSON ends the connection. After other messages, it is used as before.
      if (["", "text", "{"].includes(text)) {
        await page.clock.paused(FIRST_PAUSE_MS);
        assert.deepEqual(login.state, before);
        await until(() => page.server.connections.size === 0);
        await pauses(page, login, FIRST_PAUSE_MS, way);
      } else session.connection.heartbeat();
      session.rotate();
      await until(() => login.state.qr_url === session.code.qr_url);
      const { qr_url, qr_image } = session.code;
      assert.deepEqual({ ...login.state, ends_at: 0 }, { ...before, qr_url, qr_image, ends_at: 0 });
      assert.deepEqual(login.events, ["ready"]);
      session.confirm();
      await until(() => session.isClaimed);
    });
  }
}

for (const text of garbage) {
  test(`poll: the answer ${text || "without text"} changes no state`, { timeout }, async (t) => {
    const page = await Page.open(t, "poll");
    const login = await page.start();
    const { session } = page.server;
    const before = { ...login.state, ends_at: 0 };
    page.server.instead.poll = (request, response) => {
      delete page.server.instead.poll;
      respond(text, "application/json")(request, response);
    };
    const { length } = page.server.polls;
    // The server restarts, and a proxy responds instead of it.
    session.connection.close(1012);
    await page.clock.paused(2000);
    await page.clock.advance(2000);
    await until(() => page.server.polls.length > length);
    for (let times = 0; times < 200 && !session.connection; times++) await page.clock.advance(100);
    await page.connected(login);
    assert.deepEqual({ ...login.state, ends_at: 0 }, before);
    assert.deepEqual(login.events, ["ready"]);
    session.confirm();
    await until(() => session.isClaimed);
  });
}

/** Opens a page that receives events of a window. */
async function window(t, way) {
  const page = await Page.open(t, way);
  const target = new EventTarget();
  const document = { hidden: false };
  page.globals(t, { addEventListener: target.addEventListener.bind(target), document });
  return { page, document, dispatch: (type) => target.dispatchEvent(new Event(type)) };
}

test("a pause ends when the browser is online again or the page is shown", { timeout }, async (t) => {
  const { page, dispatch } = await window(t);
  const login = await page.start();
  for (const type of ["online", "visibilitychange", "resume"]) {
    page.server.session.connection.close(1012, "retry_after_ms=20000");
    await page.clock.paused(20_000);
    const before = page.server.opened.length;
    dispatch(type);
    await reconnected(page, login, before);
  }
});

test("a page that is shown again asks its socket, and gives it up without an answer", { timeout }, async (t) => {
  const { page, document, dispatch } = await window(t);
  await page.start();
  const { connection } = page.server.session;
  document.hidden = true;
  dispatch("visibilitychange");
  document.hidden = false;
  dispatch("visibilitychange");
  await until(() => connection.received.length === 1);
  assert.deepEqual(connection.received, ["ping"]);
  await page.clock.advance(5000);
  assert.equal(page.server.opened.length, 1);
  connection.isDead = true;
  page.server.session.scan();
  dispatch("visibilitychange");
  await page.clock.advance(2000);
  await until(() => page.server.opened.length === 2);
  await state(page.logins[0], "scanned");
});

test("a jump of the wall clock asks the connection", { timeout }, async (t) => {
  const page = await Page.open(t);
  await page.start();
  page.clock.wallMs += 600_000;
  await page.clock.advance(250);
  await until(() => page.server.session.connection.received.includes("ping"));
});

test("a page in the back/forward cache has no connection, and continues when it is shown", { timeout }, async (t) => {
  const { page, dispatch } = await window(t);
  const login = await page.start();
  dispatch("pagehide");
  await until(() => page.server.connections.size === 0);
  await until(() => page.clock.timers === 0, "timers are cleared");
  page.server.session.scan();
  dispatch("pageshow");
  await state(login, "scanned");
  assert.equal(page.server.sessions.length, 1);
});

test("a browser that is offline is shown as such at once", { timeout }, async (t) => {
  const { page, dispatch } = await window(t);
  const login = await page.start();
  dispatch("offline");
  assert.equal(login.is_connected, false);
  dispatch("online");
  await until(() => login.is_connected);
});

test("a server that does not allow this origin is named after the second failure", { timeout }, async (t) => {
  const page = await Page.open(t);
  page.globals(t, { origin: "https://shop.example.com" });
  page.server.instead.generate = disconnect;
  const login = page.create();
  login.start();
  await page.clock.paused(FIRST_PAUSE_MS);
  assert.equal(login.state.name, "loading");
  await page.clock.advance(FIRST_PAUSE_MS);
  await state(login, "blocked");
  assert.equal(login.state.reason, "forbidden_origin");
  assert.match(page.errors[0], /allowed_origins/);
});

test("a network that returns during the diagnosis does not block the page", { timeout }, async (t) => {
  const page = await Page.open(t);
  page.globals(t, { origin: "https://shop.example.com" });
  page.server.instead.generate = disconnect;
  page.server.instead["jwks.json"] = (...request) => {
    delete page.server.instead.generate;
    respond("{}", "application/json")(...request);
  };
  const login = page.create();
  login.start();
  await page.clock.paused(FIRST_PAUSE_MS);
  await page.clock.advance(FIRST_PAUSE_MS);
  await state(login, "ready");
  await page.connected(login);
  assert.equal(page.server.count("jwks.json"), 1);
  assert.deepEqual(login.events, ["ready"]);
  assert.deepEqual(page.errors, []);
});

for (const [name, handler] of [
  ["HTML", respond("<p>Log in to this network</p>")],
  ["null", respond("null", "application/json")],
]) {
  test(`a captive portal that sends ${name} does not block a page of another origin`, { timeout }, async (t) => {
    const page = await Page.open(t);
    page.globals(t, { origin: "https://shop.example.com" });
    for (const route of ["generate", "status"]) page.server.instead[route] = handler;
    page.server.instead["jwks.json"] = handler;
    const login = page.create();
    login.start();
    for (const ms of [500, 1000, 2000]) {
      await page.clock.paused(ms);
      await page.clock.advance(ms);
    }
    assert.equal(login.state.name, "loading");
    assert.equal(page.server.count("jwks.json"), 0);
  });
}

test("a silent first connection is waited for longer at each attempt", { timeout }, async (t) => {
  const page = await Page.open(t);
  const login = page.create();
  page.server.instead = { ws: ignore, sse: disconnect, poll: disconnect };
  login.start();
  for (const [index, [firstMessageMs, pauseMs]] of [[4000, 500], [8000, 1000], [12_000, 2000]].entries()) {
    await until(() => page.server.count("ws") === index + 1);
    await page.clock.advance(firstMessageMs - 250);
    assert.equal(page.server.count("sse"), index);
    await page.clock.advance(750);
    await page.clock.paused(pauseMs);
    await page.clock.advance(pauseMs);
  }
});
