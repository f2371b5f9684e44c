// The decision of a phone: each state, tokens, retries.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Page, state, until } from "./page.js";
import { disconnect, ignore, refuse, respond } from "./server.js";

const timeout = 5000;

/** Opens a page, with a session whose code the phone has. */
async function open(t) {
  const page = await Page.open(t);
  await page.generate();
  return page;
}

/** Returns a handler that responds with an app token. */
const giveToken = (token) => respond(JSON.stringify({ token }), "application/json");

/** Returns a handler that responds with each handler in turn, and then with the last one. */
function inTurn(...handlers) {
  return (...request) => (handlers.length > 1 ? handlers.shift() : handlers[0])(...request);
}

test("a code is scanned, and the state describes the browser", { timeout }, async (t) => {
  const page = await open(t);
  const approve = await page.ask();
  const { client, ends_at, lasts_ms, numbers, risk } = approve.state;
  assert.equal(client.browser, "Firefox");
  assert.equal(client.origin, "https://www.example.com");
  assert.deepEqual([lasts_ms, numbers, risk], [300_000, undefined, undefined]);
  assert.equal(ends_at - performance.now(), 300_000);
  assert.equal(page.server.session.status, "scanned");
  assert.deepEqual(approve.events, ["asking"]);
});

for (const [act, name] of [["confirm", "confirmed"], ["reject", "rejected"]]) {
  test(`a login is ${name}`, { timeout }, async (t) => {
    const page = await open(t);
    const approve = await page.ask();
    await approve[act]();
    assert.equal(approve.state.name, name);
    assert.equal(page.server.session.status, name);
    assert.deepEqual(approve.events, ["asking", "deciding", name]);
  });
}

test("a code without its URL is sent as it is", { timeout }, async (t) => {
  const page = await open(t);
  const approve = await page.ask({ code: page.server.session.code.code });
  assert.equal(approve.state.name, "asking");
});

test("a second decision is ignored", { timeout }, async (t) => {
  const page = await open(t);
  const approve = await page.ask();
  await Promise.all([approve.confirm(), approve.confirm(), approve.reject()]);
  await approve.reject();
  assert.equal(approve.state.name, "confirmed");
  assert.deepEqual(page.server.requests.filter((route) => /confirm|reject/.test(route)), ["confirm"]);
});

test("nothing is decided before the scan", { timeout }, async (t) => {
  const page = await open(t);
  const approve = await page.approve({ code: page.server.session.code.code });
  await approve.confirm();
  approve.start();
  await approve.reject();
  await state(approve, "asking");
  assert.equal(page.server.session.status, "scanned");
});

test("numbers are compared", { timeout }, async (t) => {
  const page = await open(t);
  page.server.numbers = ["42", "17", "05"];
  const approve = await page.ask();
  assert.deepEqual(approve.state.numbers, ["05", "17", "42"]);
  await approve.confirm();
  await approve.confirm("99");
  assert.equal(approve.state.name, "asking");
  await approve.confirm(42);
  assert.equal(approve.state.name, "confirmed");
  assert.equal(page.server.count("confirm"), 1);
});

test("a wrong number rejects the login", { timeout }, async (t) => {
  const page = await open(t);
  page.server.numbers = ["42", "17", "05"];
  const approve = await page.ask();
  await approve.confirm("17");
  assert.deepEqual([approve.state.name, approve.state.reason], ["wrong_number", "number_mismatch"]);
  assert.equal(page.server.session.status, "rejected");
});

test("the code is scanned again if numbers are compared and the scan is lost", { timeout }, async (t) => {
  const page = await open(t);
  page.server.numbers = ["42", "17", "05"];
  const approve = await page.ask();
  page.server.session.status = "pending";
  await approve.confirm("42");
  await state(approve, "asking");
  await approve.confirm("42");
  assert.equal(approve.state.name, "confirmed");
});

test("differences in location are in the state", { timeout }, async (t) => {
  const page = await open(t);
  page.server.risk = ["country"];
  const approve = await page.ask();
  assert.deepEqual(approve.state.risk, ["country"]);
});

test("the application of the session is in the state until the decision", { timeout }, async (t) => {
  const page = await open(t);
  const application = { name: "Grafana", logo: "https://grafana.example/logo.png", scopes: ["openid", "email"] };
  page.server.application = application;
  const approve = await page.ask();
  assert.deepEqual(approve.state.application, application);
  page.server.instead.confirm = disconnect;
  const decided = approve.confirm();
  await page.clock.paused(500);
  assert.deepEqual(approve.state.application, application);
  delete page.server.instead.confirm;
  await page.clock.advance(500);
  await decided;
  assert.deepEqual(approve.state, { name: "confirmed" });
});

/** Each refusal of the routes of phones (PROTOCOL.md), and its state. */
const refusals = [
  [404, "not_found", "unknown"],
  [410, "expired", "expired"],
  [410, "cancelled", "cancelled"],
  [409, "already_scanned", "taken"],
  [409, "already_decided", "taken"],
  [403, "wrong_user", "taken"],
  [403, "number_mismatch", "wrong_number"],
  [403, "risk", "refused"],
  [401, "invalid_token", "logged_out"],
  [401, "insufficient_user_authentication", "logged_out"],
  [403, "forbidden_origin", "blocked"],
  [403, "forbidden_host", "blocked"],
  [400, "invalid_request", "blocked"],
  [405, "method_not_allowed", "blocked"],
  [413, "payload_too_large", "blocked"],
  [415, "unsupported_media_type", "blocked"],
];
for (const [status, code, name] of refusals) {
  for (const call of ["scan", "confirm"]) {
    test(`${status} ${code} of ${call} is shown as ${name}`, { timeout }, async (t) => {
      const page = await open(t);
      page.server.instead[call] = refuse(status, code);
      const approve = call === "scan" ? await page.approve({ code: "any" }) : await page.ask();
      if (call === "scan") approve.start();
      else await approve.confirm();
      await state(approve, name);
      assert.equal(approve.state.reason, code);
      assert.equal(approve.is_connected, true);
      assert.equal(approve.events.at(-1), name === "blocked" ? "error" : name.replace("_", "-"));
      assert.deepEqual(page.errors, name === "blocked" ? [`qr-approve: refused: ${code}`] : []);
    });
  }
}

test("a refusal of a proxy without a code is shown as blocked", { timeout }, async (t) => {
  const page = await open(t);
  page.server.instead.scan = respond("<h1>Not found</h1>", "text/html", 404);
  const approve = await page.approve({ code: "any" });
  approve.start();
  await state(approve, "blocked");
  assert.equal(approve.state.reason, "status_404");
});

for (const [status, code, after] of [[503, "unavailable", "2"], [429, "rate_limited", "30"]]) {
  test(`${status} is repeated after the time that the server names`, { timeout }, async (t) => {
    const page = await open(t);
    page.server.instead.scan = refuse(status, code, { "retry-after": after });
    const approve = await page.approve({ code: page.server.session.code.code });
    approve.start();
    await page.clock.paused(after * 1000);
    assert.deepEqual([approve.is_connected, approve.is_busy], [false, true]);
    delete page.server.instead.scan;
    await page.clock.advance(after * 1000);
    await state(approve, "asking");
    assert.deepEqual([approve.is_connected, approve.is_busy], [true, false]);
  });
}

for (const [name, handler] of Object.entries({
  "408 is": refuse(408, "request_timeout"),
  "500 is": refuse(500, "internal"),
  "a lost connection is": disconnect,
  "an answer of a captive portal is": respond("<p>Log in to this network</p>"),
  "JSON of another server is": respond("{}", "application/json"),
})) {
  test(`${name} repeated with backoff`, { timeout }, async (t) => {
    const page = await open(t);
    page.server.instead.scan = handler;
    const approve = await page.approve({ code: page.server.session.code.code });
    approve.start();
    for (const pauseMs of [500, 1000, 2000, 4000, 5000, 5000]) {
      await page.clock.paused(pauseMs);
      assert.equal(approve.state.name, "loading");
      assert.equal(approve.is_connected, false);
      await page.clock.advance(pauseMs);
    }
    delete page.server.instead.scan;
    await page.clock.paused(5000);
    await page.clock.advance(5000);
    await state(approve, "asking");
  });
}

test("a request without an answer is repeated after ten seconds", { timeout }, async (t) => {
  const page = await open(t);
  page.server.instead.scan = ignore;
  const approve = await page.approve({ code: page.server.session.code.code });
  approve.start();
  await until(() => page.server.count("scan") === 1);
  delete page.server.instead.scan;
  await page.clock.advance(10_000);
  await page.clock.paused(500);
  await page.clock.advance(500);
  await state(approve, "asking");
});

test("a pause ends when the browser is online again", { timeout }, async (t) => {
  const page = await open(t);
  const window = new EventTarget();
  page.globals(t, { addEventListener: (...args) => window.addEventListener(...args) });
  page.server.instead.scan = disconnect;
  const approve = await page.approve({ code: page.server.session.code.code });
  approve.start();
  await page.clock.paused(500);
  delete page.server.instead.scan;
  window.dispatchEvent(new Event("online"));
  await state(approve, "asking");
});

for (const call of ["confirm", "reject"]) {
  test(`a ${call} whose answer was lost is sent again`, { timeout }, async (t) => {
    const page = await open(t);
    const { server } = page;
    const approve = await page.ask();
    const handle = server.instead;
    const status = `${call}ed`;
    // The server decides, and the connection ends before its answer.
    handle[call] = (request, response) => {
      delete handle[call];
      server.session.decision = `${status} undefined`;
      server.session[call]();
      disconnect(request, response);
    };
    const decided = approve[call]();
    await page.clock.paused(500);
    assert.deepEqual([approve.state.name, approve.is_connected], ["deciding", false]);
    await page.clock.advance(500);
    await decided;
    assert.equal(approve.state.name, status);
    assert.equal(server.count(call), 2);
  });
}

test("the same user decides twice in two tabs", { timeout }, async (t) => {
  const page = await open(t);
  const [first, second, third] = [await page.ask(), await page.ask(), await page.ask()];
  await first.confirm();
  await second.confirm();
  await third.reject();
  assert.equal(second.state.name, "confirmed");
  assert.deepEqual([third.state.name, third.state.reason], ["taken", "already_decided"]);
  assert.equal(page.server.session.status, "confirmed");
});

test("another user has scanned", { timeout }, async (t) => {
  const page = await open(t);
  await page.ask();
  const approve = await page.approve({ code: page.server.session.code.code, token: "token of Bob" });
  approve.start();
  await state(approve, "taken");
  assert.equal(approve.state.reason, "already_scanned");
});

test("a question expires with its session", { timeout }, async (t) => {
  const page = await open(t);
  const approve = await page.ask();
  await page.clock.advance(299_999);
  assert.equal(approve.state.name, "asking");
  await page.clock.advance(1);
  assert.equal(approve.state.name, "expired");
  await approve.confirm();
  assert.equal(page.server.count("confirm"), 0);
});

test("a decision that is being sent does not expire at the phone", { timeout }, async (t) => {
  const page = await open(t);
  const approve = await page.ask();
  await page.clock.advance(299_999);
  page.server.instead.confirm = disconnect;
  const decided = approve.confirm();
  await page.clock.paused(500);
  delete page.server.instead.confirm;
  await page.clock.advance(500);
  await decided;
  assert.equal(approve.state.name, "confirmed");
});

test("a decision is sent although the page removes the element", { timeout }, async (t) => {
  const page = await open(t);
  const approve = await page.ask();
  approve.confirm();
  approve.stop();
  await until(() => page.server.session.status === "confirmed");
});

test("stop() ends a scan", { timeout }, async (t) => {
  const page = await open(t);
  page.server.instead.scan = disconnect;
  const approve = await page.approve({ code: "any" });
  approve.start();
  await page.clock.paused(500);
  approve.stop();
  await until(() => page.clock.timers === 0);
  await page.clock.advance(60_000);
  assert.equal(page.server.count("scan"), 1);
});

test("an endpoint that is no URL is shown as blocked", { timeout }, async (t) => {
  const page = await open(t);
  const approve = await page.approve({ endpoint: "//", code: "any" });
  approve.start();
  await state(approve, "blocked");
  assert.equal(approve.state.reason, "no_endpoint");
});

test("a page whose origin is not allowed is shown as blocked", { timeout }, async (t) => {
  const page = await open(t);
  page.globals(t, { origin: "https://evil.example" });
  // The browser hides the refusal from the page.
  page.server.instead.scan = disconnect;
  page.server.instead["jwks.json"] = giveToken();
  const approve = await page.approve({ code: "any" });
  approve.start();
  await page.clock.paused(500);
  await page.clock.advance(500);
  await state(approve, "blocked");
  assert.equal(approve.state.reason, "forbidden_origin");
  assert.match(page.errors[0], /add "https:\/\/evil\.example" to the setting allowed_origins of http/);
  assert.equal(page.server.count("scan"), 3);
});

test("a captive portal does not block a page of another origin", { timeout }, async (t) => {
  const page = await open(t);
  page.globals(t, { origin: "https://www.example.com" });
  page.server.instead.scan = respond("<p>Log in to this network</p>");
  page.server.instead["jwks.json"] = giveToken();
  const approve = await page.approve({ code: page.server.session.code.code });
  approve.start();
  for (const pauseMs of [500, 1000, 2000]) {
    await page.clock.paused(pauseMs);
    await page.clock.advance(pauseMs);
  }
  assert.equal(approve.state.name, "loading");
});

test("a network that returns during the diagnosis does not block the page", { timeout }, async (t) => {
  const page = await open(t);
  page.globals(t, { origin: "https://www.example.com" });
  page.server.instead.scan = disconnect;
  page.server.instead["jwks.json"] = (...request) => {
    delete page.server.instead.scan;
    giveToken()(...request);
  };
  const approve = await page.approve({ code: page.server.session.code.code });
  approve.start();
  await page.clock.paused(500);
  await page.clock.advance(500);
  await state(approve, "asking");
});

// Tokens

test("a token that is refused ends in logged_out, and start() continues with another one", { timeout }, async (t) => {
  const page = await open(t);
  const approve = await page.approve({ code: page.server.session.code.code, token: "old" });
  approve.start();
  await state(approve, "logged_out");
  assert.deepEqual(page.server.tokens, ["old"]);
  approve.token = "token of Ada";
  approve.start();
  await state(approve, "asking");
});

test("a function returns the token, and is called again if it was refused", { timeout }, async (t) => {
  const page = await open(t);
  const tokens = ["old", "token of Ada", "token of Bob"];
  const approve = await page.ask({ token: async () => tokens.shift() });
  assert.deepEqual(page.server.tokens, ["old", "token of Ada"]);
  await approve.confirm();
  assert.deepEqual(page.server.tokens, ["old", "token of Ada", "token of Ada"]);
});

test("a function that returns nothing ends in logged_out", { timeout }, async (t) => {
  const page = await open(t);
  const approve = await page.approve({ code: "any", token: () => null });
  approve.start();
  await state(approve, "logged_out");
  assert.equal(page.server.count("scan"), 0);
});

test("a function that throws is called again after a pause", { timeout }, async (t) => {
  const page = await open(t);
  const results = [() => Promise.reject(Error("offline")), () => "token of Ada"];
  const approve = await page.approve({ code: page.server.session.code.code, token: () => results.shift()() });
  approve.start();
  await page.clock.paused(500);
  await page.clock.advance(500);
  await state(approve, "asking");
});

test("a token is fetched from the origin of the page, once for both calls", { timeout }, async (t) => {
  const page = await open(t);
  page.visit(t, "/approve");
  const requests = [];
  page.server.instead.token = (request, response) => {
    requests.push(request);
    giveToken("token of Ada")(request, response);
  };
  const approve = await page.ask({ token: undefined, token_url: "/qr/token" });
  await approve.confirm();
  assert.equal(approve.state.name, "confirmed");
  assert.equal(requests.length, 1);
  const [{ method, url, headers }] = requests;
  assert.deepEqual([method, url], ["POST", "/qr/token"]);
  assert.equal(headers["x-qr-approve"], "1");
  assert.equal(headers.authorization, undefined);
});

test("a token that has expired is fetched anew for the decision", { timeout }, async (t) => {
  const page = await open(t);
  page.visit(t, "/approve");
  page.server.users = { first: "Ada", second: "Ada" };
  page.server.instead.token = inTurn(giveToken("first"), giveToken("second"));
  const approve = await page.ask({ token: undefined, token_url: "/token" });
  delete page.server.users.first;
  await approve.confirm();
  assert.equal(approve.state.name, "confirmed");
  assert.deepEqual(page.server.tokens, ["first", "first", "second"]);
});

test("a token of another user than the one who scanned is refused", { timeout }, async (t) => {
  const page = await open(t);
  page.visit(t, "/approve");
  page.server.instead.token = inTurn(giveToken("token of Ada"), giveToken("token of Bob"));
  const approve = await page.ask({ token: undefined, token_url: "/token" });
  delete page.server.users["token of Ada"];
  await approve.confirm();
  assert.deepEqual([approve.state.name, approve.state.reason], ["taken", "wrong_user"]);
});

test("a second token that is refused ends in logged_out", { timeout }, async (t) => {
  const page = await open(t);
  page.visit(t, "/approve");
  page.server.instead.token = giveToken("no good");
  const approve = await page.approve({ code: "any", token: undefined, token_url: "/token" });
  approve.start();
  await state(approve, "logged_out");
  assert.deepEqual(page.server.tokens, ["no good", "no good"]);
});

for (const [name, handler, error] of [
  ["401", respond("", "text/plain", 401)],
  ["403", respond("", "text/plain", 403)],
  ["a redirect", (request, response) => response.writeHead(302, { location: "/login" }).end()],
  ["no token", respond("{}", "application/json")],
  ["a token that is null", giveToken(null)],
  ["a page instead of JSON", respond("<form>Log in</form>"), "qr-approve: the token URL responded without JSON"],
]) {
  test(`${name} of the token URL ends in logged_out`, { timeout }, async (t) => {
    const page = await open(t);
    page.visit(t, "/approve");
    page.server.instead.token = handler;
    const approve = await page.approve({ code: "any", token: undefined, token_url: "/token" });
    approve.start();
    await state(approve, "logged_out");
    assert.deepEqual(page.server.requests, ["generate", "token"]);
    assert.deepEqual(page.errors, error ? [error] : []);
  });
}

test("a token URL that fails is requested again", { timeout }, async (t) => {
  const page = await open(t);
  page.visit(t, "/approve");
  const busy = (request, response) => response.writeHead(503, { "retry-after": "3" }).end();
  page.server.instead.token = inTurn(disconnect, busy, giveToken("token of Ada"));
  const approve = await page.approve({ code: page.server.session.code.code, token: undefined, token_url: "/token" });
  approve.start();
  for (const pauseMs of [500, 3000]) {
    await page.clock.paused(pauseMs);
    await page.clock.advance(pauseMs);
  }
  await state(approve, "asking");
  assert.equal(page.server.count("jwks.json"), 0);
});

for (const [reason, token_url] of [
  ["foreign_token_url", "https://evil.example/token"],
  ["foreign_token_url", "//evil.example/token"],
  ["foreign_token_url", "data:application/json,{}"],
  ["no_token_url", ""],
  ["no_token_url", "https://"],
]) {
  test(`the token URL "${token_url}" is refused`, { timeout }, async (t) => {
    const page = await open(t);
    page.visit(t, "/approve");
    const approve = await page.approve({ code: "any", token: undefined, token_url });
    approve.start();
    await state(approve, "blocked");
    assert.equal(approve.state.reason, reason);
    assert.equal(approve.events.at(-1), "error");
    assert.deepEqual(page.sent, []);
  });
}

test("a token URL that does not exist is shown as blocked", { timeout }, async (t) => {
  const page = await open(t);
  page.visit(t, "/approve");
  page.server.instead.token = respond("", "text/plain", 404);
  const approve = await page.approve({ code: "any", token: undefined, token_url: "/token" });
  approve.start();
  await state(approve, "blocked");
  assert.equal(approve.state.reason, "token_url_404");
});
