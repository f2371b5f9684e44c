// The element on a page of another origin, which the server's settings do not allow: it says so, and which setting.
import assert from "node:assert/strict";
import { base, browser, foreign, part, site, state, runStories, waiting } from "./stage.mjs";

const stories = {
  async "one line in the console names the setting"() {
    const html = `<!doctype html><html lang="en"><title>A shop</title>
      <script type="module" src="${base}/js/qr-login.js"></script>
      <qr-login endpoint="${base}"></qr-login>`;
    const shop = await site(html, { port: new URL(foreign).port });
    const page = await (await browser.newContext()).newPage();
    const said = [];
    page.on("console", (message) => said.push(message.text()));
    await page.addInitScript(() => {
      document.addEventListener("qr-login:error", ({ detail }) => {
        window.error = detail;
      });
    });
    await page.goto(foreign);
    await state(page, "blocked");
    assert.equal(await part(page, "message").innerText(), "Login unavailable");
    const ours = said.filter((line) => line.startsWith("qr-login"));
    assert.equal(ours.length, 1, said.join("\n"));
    assert(ours[0].includes("allowed_origins") && ours[0].includes(foreign) && !ours[0].includes("\n"), ours[0]);
    assert.equal((await page.evaluate(() => window.error)).code, "forbidden_origin");
    shop.close();
  },

  async "a readable refusal is shown as the server words it"() {
    // The same server by another name: the page is there, and is not of the origin of public_url.
    const page = await (await browser.newContext()).newPage();
    const said = [];
    page.on("console", (message) => said.push(message.text()));
    await page.route(/generate$/, async (route) => {
      const headers = { ...route.request().headers(), origin: "http://elsewhere.example" };
      await route.fulfill({ response: await route.fetch({ headers }) });
    });
    await page.goto(base);
    await state(page, "blocked");
    const ours = said.filter((line) => line.startsWith("qr-login"));
    assert(ours.length === 1 && ours[0].includes("allowed_origins"), said.join("\n"));
    await waiting(0);
  },
};

await runStories(stories);
