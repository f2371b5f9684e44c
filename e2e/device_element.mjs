// Logins that the device endpoint has begun, shown by <qr-login> on a page of another site, in Chromium and Firefox:
// node device_element.mjs QRLOGIN DATABASE_URL, with the path of the program, and an empty database of Postgres.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { createServer as createHttpServer } from "node:http";
import { connect, createServer } from "node:net";
import { join } from "node:path";
import { cleanUp, createProvider, freePort, launch, logIn, scratch, startServer } from "./approval.mjs";

const [program, databaseUrl] = process.argv.slice(2);
/** Number of logins that are in progress at a time. */
const CONCURRENT = 10;
/** Number of logins of each browser. */
const LOGINS = { Chromium: 500, Firefox: 50 };
/** Number of logins that are shown while a node is killed, and of those that are decided before. */
const LOGINS_OF_A_KILL = 60;
const DECIDED_BEFORE = 25;
/** Time within which each login must end, in milliseconds. */
const PATIENCE_MS = 60_000;
/**
 * Time in which a node notes that a response has been sent, and in which a device has read the response, in milliseconds.
 * The tokens of a node that dies before it has noted that can be collected again.
 */
const NOTED_MS = 2000;
const READ_MS = 1000;
/** Maximum time between two polls of a device, in milliseconds: of those that race, and of those that outlast a kill. */
const POLL_MS = 100;
const LONG_POLL_MS = 1000;
/** Number of pages of each browser that show the logins of a kill. A browser has six connections to a host. */
const PAGES = 5;
const PENDING = ["authorization_pending", "slow_down"];

const [port, providerPort, opsPort, ...nodePorts] = await Promise.all(Array.from({ length: 7 }, freePort));
const base = `http://localhost:${port}`;
const stopProvider = await (await createProvider(providerPort, base))();

/** Starts the site of the page of a device, which has its own copy of the element. Returns its origin. */
async function startSite() {
  const element = readFileSync(new URL("../clients/js/dist/qr-login.js", import.meta.url));
  const server = createHttpServer((request, response) => {
    const isElement = request.url === "/qr-login.js";
    response.writeHead(200, { "content-type": isElement ? "text/javascript" : "text/html" });
    response.end(isElement ? element : '<!doctype html><title>TV</title><link rel="icon" href="data:,"><script type="module" src="qr-login.js"></script>');
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  return `http://127.0.0.1:${server.address().port}`;
}

const site = await startSite();
const config = join(scratch, "device.toml");
writeFileSync(config, `
allowed_origins = ["${site}"]
[limits]
enabled = false
[[oauth.clients]]
id = "tv"
name = "Example TV"
grant_types = ["device_code"]
auth_method = "none"
`);

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Resolves as the promise does, or rejects after a time with what has not happened. */
async function withinPatience(what, promise) {
  const end = new AbortController();
  const late = new Promise((_, reject) => {
    const timer = setTimeout(() => reject(new Error(`did not happen: ${what}`)), PATIENCE_MS);
    end.signal.addEventListener("abort", () => clearTimeout(timer));
  });
  return Promise.race([promise, late]).finally(() => end.abort());
}

/** Begins the login of a device, and shows it. Returns the login, and what the element shows. Runs in the page. */
const begin = async ({ base, number }) => {
  const body = new URLSearchParams({ client_id: "tv", scope: "openid profile" });
  const response = await fetch(`${base}/oauth/device_authorization`, { method: "POST", body });
  const element = document.createElement("qr-login");
  element.setAttribute("endpoint", base);
  const device = (element.session = await response.json());
  const next = (name) =>
    new Promise((resolve) => element.addEventListener(`qr-login:${name}`, ({ detail }) => resolve(detail), { once: true }));
  const ready = next("ready");
  window.logins ??= {};
  window.logins[number] = { element, device, confirmed: next("confirmed") };
  document.body.append(element);
  const { qr_url } = await ready;
  const picture = element.shadowRoot.querySelector(".qr");
  await picture.decode();
  return { number, device, qr_url, isShown: picture.checkVisibility() && picture.naturalWidth > 0 };
};

/**
 * Waits until the element is confirmed, and requests the tokens then, unless `isCollected` reports that the device has
 * them. Returns the answer, its time, the detail of the event, and all that the element has. Runs in the page.
 */
const collectWhenConfirmed = async ({ base, number, clientId, grantType, pending }) => {
  const { element, device, confirmed } = window.logins[number];
  const detail = await confirmed;
  const parameters = { client_id: clientId, grant_type: grantType, device_code: device.device_code };
  let answer = { error: "not requested" };
  while (!(await window.isCollected?.(number))) {
    try {
      const body = new URLSearchParams(parameters);
      answer = await (await fetch(`${base}/oauth/token`, { method: "POST", body })).json();
      if (!pending.includes(answer.error)) break;
    } catch {
      // The node that would have answered was killed.
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const at = Date.now();
  const shown = JSON.stringify([detail, element.state, element.outerHTML, element.shadowRoot.innerHTML]);
  element.remove();
  return { answer, at, detail, shown };
};

const TOKEN_REQUEST = { clientId: "tv", grantType: "urn:ietf:params:oauth:grant-type:device_code", pending: PENDING };

/** Requests the tokens of a device once. */
async function requestTokens({ device_code }) {
  const parameters = { client_id: TOKEN_REQUEST.clientId, grant_type: TOKEN_REQUEST.grantType, device_code };
  const response = await fetch(`${base}/oauth/token`, { method: "POST", body: new URLSearchParams(parameters) });
  return response.json();
}

/** Polls for the tokens of a login until there is an answer, or the device has them. Requests may fail if `mayFail`. */
async function poll({ device }, { isCollected = () => false, pauseMs = POLL_MS, mayFail = false } = {}) {
  let answer = { error: "not requested" };
  while (!isCollected()) {
    try {
      answer = await requestTokens(device);
      if (!PENDING.includes(answer.error)) break;
    } catch (error) {
      // The node that would have answered was killed.
      if (!mayFail) throw error;
    }
    await pause(pauseMs * Math.random());
  }
  return answer;
}

/** The user: a browser that is logged in on the approve page, whose requests are sent without a page. */
class User {
  #cookie;

  /** Logs in at the provider on the approve page of a login. */
  static async logIn(openPage, url) {
    const [user, page] = [new User(), await openPage()];
    await page.goto(url);
    await logIn(page, "ann");
    await page.waitForSelector("button[value=confirm]");
    user.#cookie = (await page.context().cookies(base)).map(({ name, value }) => `${name}=${value}`).join("; ");
    await page.context().close();
    return user;
  }

  async #request(url, form) {
    const headers = { cookie: this.#cookie, "accept-language": "en", "sec-fetch-site": form ? "same-origin" : "none" };
    if (form) headers.origin = base;
    const init = form && { method: "POST", body: new URLSearchParams(form) };
    const response = await fetch(url, { headers, ...init });
    return response.text();
  }

  /** Confirms a login: opens the URL in the QR code, or types the user code. */
  async confirm({ number, device, qr_url }) {
    if (number % 2) {
      const page = await this.#request(device.verification_uri, { user_code: device.user_code });
      assert(page.includes(qr_url), page);
    }
    const asked = await this.#request(qr_url);
    // A login whose answer was lost is decided already.
    if (asked.includes("<title>You are logged in</title>")) return;
    assert(asked.includes("Example TV asks for"), asked);
    const [, form] = /name="form" value="([^"]*)"/.exec(asked);
    const decided = await this.#request(qr_url, { form, action: "confirm" });
    assert(decided.includes("<title>You are logged in</title>"), decided);
  }

  /** Confirms a login, and repeats that if a node is killed meanwhile. */
  async confirmAgain(login) {
    while (!(await this.confirm(login).then(() => true, (error) => {
      if (!(error instanceof TypeError)) throw error;
    }))) await pause(50);
  }
}

/** Checks what the element had when its login was collected. */
function checkElement({ detail, shown }) {
  assert.deepEqual(detail, { collect: true, user: { name: "Ann Example" } });
  // A JWT begins with two objects in base64.
  assert(!/web_token|access_token|eyJ[\w-]*\.eyJ/.test(shown), shown);
}

/** Opens a page of the site. `isCollected` tells it whether a device has its tokens. */
async function openSite(openPage, isCollected) {
  const page = await openPage();
  if (isCollected) await page.exposeFunction("isCollected", isCollected);
  await page.goto(site);
  await page.evaluate(() => customElements.whenDefined("qr-login").then(() => {}));
  return page;
}

const show = async (page, number) => {
  const login = await withinPatience(`${number} is shown`, page.evaluate(begin, { base, number }));
  assert.equal(login.qr_url, login.device.verification_uri_complete);
  assert(login.isShown, `${number} has no picture`);
  return login;
};

const push = ({ number }, page) =>
  withinPatience(`${number} is confirmed`, page.evaluate(collectWhenConfirmed, { base, number, ...TOKEN_REQUEST }));

/** One login, whose tokens are requested by two polls and by the page, which race. */
async function race(page, user, number) {
  const login = await show(page, number);
  const [, pushed, ...polled] = await Promise.all([user.confirm(login), push(login, page), poll(login), poll(login)]);
  checkElement(pushed);
  const answers = [pushed.answer, ...polled];
  const given = answers.filter(({ access_token }) => access_token);
  assert.equal(given.length, 1, JSON.stringify(answers));
  assert.equal(answers.filter(({ error }) => error === "invalid_grant").length, 2, JSON.stringify(answers));
  // The replays of the others have not revoked it.
  const authorization = `Bearer ${given[0].access_token}`;
  const info = await fetch(`${base}/oauth/userinfo`, { headers: { authorization } });
  assert.equal((await info.json()).name, "Ann Example");
  return pushed.answer === given[0];
}

/** Returns the number of browsers that wait at the server. */
async function countWaiting() {
  const metrics = await (await fetch(`http://127.0.0.1:${opsPort}/metrics`)).text();
  return Number(/^qrlogin_active_connections (\d+)/m.exec(metrics)[1]);
}

/** Waits until no browser waits at the server. */
async function untilNoneWaits() {
  const end = Date.now() + PATIENCE_MS;
  for (let count = await countWaiting(); count; count = await countWaiting()) {
    assert(Date.now() < end, `${count} browsers wait`);
    await pause(50);
  }
}

const settings = { QRLOGIN_OPS_LISTEN: `127.0.0.1:${opsPort}` };

async function racingLogins(openers) {
  const stop = await startServer(program, port, providerPort, settings, ["--config", config]);
  const first = await openSite(openers.Chromium);
  const { qr_url } = await show(first, 0);
  const picture = join(scratch, "code.png");
  await (await first.$("qr-login .qr")).screenshot({ path: picture });
  assert.equal(execFileSync("zbarimg", ["-q", "--raw", picture], { encoding: "utf8" }).trim(), qr_url);
  const user = await User.logIn(openers.Chromium, qr_url);
  await first.context().close();
  for (const [name, openPage] of Object.entries(openers)) {
    const page = await openSite(openPage);
    let byPush = 0;
    for (let number = 0; number < LOGINS[name]; number += CONCURRENT) {
      const batch = Array.from({ length: CONCURRENT }, (_, index) => race(page, user, number + index));
      byPush += (await Promise.all(batch)).filter(Boolean).length;
    }
    await untilNoneWaits();
    console.log(`passed: ${name}: ${LOGINS[name]} logins are collected once each, ${byPush} of them by the page`);
  }
  await stop();
  return user;
}

/** Starts a proxy for TCP that passes each connection to the next node, or to another one if that does not accept it. */
async function startProxy(ports) {
  let next = 0;
  const pass = (client, attempts) => {
    const node = connect(ports[next++ % ports.length], "127.0.0.1");
    let isConnected = false;
    node.once("connect", () => {
      isConnected = true;
      client.pipe(node).pipe(client);
    });
    node.on("error", () => {
      if (!isConnected && attempts > 1) pass(client, attempts - 1);
      else client.destroy();
    });
    node.on("close", () => isConnected && client.destroy());
    client.once("close", () => node.destroy());
  };
  const server = createServer((client) => {
    client.on("error", () => {});
    pass(client, ports.length);
  }).listen(port, "127.0.0.1");
  await once(server, "listening");
}

async function killedNode(openers, user) {
  const [killedPort, otherPort] = nodePorts;
  const startNode = (nodePort, more) => {
    const node = { QRLOGIN_LISTEN: `127.0.0.1:${nodePort}`, QRLOGIN_DATABASE_URL: databaseUrl, ...more };
    return startServer(program, port, providerPort, node, ["--config", config]);
  };
  const kill = await startNode(killedPort);
  const stop = await startNode(otherPort, settings);
  await startProxy([killedPort, otherPort]);
  /** Time at which a device has its tokens, by the number of the login. */
  const collectedAt = {};
  const isCollected = (number) => number in collectedAt;
  const opened = Object.values(openers).flatMap((openPage) => Array.from({ length: PAGES }, () => openPage));
  const pages = await Promise.all(opened.map((openPage) => openSite(openPage, isCollected)));
  const pageOf = (number) => pages[number % pages.length];
  const numbers = Array.from({ length: LOGINS_OF_A_KILL }, (_, number) => number);
  const logins = await Promise.all(numbers.map((number) => show(pageOf(number), number)));
  const atOther = await countWaiting();
  assert(atOther > 0 && atOther < LOGINS_OF_A_KILL, `${atOther} browsers wait at the other node`);

  const collect = async (login) => {
    const options = { isCollected: () => isCollected(login.number), pauseMs: LONG_POLL_MS, mayFail: true };
    const noted = async (answered) => {
      const { answer, at = Date.now() } = await answered;
      if (answer.access_token) collectedAt[login.number] = at;
      return answer.access_token;
    };
    const pushed = push(login, pageOf(login.number));
    const polled = async () => ({ answer: await poll(login, options) });
    const given = await Promise.all([polled(), polled(), pushed].map(noted));
    checkElement(await pushed);
    return given.filter(Boolean);
  };
  const collections = Promise.all(logins.map(collect));
  let decided = 0;
  let killedAt;
  let diedAt;
  const queue = [...logins];
  const decide = async () => {
    for (let login = queue.shift(); login; login = queue.shift()) {
      await user.confirmAgain(login);
      if (++decided === DECIDED_BEFORE) {
        killedAt = Date.now();
        await kill("SIGKILL");
        diedAt = Date.now();
      }
    }
  };
  await Promise.all([collections, decide(), decide(), decide()]);
  for (const [number, given] of (await collections).entries()) {
    assert.equal(given.length, 1, `${number} was collected ${given.length} times`);
    const authorization = `Bearer ${given[0]}`;
    const info = await fetch(`${base}/oauth/userinfo`, { headers: { authorization } });
    assert.equal((await info.json()).name, "Ann Example");
  }
  await untilNoneWaits();
  for (const { number, device } of logins) {
    const isNoted = collectedAt[number] < killedAt - NOTED_MS || collectedAt[number] > diedAt + READ_MS;
    if (isNoted) assert.equal((await poll({ device })).error, "invalid_grant", `${number} can be collected again`);
  }
  await stop();
  console.log(`passed: ${LOGINS_OF_A_KILL} logins at two nodes are collected once each while one is killed`);
}

try {
  const openers = { Chromium: await launch("Chromium"), Firefox: await launch("Firefox") };
  const user = await racingLogins(openers);
  await killedNode(openers, user);
} finally {
  await cleanUp();
  await stopProvider();
}
process.exit(0);
