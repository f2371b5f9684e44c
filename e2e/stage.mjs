// Functions that all scripts here use: a real browser, and the server at the URL in the arguments. The test that
// started the script controls the server: it advances the time, and stops and starts the server, on a script's order.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHmac } from "node:crypto";
import { createServer } from "node:http";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

/** URLs of the server, of its port for operators, and of a site of another origin. */
export const [base, ops, foreign] = process.argv.slice(2);
const scratch = mkdtempSync(join(tmpdir(), "qrlogin-e2e-"));
const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const complaints = [];

async function order(what) {
  console.log(`stage: ${what}`);
  assert.equal((await answers.next()).value, "done");
}
export const advance = (seconds) => order(`advance ${seconds}`);
export const stop = () => order("stop");
export const start = () => order("start");

/** Lines that a browser logs when the network fails. */
const NETWORK_ERROR = /net::ERR_|WebSocket connection to|Failed to load resource/;

/** Collects the errors and warnings of a page. A script fails if there are any, except network errors if `mayFail`. */
export function listen(page) {
  page.on("console", (message) => {
    const isExpected = page.mayFail && NETWORK_ERROR.test(message.text());
    if (["error", "warning"].includes(message.type()) && !isExpected) complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error.stack)));
  return page;
}

export const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
  ],
});

/** Waits until the page that logs in has a state. */
export const state = (page, name) => page.locator(`qr-login .frame.${name}`).waitFor();
/** Where the approve page shows each outcome. */
const OUTCOMES = { asking: ".ask .facts", confirmed: ".good", rejected: ".plain", failed: ".bad" };
/** Waits until the approve page on a phone shows an outcome. */
export const at = (page, name) => page.locator(`main.card${OUTCOMES[name]}`).waitFor();
/** Returns the title and the text of the approve page. */
export const message = (page) => page.locator("main.card").innerText();
export const text = (page, role) => page.locator(`[data-role="${role}"]`).innerText();
export const part = (page, name) => page.locator(`qr-login [part~="${name}"]`);

/** Counts the open sockets, requests and timers of a page. */
const count = () => {
  window.openSockets = new Set();
  const Native = window.WebSocket;
  window.WebSocket = class extends Native {
    constructor(...how) {
      super(...how);
      window.openSockets.add(this);
      this.addEventListener("close", () => window.openSockets.delete(this));
    }
  };
  window.openFetches = 0;
  const fetch = window.fetch;
  window.fetch = async (...what) => {
    window.openFetches++;
    return fetch(...what).finally(() => window.openFetches--);
  };
  window.runningTimers = new Set();
  for (const [set, clear] of [["setTimeout", "clearTimeout"], ["setInterval", "clearInterval"]]) {
    const [native, nativeClear] = [window[set], window[clear]];
    window[set] = (act, ...rest) => {
      const timer = native((...args) => {
        if (set === "setTimeout") window.runningTimers.delete(timer);
        act(...args);
      }, ...rest);
      window.runningTimers.add(timer);
      return timer;
    };
    window[clear] = (timer) => {
      window.runningTimers.delete(timer);
      nativeClear(timer);
    };
  }
};

/** Waits until the page has no open socket, request or timer. */
export const atRest = (page) =>
  page.waitForFunction(() => window.openSockets.size + window.openFetches + window.runningTimers.size === 0);

/** Returns the next session of a page. Call it before the page requests the session. */
export async function generated(page) {
  const isGenerated = (response) =>
    response.url().endsWith("/generate") && response.request().method() === "POST" && response.ok();
  return (await page.waitForResponse(isGenerated)).json();
}

/** Makes the page keep the next token in `window.token`. */
export const keepToken = (page) =>
  page.evaluate(() => {
    document.addEventListener("qr-login:confirmed", ({ detail }) => {
      window.token = detail.web_token;
    });
  });

/** Opens an empty page of a new browser profile. */
export async function visitor(options = {}) {
  const context = await browser.newContext(options);
  return listen(await context.newPage());
}

/** Opens the demo's first page in a desktop browser, and waits until it shows a code. */
export async function desktop({ options = {}, path = "" } = {}) {
  const context = await browser.newContext({ viewport: { width: 1000, height: 900 }, ...options });
  await context.addInitScript(count);
  const page = listen(await context.newPage());
  const session = generated(page);
  await page.goto(base + path);
  await state(page, "ready");
  return { page, session: await session };
}

/** Opens a URL on a phone. */
export async function phone(url) {
  const page = await visitor({ viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true });
  await page.goto(url);
  return page;
}

/** Chooses a person at the demo's provider. */
export const logIn = (page, name) => page.getByRole("button", { name }).tap();

/** Logs in at the demo's provider, and waits until the approve page asks for the decision. */
export async function choose(page, name) {
  await logIn(page, name);
  await at(page, "asking");
}

/** Returns an app token, as a site's backend signs it. It does not expire in a test, whose clock is not the machine's. */
export function appToken(user) {
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const names = { ada: "Ada Lovelace" };
  const claims = { sub: user, name: names[user], exp: 4_102_444_800 };
  const signed = `${encode({ alg: "HS256", typ: "JWT" })}.${encode(claims)}`;
  return `${signed}.${createHmac("sha256", process.env.APP_TOKEN_SECRET).update(signed).digest("base64url")}`;
}

/** Scans a code with a phone, and returns the decisions that the phone can make. */
export async function scans(session, name = "Ada Lovelace") {
  const other = await phone(session.qr_url);
  await choose(other, name);
  return {
    async confirms() {
      await other.getByRole("button", { name: "Yes, log me in" }).tap();
      await at(other, "confirmed");
    },
    async rejects() {
      await other.getByRole("button", { name: "No, that was not me" }).tap();
      await at(other, "rejected");
    },
  };
}

const PATIENCE_MS = 30_000;

/**
 * Waits until a condition holds.
 * @param {() => Promise<string | false>} findProblem returns the reason why it does not hold
 */
async function settled(findProblem) {
  const deadline = Date.now() + PATIENCE_MS;
  for (let problem = await findProblem(); problem; problem = await findProblem()) {
    assert(Date.now() < deadline, problem);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** Waits until this number of browsers is connected to the server. */
export const waiting = (count) =>
  settled(async () => {
    const metrics = await (await fetch(`${ops}/metrics`)).text();
    const active = Number(/^qrlogin_active_connections (\d+)/m.exec(metrics)[1]);
    return active !== count && `${active} browsers wait, not ${count}`;
  });

/** Waits until the token of a session has been acknowledged. */
export const received = ({ session_id }) =>
  settled(async () => {
    const view = await (await fetch(`${base}/v1/qr-login/status`, { headers: { "x-qr-session": session_id } })).json();
    return !view.claimed && `${view.status}, and not received`;
  });

/** Returns the content of the code on the screen, decoded by zbar. */
export async function scan(page) {
  const picture = join(scratch, "qr.png");
  await part(page, "qr").screenshot({ path: picture });
  return execFileSync("zbarimg", ["-q", "--raw", picture], { encoding: "utf8" }).trim();
}

/** Starts a site of another origin with a page. */
export async function site(html, { port = 0, headers = {} } = {}) {
  const server = createServer((_, response) => {
    response.writeHead(200, { "content-type": "text/html", ...headers }).end(html);
  });
  await new Promise((listening) => server.listen(port, "127.0.0.1", listening));
  return { url: `http://127.0.0.1:${server.address().port}/`, close: () => server.close() };
}

/** Ignores the line that the phone's console has for an expected refusal. */
export function expectRefusal(status) {
  complaints.splice(0, complaints.length, ...complaints.filter((line) => !line.includes(String(status))));
}

/** Runs all stories. An error in a console, and so a violation of a policy, fails. */
export async function runStories(stories) {
  try {
    for (const [name, story] of Object.entries(stories)) {
      await story().catch((cause) => assert.fail(`"${name}" broke off: ${cause.stack}`));
      assert.deepEqual(complaints, [], name);
      console.log(`passed: ${name}`);
      await Promise.all(browser.contexts().map((context) => context.close()));
      await waiting(0);
    }
  } finally {
    await browser.close();
    rmSync(scratch, { recursive: true });
  }
  process.exit(0);
}
