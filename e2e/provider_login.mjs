// Logins on the approve page with a real OpenID provider (oidc-provider), in Chromium and in Firefox:
// node provider_login.mjs QRLOGIN [PICTURES], with the path of the program, and a directory for pictures of the pages.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";
import puppeteer from "puppeteer-core";

const [program, pictures] = process.argv.slice(2);
const scratch = mkdtempSync(join(tmpdir(), "qrlogin-provider-"));
const axe = readFileSync(new URL("node_modules/axe-core/axe.min.js", import.meta.url), "utf8");
const LANGUAGES = ["en", "zh-CN", "de", "es"];
const PHONE = { width: 390, height: 844 };
const children = [];
const browsers = [];

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

/** Starts a provider with two people, whose names are in its user info. */
async function startProvider(port, base) {
  // The package writes warnings for developers to the console.
  console.info = console.warn = () => {};
  const { default: Provider } = await import("oidc-provider");
  const names = { ann: "Ann Example", bob: "Bob Example" };
  const provider = new Provider(`http://127.0.0.1:${port}`, {
    clients: [{
      client_id: "qrlogin", client_secret: "a client secret", redirect_uris: [`${base}/q/callback`],
      post_logout_redirect_uris: [`${base}/q/logged-out`],
    }],
    claims: { openid: ["sub"], profile: ["name"] },
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, name: names[id] }) }),
    pkce: { required: () => true },
    cookies: { keys: ["a key of the provider's cookies"] },
  });
  const listen = async () => {
    const server = provider.listen(port, "127.0.0.1");
    await once(server, "listening");
    return () => new Promise((resolve) => {
      server.close(resolve);
      server.closeAllConnections();
    });
  };
  return listen;
}

/** Starts qrlogin with settings, and waits until it listens. */
async function startServer(port, providerPort, settings) {
  const environment = {
    PATH: process.env.PATH,
    QRLOGIN_LISTEN: `127.0.0.1:${port}`,
    QRLOGIN_OPS_LISTEN: "127.0.0.1:0",
    QRLOGIN_PUBLIC_URL: `http://localhost:${port}`,
    QRLOGIN_APPROVE__ISSUER: `http://127.0.0.1:${providerPort}`,
    QRLOGIN_APPROVE__CLIENT_ID: "qrlogin",
    QRLOGIN_APPROVE__CLIENT_SECRET: "a client secret",
    ...settings,
  };
  const server = spawn(program, ["serve"], { cwd: scratch, env: environment, stdio: ["ignore", "ignore", "pipe"] });
  children.push(server);
  for await (const line of createInterface({ input: server.stderr })) {
    if (line.includes("listening")) break;
  }
  server.stderr.resume();
  return async () => {
    server.kill("SIGTERM");
    await once(server, "exit");
  };
}

const providerPort = await freePort();
const port = await freePort();
const base = `http://localhost:${port}`;
const listen = await startProvider(providerPort, base);
let stopProvider = await listen();

async function post(path, body = {}) {
  const headers = { "content-type": "application/json" };
  return (await fetch(base + path, { method: "POST", headers, body: JSON.stringify(body) })).json();
}
const generate = () => post("/v1/qr-login/generate");
const status = async (session) => (await fetch(`${base}/v1/qr-login/status/${session.session_id}`)).json();

/** Waits until a page has this title. */
async function titled(page, title) {
  const end = Date.now() + 20_000;
  for (;;) {
    // A page that is being replaced has no title.
    const seen = await page.title().catch(() => "");
    if (seen === title) return;
    assert(Date.now() < end, `the page has the title "${seen}", and not "${title}"`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Logs in at the provider's own pages. */
async function logIn(page, name) {
  await page.waitForSelector("input[name=login]");
  await page.type("input[name=login]", name);
  await page.type("input[name=password]", "any");
  await page.click("button[type=submit]");
  // Then the provider asks whether qrlogin may know the user.
  await page.waitForSelector("input[value=consent]", { state: "attached" });
  await page.click("button[type=submit]");
}

async function launch(name) {
  if (name === "Chromium") {
    const browser = await chromium.launch({
      executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
      args: [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
      ],
    });
    browsers.push(browser);
    return async (options = {}) => {
      const context = await browser.newContext({ viewport: PHONE, isMobile: true, hasTouch: true, ...options });
      return context.newPage();
    };
  }
  const browser = await puppeteer.launch({
    browser: "firefox", executablePath: process.env.FIREFOX ?? "/usr/bin/firefox-esr", headless: true,
  });
  browsers.push(browser);
  return async () => {
    const context = await browser.createBrowserContext();
    const page = await context.newPage();
    await page.setViewport(PHONE);
    return page;
  };
}

/** The stories of one browser. */
async function stories(name) {
  const open = await launch(name);
  const page = await open();

  let session = await generate();
  await page.goto(session.qr_url);
  await logIn(page, "ann");
  await titled(page, "Log in?");
  assert.equal((await status(session)).user.name, "Ann Example");
  await page.click("button[value=confirm]");
  await titled(page, "You are logged in");
  assert.equal((await status(session)).status, "confirmed");
  console.log(`passed: ${name}: scanned while logged out, logs in, comes back, confirms`);

  session = await generate();
  const lost = await open();
  await lost.goto(session.qr_url.replace("localhost", "127.0.0.1"));
  await logIn(lost, "ann");
  await titled(lost, "Log in?");
  assert.equal(lost.url(), session.qr_url);
  console.log(`passed: ${name}: the page opened at another host name goes on at that of public_url`);

  session = await generate();
  await page.goto(session.qr_url);
  await titled(page, "Log in?");
  await page.click("button[value=reject]");
  await titled(page, "Login rejected");
  assert.equal((await status(session)).status, "rejected");
  console.log(`passed: ${name}: the second scan needs no login; rejects`);

  session = await generate();
  await page.goto(`http://127.0.0.1:${providerPort}/nothing`);
  await page.evaluate((url) => { location.href = url; }, session.qr_url);
  await titled(page, "Continue to the login");
  assert.equal((await status(session)).status, "pending");
  await page.click("button[value=continue]");
  await titled(page, "Log in?");
  console.log(`passed: ${name}: a link of another site scans nothing before the user continues`);

  await page.click("button[value=switch]");
  await logIn(page, "bob");
  await titled(page, "Already used");
  session = await generate();
  await page.goto(session.qr_url);
  await titled(page, "Log in?");
  assert.equal((await status(session)).user.name, "Bob Example");
  console.log(`passed: ${name}: another account; it cannot decide what the first has scanned`);

  await stopProvider();
  session = await generate();
  // The server knows the provider's metadata, and sends the user to a page that does not answer.
  const waiting = await open();
  await waiting.goto(session.qr_url).catch(() => {});
  stopProvider = await listen();
  const other = await open();
  await other.goto(session.qr_url);
  await logIn(other, "ann");
  await titled(other, "Log in?");
  await other.click("button[value=confirm]");
  await titled(other, "You are logged in");
  console.log(`passed: ${name}: logs in when the provider is back`);
}

/** Returns the elements that reach out of the page with text at 200 %. Runs in the page. */
const cutOff = () => {
  document.documentElement.style.fontSize = "200%";
  const isCutOff = (element) => {
    const { left, right } = element.getBoundingClientRect();
    return left < -1 || right > innerWidth + 1;
  };
  const found = [...document.querySelectorAll("main, main *")].filter(isCutOff).map(({ outerHTML }) => outerHTML);
  // A word that is too long does not widen its element.
  if (document.documentElement.scrollWidth > innerWidth) found.push("text");
  document.documentElement.style.fontSize = "";
  return found;
};

/** Shows the page from right to left, in mirrored letters. Runs in the page. */
const mirror = () => {
  document.documentElement.dir = "rtl";
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) texts.currentNode.data = `\u202e${texts.currentNode.data}\u202c`;
};

/** Checks the pages with axe, at 320 pixels with text at 200 %, in each language and theme, and from right to left. */
async function accessibility() {
  const open = await launch("Chromium");
  for (const language of LANGUAGES) {
    for (const colorScheme of ["light", "dark"]) {
      const page = await open({ locale: language, colorScheme });
      const check = async (what) => {
        if (pictures) {
          mkdirSync(pictures, { recursive: true });
          await page.screenshot({ path: join(pictures, `${what}-${language}-${colorScheme}.png`), fullPage: true });
        }
        await page.evaluate(axe);
        const { violations } = await page.evaluate(() => globalThis.axe.run());
        assert.deepEqual(violations.map(({ id, nodes }) => [id, nodes.map(({ html }) => html)]), [], `${what} ${language}`);
        await page.setViewportSize({ width: 320, height: 700 });
        assert.deepEqual(await page.evaluate(cutOff), [], `${what} ${language}`);
        if (language === "en") {
          await page.evaluate(mirror);
          assert.deepEqual(await page.evaluate(cutOff), [], `${what} from right to left`);
          if (pictures) await page.screenshot({ path: join(pictures, `${what}-rtl-${colorScheme}.png`), fullPage: true });
        }
        await page.setViewportSize(PHONE);
        assert.equal(await page.evaluate(() => document.documentElement.lang), language);
      };
      const session = await generate();
      await page.goto(session.qr_url);
      await logIn(page, "ann");
      await page.waitForSelector("button[value=confirm]");
      await check("question");
      await page.click("button[value=confirm]");
      await page.waitForSelector(".good");
      await check("confirmed");
      await page.goto(`${base}/q/${"A".repeat(28)}`);
      await check("unknown");
      const other = await generate();
      await page.goto(`http://127.0.0.1:${providerPort}/nothing`);
      await page.evaluate((url) => { location.href = url; }, other.qr_url);
      await page.waitForSelector("button[value=continue]");
      await check("continue");
      await page.goto(`${base}/q/callback?state=x`);
      await check("stale");
      await page.context().close();
    }
  }
  console.log("passed: the pages are accessible, in four languages and both themes, from right to left, with text at 200 %");
}

/** Number matching and rotation. */
async function guarded() {
  const open = await launch("Chromium");
  const page = await open();
  const session = await generate();
  await page.goto(session.qr_url);
  await page.waitForSelector("input[name=login]");
  // The code rotates twice while the user logs in.
  await new Promise((resolve) => setTimeout(resolve, 2500));
  assert.notEqual((await status(session)).code, session.code);
  await logIn(page, "ann");
  await titled(page, "Log in?");
  const { number } = await status(session);
  await page.click(`button[value="${number}"]`);
  await titled(page, "You are logged in");
  assert.equal((await status(session)).status, "confirmed");
  console.log("passed: the number is picked, and the scanned code stays good while its owner logs in");
}

try {
  let stopServer = await startServer(port, providerPort, { QRLOGIN_LIMITS__ENABLED: "false" });
  for (const name of ["Chromium", "Firefox"]) await stories(name);
  await accessibility();
  await stopServer();
  stopServer = await startServer(port, providerPort, {
    QRLOGIN_SESSION__NUMBER_MATCHING: "true", QRLOGIN_SESSION__ROTATE_SECONDS: "1",
  });
  await guarded();
  await stopServer();
} finally {
  for (const browser of browsers) await browser.close();
  for (const child of children) child.kill("SIGKILL");
  await stopProvider();
  rmSync(scratch, { recursive: true, force: true });
}
process.exit(0);
