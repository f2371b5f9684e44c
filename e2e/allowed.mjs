// The element on a page of another origin, which the server's settings allow, under a strict policy of its own.
import assert from "node:assert/strict";
import {
  base, foreign, generated, keepToken, part, runStories, scan, scans, site, state, visitor, waiting,
} from "./stage.mjs";

const policy = [
  "default-src 'none'",
  `script-src ${base}`,
  `connect-src ${base} ${base.replace("http", "ws")}`,
  "img-src data:",
  "require-trusted-types-for 'script'",
].join("; ");
const options = { port: new URL(foreign).port, headers: { "content-security-policy": policy } };
const html = (integrity) => `<!doctype html><html lang="en"><title>A shop</title>
  <script type="module" src="${base}/js/0.1.0/qr-login.js" integrity="${integrity}" crossorigin="anonymous"></script>
  <qr-login endpoint="${base}"></qr-login>`;

const stories = {
  async "logs in"() {
    const module = await fetch(`${base}/js/0.1.0/qr-login.js`);
    const integrity = module.headers.get("etag").replaceAll('"', "");
    const shop = await site(html(integrity), options);
    const page = await visitor();
    const pageSession = generated(page);
    await page.goto(foreign);
    const session = await pageSession;
    await state(page, "ready");
    assert.equal(await scan(page), session.qr_url);
    await waiting(1);
    await keepToken(page);
    const other = await scans(session);
    await state(page, "scanned");
    await page.reload();
    await state(page, "scanned");
    await keepToken(page);
    await other.confirms();
    await state(page, "confirmed");
    assert.equal(await part(page, "name").innerText(), "Ada Lovelace");
    assert.equal((await page.evaluate(() => window.token)).split(".").length, 3);
    await waiting(0);
    shop.close();
  },

  async "logs in by an event stream and by polling"() {
    const shop = await site(html(""), options);
    for (const blocked of [/\/v1\/ws/, /\/v1\/(ws|sse)/]) {
      const page = await visitor();
      page.mayFail = true;
      await page.routeWebSocket(/./, (socket) => socket.close());
      if (blocked.source.includes("sse")) await page.route(/\/v1\/sse/, (route) => route.abort());
      const pageSession = generated(page);
      await page.goto(foreign);
      const session = await pageSession;
      await state(page, "ready");
      await waiting(1);
      await (await scans(session)).confirms();
      await state(page, "confirmed");
      await waiting(0);
      await page.context().close();
    }
    shop.close();
  },
};

await runStories(stories);
