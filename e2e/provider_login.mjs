// Logins on the approve page with a real OpenID provider (oidc-provider), in Chromium and in Firefox:
// node provider_login.mjs QRLOGIN [PICTURES], with the path of the program, and a directory for pictures of the pages.
import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { PHONE, cleanUp, createProvider, freePort, launch, logIn, startServer } from "./approval.mjs";
import { LANGUAGES, checkAccessibility, checkWidth, mirror } from "./layout.mjs";

const [program, pictures] = process.argv.slice(2);
const providerPort = await freePort();
const port = await freePort();
const base = `http://localhost:${port}`;
const listen = await createProvider(providerPort, base);
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
        await checkAccessibility(page, `${what} ${language}`);
        await page.setViewportSize({ width: 320, height: 700 });
        await checkWidth(page, `${what} ${language}`, 200);
        if (language === "en") {
          await mirror(page);
          await checkWidth(page, `${what} from right to left`, 200);
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
  let stopServer = await startServer(program, port, providerPort, { QRLOGIN_LIMITS__ENABLED: "false" });
  for (const name of ["Chromium", "Firefox"]) await stories(name);
  await accessibility();
  await stopServer();
  stopServer = await startServer(program, port, providerPort, {
    QRLOGIN_SESSION__NUMBER_MATCHING: "true", QRLOGIN_SESSION__ROTATE_SECONDS: "1",
  });
  await guarded();
  await stopServer();
} finally {
  await cleanUp();
  await stopProvider();
}
process.exit(0);
