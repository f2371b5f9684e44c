// The element in unusual pages: without storage, in frames without a URL, on plain http, several times, and with
// listeners that end it.
import assert from "node:assert/strict";
import {
  base, browser, desktop, foreign, generated, part, received, runStories, scans, site, state, visitor, waiting,
} from "./stage.mjs";

const element = `<script type="module" src="${base}/js/qr-login.js"></script><qr-login endpoint="${base}"></qr-login>`;
const options = { port: new URL(foreign).port };
const html = (body) => `<!doctype html><html lang="en"><title>A shop</title>${body}`;

/** Routes to block for each transport. */
const ways = { websocket: [], events: ["ws"], polling: ["ws", "sse"] };

async function only(page, way) {
  if (ways[way].includes("ws")) await page.routeWebSocket(/./, (socket) => socket.close());
  if (ways[way].includes("sse")) await page.route(/\/v1\/sse/, (route) => route.abort());
  page.mayFail = true;
}

/** Waits until both elements of a page have a code. */
const bothReady = (page) =>
  page.waitForFunction(() => {
    const elements = [...document.querySelectorAll("qr-login")];
    return elements.length === 2 && elements.every(({ state }) => state.name === "ready");
  });

/** Closes the WebSocket of a page while it handles the token, as Firefox does when the page is being left. */
const closeSockets = () => {
  const Native = window.WebSocket;
  window.WebSocket = class extends Native {
    constructor(...how) {
      super(...how);
      document.addEventListener("qr-login:confirmed", () => this.close());
    }
  };
};

const stories = {
  async "a socket that closes while the token is handled does not lose the acknowledgement"() {
    const page = await visitor();
    await page.addInitScript(closeSockets);
    const session = generated(page);
    await page.goto(base);
    await state(page, "ready");
    await waiting(1);
    await (await scans(await session)).confirms();
    await received(await session);
    await state(page, "confirmed");
  },

  async "a user whose name is not a string is shown"() {
    const page = await visitor();
    page.mayFail = true;
    const scanned = JSON.stringify({ status: "scanned", user: { name: 5, picture: 7 } });
    await page.routeWebSocket(/./, (socket) => socket.send(scanned));
    await page.goto(base);
    await state(page, "scanned");
  },

  async "without storage, the element logs in, and a reload begins a new session"() {
    const broken = [
      () => {
        Storage.prototype.setItem = () => {
          throw new DOMException("full", "QuotaExceededError");
        };
      },
      () => {
        const get = () => {
          throw new DOMException("blocked", "SecurityError");
        };
        Object.defineProperty(window, "sessionStorage", { get });
      },
      () => {
        const fail = () => {
          throw new DOMException("gone", "SecurityError");
        };
        Object.assign(Storage.prototype, { getItem: fail, removeItem: fail });
      },
    ];
    for (const breaks of broken) {
      const page = await visitor();
      await page.addInitScript(breaks);
      await page.goto(base);
      await state(page, "ready");
      const session = generated(page);
      await page.reload();
      await state(page, "ready");
      await (await scans(await session)).confirms();
      await state(page, "confirmed");
      await received(await session);
      await page.context().close();
    }
  },

  async "the element logs in in frames without a URL of their own"() {
    const shop = await site(html(`<iframe id="frame"></iframe>`), options);
    const fill = {
      srcdoc: (frame, content) => {
        frame.srcdoc = content;
      },
      blob: (frame, content) => {
        frame.src = URL.createObjectURL(new Blob([content], { type: "text/html" }));
      },
      "about:blank": (frame, content) => {
        frame.contentDocument.write(content);
        frame.contentDocument.close();
      },
    };
    for (const [kind, how] of Object.entries(fill)) {
      const page = await visitor();
      await page.goto(foreign);
      const session = generated(page);
      await page.evaluate(`(${how})(document.getElementById("frame"), ${JSON.stringify(html(element))})`);
      const frame = page.frameLocator("#frame");
      await frame.locator("qr-login .frame.ready").waitFor();
      await (await scans(await session)).confirms();
      await frame.locator("qr-login .frame.confirmed").waitFor();
      await received(await session);
      console.log(`passed: ${kind}`);
      await page.context().close();
    }
    shop.close();
  },

  async "an element without an endpoint names the missing attribute"() {
    const frame = html(element.replace(/endpoint="[^"]*"/, "")).replaceAll('"', "&quot;");
    const shop = await site(html(`<iframe sandbox="allow-scripts" srcdoc="${frame}"></iframe>`), options);
    const page = await (await browser.newContext()).newPage();
    const said = [];
    page.on("console", (message) => said.push(message.text()));
    page.on("pageerror", (error) => assert.fail(error));
    await page.goto(foreign);
    await page.frameLocator("iframe").locator("qr-login .frame.blocked").waitFor();
    assert(said.some((line) => line.startsWith("qr-login") && line.includes("endpoint")), said.join("\n"));
    shop.close();
  },

  async "the link can be copied on plain http"() {
    const page = await visitor();
    await page.addInitScript(() => Object.defineProperty(Navigator.prototype, "clipboard", { value: undefined }));
    const session = generated(page);
    await page.goto(base);
    await state(page, "ready");
    await part(page, "copy").click();
    await page.waitForFunction(() => {
      const { shadowRoot } = document.querySelector("qr-login");
      return shadowRoot.querySelector(".copy").textContent === "Copied";
    });
    const focused = () => document.querySelector("qr-login").shadowRoot.activeElement?.className;
    assert.equal(await page.evaluate(focused), "copy");
    await page.evaluate(() => document.body.append(Object.assign(document.createElement("input"), { id: "pasted" })));
    await page.locator("#pasted").focus();
    await page.keyboard.press("Control+V");
    assert.equal(await page.locator("#pasted").inputValue(), (await session).qr_url);
  },

  async "two elements on a page keep their sessions over a reload"() {
    const shop = await site(html(element + element.replace(/<script.*<\/script>/, "")), options);
    const page = await visitor();
    const codes = () =>
      page.evaluate(() => [...document.querySelectorAll("qr-login")].map(({ state }) => state.qr_url));
    await page.goto(foreign);
    await bothReady(page);
    await waiting(2);
    const before = await codes();
    assert.notEqual(before[0], before[1]);
    for (let times = 0; times < 2; times++) {
      await page.reload();
      await bothReady(page);
      await waiting(2);
      assert.deepEqual(await codes(), before);
    }
    await (await scans({ qr_url: before[1] })).confirms();
    await page.waitForFunction(() => document.querySelectorAll("qr-login")[1].state.name === "confirmed");
    assert.equal(await page.evaluate(() => document.querySelector("qr-login").state.name), "ready");
    // The first element continues its session; the second, whose login is over, begins a new one.
    await page.reload();
    await bothReady(page);
    const after = await codes();
    assert.equal(after[0], before[0]);
    assert(!before.includes(after[1]));
    shop.close();
  },

  async "a page that is returned to requests a new code, unless it has the attribute once"() {
    for (const stays of [false, true]) {
      const { page, session } = await desktop();
      await page.evaluate((stays) => document.querySelector("qr-login").toggleAttribute("once", stays), stays);
      await (await scans(session)).confirms();
      await state(page, "confirmed");
      await received(session);
      await page.evaluate(() => window.dispatchEvent(new PageTransitionEvent("pageshow", { persisted: true })));
      await state(page, stays ? "confirmed" : "ready");
      await page.context().close();
    }
  },

  async "the token is acknowledged if its listener ends the login, on each transport"() {
    const ends = {
      "removes the element": (event) => event.target.remove(),
      "asks for a new code": (event) => event.target.refresh(),
      "begins again": (event) => event.target.start(),
      "leaves the page": () => location.assign("/demo/gallery"),
    };
    for (const way of Object.keys(ways)) {
      for (const [name, end] of Object.entries(ends)) {
        const page = await visitor();
        await only(page, way);
        const session = generated(page);
        await page.goto(base);
        await state(page, "ready");
        await waiting(1);
        await page.evaluate(`document.addEventListener("qr-login:confirmed", ${end}, { once: true })`);
        await (await scans(await session)).confirms();
        await received(await session);
        // Its session is over: the element has another one.
        if (/again|new code/.test(name)) await state(page, "ready");
        // Chromium opens no page any more after a context was closed while its page was being left.
        if (name === "leaves the page") await page.waitForURL(/gallery/);
        console.log(`passed: ${way}, ${name}`);
        await page.context().close();
        await waiting(0);
      }
    }
  },

  async "a stopped login without an element acknowledges its token, on each transport"() {
    for (const way of Object.keys(ways)) {
      const page = await visitor();
      await only(page, way);
      page.mayFail = true;
      await page.route(/gallery\.js/, (route) => route.abort());
      await page.goto(`${base}/demo/gallery`);
      const session = generated(page);
      await page.evaluate(async () => {
        const { createQrLogin } = await import("/js/core.js");
        window.login = createQrLogin();
        window.login.addEventListener("confirmed", () => window.login.stop());
        window.login.start();
      });
      await session;
      await waiting(1);
      await (await scans(await session)).confirms();
      await received(await session);
      await page.context().close();
      await waiting(0);
    }
  },
};

await runStories(stories);
