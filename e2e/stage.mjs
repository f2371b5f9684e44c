// The stage on which the stories play: a real browser, against the server at the URL given.
// Its time, and whether it runs, is up to the test that started this script, which does what it is asked to.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createServer } from "node:http";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

/** The server, what it tells its operator, and where a site of somebody else's may be. */
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

/** What browsers themselves say when a network fails. */
const OF_THE_NETWORK = /net::ERR_|WebSocket connection to|Failed to load resource/;

export function listen(page) {
  page.on("console", (message) => {
    const is_complaint = ["error", "warning"].includes(message.type()) && !(page.may_fail && OF_THE_NETWORK.test(message.text()));
    if (is_complaint) complaints.push(message.text());
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

/** The page that logs in is in this state. */
export const state = (page, name) => page.locator(`qr-login .frame.${name}`).waitFor();
/** The phone's page is. */
export const at = (page, name) => page.locator(`.card[data-state="${name}"]`).waitFor();
export const text = (page, role) => page.locator(`[data-role="${role}"]`).innerText();
export const part = (page, name) => page.locator(`qr-login [part~="${name}"]`);

/** Keeps count of a page's sockets and timers. */
const count = () => {
  window.open_sockets = new Set();
  const Native = window.WebSocket;
  window.WebSocket = class extends Native {
    constructor(...how) {
      super(...how);
      window.open_sockets.add(this);
      this.addEventListener("close", () => window.open_sockets.delete(this));
    }
  };
  window.open_fetches = 0;
  const fetch = window.fetch;
  window.fetch = async (...what) => {
    window.open_fetches++;
    return fetch(...what).finally(() => window.open_fetches--);
  };
  window.running_timers = new Set();
  for (const [set, clear] of [["setTimeout", "clearTimeout"], ["setInterval", "clearInterval"]]) {
    const [native, native_clear] = [window[set], window[clear]];
    window[set] = (act, ...rest) => {
      const timer = native((...args) => {
        if (set === "setTimeout") window.running_timers.delete(timer);
        act(...args);
      }, ...rest);
      window.running_timers.add(timer);
      return timer;
    };
    window[clear] = (timer) => {
      window.running_timers.delete(timer);
      native_clear(timer);
    };
  }
};

/** Until the page has nothing open any more. */
export const at_rest = (page) =>
  page.waitForFunction(() => window.open_sockets.size + window.open_fetches + window.running_timers.size === 0);

/** The session that this page is given next; before it asks. */
export async function generated(page) {
  const is_it = (answer) => answer.url().endsWith("/generate") && answer.request().method() === "POST" && answer.ok();
  return (await page.waitForResponse(is_it)).json();
}

/** A desktop browser on the demo's first page, showing a code. */
export async function desktop({ options = {}, path = "" } = {}) {
  const context = await browser.newContext({ viewport: { width: 1000, height: 900 }, ...options });
  await context.addInitScript(count);
  const page = listen(await context.newPage());
  const session = generated(page);
  await page.goto(base + path);
  await state(page, "ready");
  return { page, session: await session };
}

/** A phone that has opened what the code says. */
export async function phone(url) {
  const context = await browser.newContext({ viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true });
  const page = listen(await context.newPage());
  await page.goto(url);
  return page;
}

export async function choose(page, name) {
  await page.getByRole("button", { name }).tap();
  await at(page, "asking");
}

/** A phone that scans, and then perhaps decides. */
export async function scans(session, name = "Ada Lovelace") {
  const other = await phone(session.qr_url);
  await choose(other, name);
  return {
    async confirms() {
      await other.getByRole("button", { name: "Yes, log me in" }).tap();
      await at(other, "confirmed");
    },
    async rejects() {
      await other.getByRole("button", { name: "No, reject" }).tap();
      await at(other, "rejected");
    },
  };
}

const PATIENCE_MS = 30_000;

/** Until nothing is wrong any more. @param {() => Promise<string | false>} wrong says what is */
async function settled(wrong) {
  for (const until = Date.now() + PATIENCE_MS; ; ) {
    const complaint = await wrong();
    if (!complaint) return;
    assert(Date.now() < until, complaint);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** Until that many browsers wait at the server. */
export const waiting = (count) =>
  settled(async () => {
    const metrics = await (await fetch(`${ops}/metrics`)).text();
    const active = Number(/^qrlogin_active_connections (\d+)/m.exec(metrics)[1]);
    return active !== count && `${active} browsers wait, not ${count}`;
  });

/** Until the token of this session has been received. */
export const received = ({ session_id }) =>
  settled(async () => {
    const view = await (await fetch(`${base}/v1/qr-login/status`, { headers: { "x-qr-session": session_id } })).json();
    return !view.claimed && `${view.status}, and not received`;
  });

/** What a decoder that is not ours reads off the screen. */
export async function scan(page) {
  const picture = join(scratch, "qr.png");
  await part(page, "qr").screenshot({ path: picture });
  return execFileSync("zbarimg", ["-q", "--raw", picture], { encoding: "utf8" }).trim();
}

/** A site of somebody else's, with this on its page. */
export async function site(html, { port = 0, headers = {} } = {}) {
  const server = createServer((_, response) => response.writeHead(200, { "content-type": "text/html", ...headers }).end(html));
  await new Promise((listening) => server.listen(port, "127.0.0.1", listening));
  return { url: `http://127.0.0.1:${server.address().port}/`, close: () => server.close() };
}

/** What the phone's own console says of a refusal that is part of the story. */
export function expectRefusal(status) {
  complaints.splice(0, complaints.length, ...complaints.filter((line) => !line.includes(String(status))));
}

/** Tells them all; a complaint in a console, of a policy that was violated too, breaks off. */
export async function tell(stories) {
  try {
    for (const [name, story] of Object.entries(stories)) {
      await story().catch((cause) => assert.fail(`"${name}" broke off: ${cause.stack}`));
      assert.deepEqual(complaints, [], name);
      console.log(`told: ${name}`);
      await Promise.all(browser.contexts().map((context) => context.close()));
      await waiting(0);
    }
  } finally {
    await browser.close();
    rmSync(scratch, { recursive: true });
  }
  process.exit(0);
}
