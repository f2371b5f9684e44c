// The demo's pages in a real browser, against the server at the URL given.
// Time is the server's: `advance` asks the test that started this script to move it.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const base = process.argv[2];
const scratch = mkdtempSync(join(tmpdir(), "qrlogin-e2e-"));
const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const complaints = [];

async function advance(seconds) {
  console.log(`advance ${seconds}`);
  assert.equal((await answers.next()).value, "done");
}

function listen(page) {
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  return page;
}

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
  ],
});

const state = (page, name) => page.locator(`.card[data-state="${name}"]`).waitFor();
const text = (page, role) => page.locator(`[data-role="${role}"]`).innerText();

/** A desktop browser on the demo's first page, showing a code. */
async function desktop() {
  const context = await browser.newContext({ viewport: { width: 1000, height: 900 } });
  const page = listen(await context.newPage());
  const generated = page.waitForResponse(/\/generate$/);
  await page.goto(base);
  const session = await (await generated).json();
  await state(page, "ready");
  return { page, session };
}

/** A phone that has opened what the code says. */
async function phone(url) {
  const context = await browser.newContext({ viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true });
  const page = listen(await context.newPage());
  await page.goto(url);
  return page;
}

async function choose(page, name) {
  await page.getByRole("button", { name }).tap();
  await state(page, "asking");
}

/** What a decoder that is not ours reads off the screen. */
async function scan(page) {
  const picture = join(scratch, "qr.png");
  await page.locator(".qr").screenshot({ path: picture });
  return execFileSync("zbarimg", ["-q", "--raw", picture], { encoding: "utf8" }).trim();
}

const stories = {
  async "a phone scans what the page shows, confirms, and the page is logged in"() {
    const { page, session } = await desktop();
    const url = await scan(page);
    assert.equal(url, session.qr_url);
    const picture = Buffer.from(session.qr_image.split(",")[1], "base64").toString();
    for (const shown of [url, session.qr_url, picture, await page.content()]) assert(!shown.includes(session.session_id));

    const other = await phone(url);
    await choose(other, "Ada Lovelace");
    const facts = await text(other, "facts");
    assert.match(facts, /Chrome \d+/);
    assert.match(facts, /127\.0\.0\.1/);
    assert.match(facts, /qrlogin demo page/);
    await state(page, "scanned");
    assert.equal(await text(page, "name"), "Ada Lovelace");
    await other.getByRole("button", { name: "Yes, log me in" }).tap();
    await state(other, "confirmed");
    await state(page, "confirmed");
    assert.equal(await text(page, "name"), "Ada Lovelace");
    const { header, claims } = JSON.parse(await text(page, "token"));
    assert.equal(header.alg, "EdDSA");
    assert.equal(claims.sub, "ada");

    await page.getByRole("button", { name: "Not you?" }).click();
    await state(page, "ready");
    assert.notEqual(await scan(page), url);
  },

  async "a phone rejects, and a new code is a click away"() {
    const { page, session } = await desktop();
    const other = await phone(session.qr_url);
    await choose(other, "Grace Hopper");
    await state(page, "scanned");
    await other.getByRole("button", { name: "No, reject" }).tap();
    await state(other, "rejected");
    await state(page, "rejected");
    await page.getByRole("button", { name: "Get a new code" }).click();
    await state(page, "ready");
    assert.notEqual(await scan(page), session.qr_url);
  },

  async "the browser gives up while the phone is asked"() {
    const { page, session } = await desktop();
    const other = await phone(session.qr_url);
    await choose(other, "Alan Turing");
    await state(page, "scanned");
    await page.getByRole("button", { name: "Cancel" }).click();
    await state(page, "cancelled");
    await other.getByRole("button", { name: "Yes, log me in" }).tap();
    await state(other, "failed");
    assert.match(await text(other, "message"), /cancelled/);
    // The phone's own console names the refusal; that is the story here.
    complaints.splice(0, complaints.length, ...complaints.filter((line) => !line.includes("410")));
  },

  async "a code expires, and a new one is a click away"() {
    const { page, session } = await desktop();
    await advance(300.1);
    await state(page, "expired");
    await page.getByRole("button", { name: "Get a new code" }).click();
    await state(page, "ready");
    assert.notEqual(await scan(page), session.qr_url);
  },

  async "a reload goes on with the same code, also when it was scanned or confirmed meanwhile"() {
    const { page, session } = await desktop();
    await page.reload();
    await state(page, "ready");
    assert.equal(await scan(page), session.qr_url);
    const other = await phone(session.qr_url);
    await choose(other, "Ada Lovelace");
    await state(page, "scanned");
    await page.reload();
    await state(page, "scanned");
    await page.goto("about:blank");
    await other.getByRole("button", { name: "Yes, log me in" }).tap();
    await state(other, "confirmed");
    await page.goto(base);
    await state(page, "confirmed");
    assert.equal(await text(page, "name"), "Ada Lovelace");
  },

  async "a second tab of the same session takes over, and the first can take it back"() {
    const { page, session } = await desktop();
    const second = listen(await page.context().newPage());
    await second.addInitScript((id) => sessionStorage.setItem("qrlogin.session_id", id), session.session_id);
    await second.goto(base);
    await state(second, "ready");
    await state(page, "replaced");
    await page.getByRole("button", { name: "Continue here" }).click();
    await state(page, "ready");
    await state(second, "replaced");
  },

  async "on a phone, the page offers the app instead of a picture that nobody can scan"() {
    const page = await phone(base);
    await state(page, "ready");
    assert(await page.locator(".qr").isHidden());
    const open = page.getByRole("link", { name: "Open in the app" });
    assert.match(await open.getAttribute("href"), /\/q\//);
    const [app] = await Promise.all([page.context().waitForEvent("page"), open.tap()]);
    await choose(listen(app), "Ada Lovelace");
    await app.getByRole("button", { name: "Yes, log me in" }).tap();
    await state(page, "confirmed");
  },
};

try {
  for (const [name, story] of Object.entries(stories)) {
    await story();
    assert.deepEqual(complaints, [], name);
    console.log(`told: ${name}`);
    await Promise.all(browser.contexts().map((context) => context.close()));
  }
} finally {
  await browser.close();
  rmSync(scratch, { recursive: true });
}
process.exit(0);
