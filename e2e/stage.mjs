// The stage on which the stories play: a real browser, against the server at the URL given.
// Time is the server's: `advance` asks the test that started this script to move it.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createServer } from "node:http";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

export const base = process.argv[2];
const scratch = mkdtempSync(join(tmpdir(), "qrlogin-e2e-"));
const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
export const complaints = [];

export async function advance(seconds) {
  console.log(`advance ${seconds}`);
  assert.equal((await answers.next()).value, "done");
}

export function listen(page) {
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  return page;
}

export const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
  ],
});

export const state = (page, name) => page.locator(`.card[data-state="${name}"]`).waitFor();
export const text = (page, role) => page.locator(`[data-role="${role}"]`).innerText();

/** A desktop browser on the demo's first page, showing a code. */
export async function desktop() {
  const context = await browser.newContext({ viewport: { width: 1000, height: 900 } });
  const page = listen(await context.newPage());
  const generated = page.waitForResponse(/\/generate$/);
  await page.goto(base);
  const session = await (await generated).json();
  await state(page, "ready");
  return { page, session };
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
  await state(page, "asking");
}

/** What a decoder that is not ours reads off the screen. */
export async function scan(page) {
  const picture = join(scratch, "qr.png");
  await page.locator(".qr").screenshot({ path: picture });
  return execFileSync("zbarimg", ["-q", "--raw", picture], { encoding: "utf8" }).trim();
}

/** A site of somebody else's, with this on its page. */
export async function site(html) {
  const server = createServer((_, response) => response.setHeader("content-type", "text/html").end(html));
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
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
}
