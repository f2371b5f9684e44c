// The demo's pages in a real browser.
import assert from "node:assert/strict";
import {
  advance, at, atRest, base, browser, choose, desktop, expectRefusal, generated, keepToken, listen, logIn, message, part,
  phone, runStories, scan, scans, site, state, text, visitor, waiting,
} from "./stage.mjs";

const stories = {
  async "a phone scans what the page shows, confirms, and the page is logged in"() {
    const { page, session } = await desktop();
    const url = await scan(page);
    assert.equal(url, session.qr_url);
    const picture = Buffer.from(session.qr_image.split(",")[1], "base64").toString();
    for (const shown of [url, session.qr_url, picture, await page.content()]) {
      assert(!shown.includes(session.session_id));
    }

    const other = await phone(url);
    await choose(other, "Ada Lovelace");
    const facts = await other.locator(".facts").innerText();
    assert.match(facts, /Chrome \d+/);
    assert.match(facts, /127\.0\.0\.1/);
    assert.match(facts, /qrlogin demo page/);
    await state(page, "scanned");
    assert.equal(await part(page, "name").innerText(), "Ada Lovelace");
    await other.getByRole("button", { name: "Yes, log me in" }).tap();
    await at(other, "confirmed");
    await state(page, "confirmed");
    assert.equal(await part(page, "name").innerText(), "Ada Lovelace");
    const { header, claims } = JSON.parse(await text(page, "claims"));
    assert.equal(header.alg, "EdDSA");
    assert.equal(claims.sub, "ada");

    await page.getByRole("button", { name: "Not you?" }).click();
    await state(page, "ready");
    assert.notEqual(await scan(page), url);
  },

  async "a waiting page has no animation"() {
    const { page } = await desktop();
    // An animation would use more energy than the rest of the page.
    const moving = await page.evaluate(async () => {
      const { shadowRoot } = document.querySelector("qr-login");
      const seen = new Set();
      const end = performance.now() + 2500;
      while (performance.now() < end) {
        for (const { effect } of shadowRoot.getAnimations()) seen.add(effect.target.outerHTML);
        await new Promise(requestAnimationFrame);
      }
      return [...seen];
    });
    assert.deepEqual(moving, []);
  },

  async "a rejected login offers a new code"() {
    const { page, session } = await desktop();
    const other = await phone(session.qr_url);
    await choose(other, "Grace Hopper");
    await state(page, "scanned");
    await other.getByRole("button", { name: "No, that was not me" }).tap();
    await at(other, "rejected");
    await state(page, "rejected");
    await page.getByRole("button", { name: "Get a new code" }).click();
    await state(page, "ready");
    assert.notEqual(await scan(page), session.qr_url);
  },

  async "the browser cancels before the phone decides"() {
    const { page, session } = await desktop();
    const other = await phone(session.qr_url);
    await choose(other, "Alan Turing");
    await state(page, "scanned");
    await page.getByRole("button", { name: "Cancel" }).click();
    await state(page, "cancelled");
    await other.getByRole("button", { name: "Yes, log me in" }).tap();
    await at(other, "failed");
    assert.match(await message(other), /^Login cancelled/);
    expectRefusal(410);
  },

  async "a request for a new code cancels the previous session"() {
    const { page, session } = await desktop();
    const other = await phone(session.qr_url);
    await choose(other, "Alan Turing");
    await state(page, "scanned");
    await page.evaluate(() => document.querySelector("qr-login").refresh());
    await state(page, "ready");
    await other.getByRole("button", { name: "Yes, log me in" }).tap();
    await at(other, "failed");
    assert.match(await message(other), /^Login cancelled/);
    expectRefusal(410);
  },

  async "a late response to a cancel does not affect the next session"() {
    const { page, session } = await desktop();
    const answers = [];
    await page.route(/\/cancel$/, (route) => answers.push([route, route.fetch()]));
    await page.getByRole("button", { name: "Cancel" }).click();
    // The WebSocket is quicker than the answer.
    await state(page, "cancelled");
    await page.getByRole("button", { name: "Get a new code" }).click();
    await state(page, "ready");
    for (const [route, response] of answers) await route.fulfill({ response: await response });
    await page.waitForFunction(() => window.openFetches === 0);
    await state(page, "ready");
    assert.notEqual(await scan(page), session.qr_url);
  },

  async "an expired code offers a new one"() {
    const { page, session } = await desktop();
    await advance(300.1);
    await state(page, "expired");
    await page.getByRole("button", { name: "Get a new code" }).click();
    await state(page, "ready");
    assert.notEqual(await scan(page), session.qr_url);
  },

  async "a reload continues the session, also if it was scanned or confirmed meanwhile"() {
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
    await at(other, "confirmed");
    await page.goto(base);
    await state(page, "confirmed");
    assert.equal(await part(page, "name").innerText(), "Ada Lovelace");
  },

  async "a second tab supersedes the first, and the first can supersede it again"() {
    const { page, session } = await desktop();
    const second = listen(await page.context().newPage());
    const key = `qr-login ${base}`;
    await second.addInitScript(([key, id]) => sessionStorage.setItem(key, id), [key, session.session_id]);
    await second.goto(base);
    await state(second, "ready");
    await state(page, "replaced");
    await page.getByRole("button", { name: "Continue here" }).click();
    await state(page, "ready");
    await state(second, "replaced");
  },

  async "on a phone, the page offers a link to the app instead of the code"() {
    const page = await phone(base);
    await state(page, "ready");
    assert.equal(await part(page, "qr").count(), 0);
    const open = page.getByRole("link", { name: "Open in the app" });
    assert.match(await open.getAttribute("href"), /\/q\//);
    const [app] = await Promise.all([page.context().waitForEvent("page"), open.tap()]);
    await logIn(listen(app), "Ada Lovelace");
    // The code was not opened by a camera, so the approve page does not scan it at once.
    await app.getByRole("button", { name: "Continue" }).tap();
    await at(app, "asking");
    await app.getByRole("button", { name: "Yes, log me in" }).tap();
    await state(page, "confirmed");
  },

  async "the code is shown after one request to the API"() {
    const page = await visitor();
    const requests = [];
    page.on("request", (request) => {
      const { protocol, pathname } = new URL(request.url());
      if (protocol !== "data:") requests.push(`${request.method()} ${pathname}`);
    });
    // All requests but the first one stay without a response.
    await page.route(/\/v1\/(?!qr-login\/generate)/, () => {});
    await page.routeWebSocket(/./, () => {});
    await page.goto(base);
    await state(page, "ready");
    assert(await part(page, "qr").evaluate((picture) => picture.complete && picture.naturalWidth > 0));
    assert.deepEqual(requests.filter((path) => path.includes("/v1/")), ["POST /v1/qr-login/generate"]);
  },

  async "a finished login leaves no socket, request or timer open"() {
    const { page, session } = await desktop();
    await waiting(1);
    // The timers are the check for silence and the countdown.
    await page.waitForFunction(() => {
      const { openSockets, openFetches, runningTimers } = window;
      return openSockets.size === 1 && openFetches === 0 && runningTimers.size === 2;
    });
    await (await scans(session)).rejects();
    await state(page, "rejected");
    await atRest(page);
    for (let again = 0; again < 5; again++) {
      await page.evaluate(() => document.querySelector("qr-login").refresh());
      await state(page, "ready");
    }
    await waiting(1);
    await page.getByRole("button", { name: "Cancel" }).click();
    await state(page, "cancelled");
    await atRest(page);
    await waiting(0);
    await page.evaluate(() => document.querySelector("qr-login").refresh());
    await state(page, "ready");
    await waiting(1);
    await page.evaluate(() => document.querySelector("qr-login").remove());
    await atRest(page);
    await waiting(0);
  },

  async "an element that is moved or changed keeps its session"() {
    const { page, session } = await desktop();
    await page.evaluate(() => {
      const element = document.querySelector("qr-login");
      const parent = element.parentNode;
      for (let move = 0; move < 3; move++) parent.prepend(element);
      element.setAttribute("client-info", "another");
    });
    await state(page, "ready");
    await waiting(1);
    assert.equal(await scan(page), session.qr_url);
    await page.evaluate(() => document.querySelector("qr-login").setAttribute("lang", "zh-CN"));
    await page.locator("qr-login").getByText("扫码登录").waitFor();
    assert.equal(await page.evaluate(() => document.querySelector("qr-login").state.qr_url), session.qr_url);
  },

  async "events bubble, and only confirmed contains the token"() {
    const { page, session } = await desktop();
    await page.reload();
    await page.evaluate(() => {
      window.events = [];
      const types = ["scanned", "number", "confirmed", "rejected", "cancelled", "expired", "replaced", "error"];
      for (const type of types) {
        document.addEventListener(`qr-login:${type}`, ({ detail }) => window.events.push([type, detail]));
      }
    });
    await state(page, "ready");
    const other = await scans(session);
    await state(page, "scanned");
    await other.confirms();
    await state(page, "confirmed");
    const [[first, who], [last, token], ...more] = await page.evaluate(() => window.events);
    assert.deepEqual([first, last, more], ["scanned", "confirmed", []]);
    assert.equal(who.user.name, "Ada Lovelace");
    assert.deepEqual([token.token_type, token.expires_in, token.user.name], ["Bearer", 3600, "Ada Lovelace"]);
    assert.equal(token.web_token.split(".").length, 3);
    await atRest(page);
  },

  async "a token that is not acknowledged is delivered again after a reload"() {
    const { page, session } = await desktop();
    const preventDefault = () => {
      window.tokens = [];
      document.addEventListener("qr-login:confirmed", (event) => {
        event.preventDefault();
        window.tokens.push(event.detail.web_token);
      });
    };
    await page.evaluate(preventDefault);
    await (await scans(session)).confirms();
    await state(page, "confirmed");
    const [token] = await page.evaluate(() => window.tokens);
    await page.addInitScript(preventDefault);
    await page.reload();
    await state(page, "confirmed");
    assert.deepEqual(await page.evaluate(() => window.tokens), [token]);
    await page.evaluate(() => document.querySelector("qr-login").acknowledge());
    await page.reload();
    await state(page, "ready");
  },

  async "no secret is in the page, in a URL, or in the console"() {
    const context = await browser.newContext();
    const page = listen(await context.newPage());
    const written = [];
    page.on("console", (message) => written.push(message.text()));
    page.on("request", (request) => written.push(request.url()));
    page.on("websocket", (socket) => written.push(socket.url()));
    const pageSession = generated(page);
    await page.goto(base);
    const session = await pageSession;
    await keepToken(page);
    const everything = () => page.evaluate(() => {
      const root = document.querySelector("qr-login").shadowRoot;
      const { documentElement, title, cookie } = document;
      const storage = JSON.stringify({ ...localStorage });
      return [documentElement.outerHTML, root.innerHTML, title, location.href, cookie, storage].join();
    });
    await state(page, "ready");
    written.push(await everything());
    const other = await scans(session);
    await state(page, "scanned");
    written.push(await everything());
    await other.confirms();
    await state(page, "confirmed");
    written.push(await everything());
    const token = await page.evaluate(() => window.token);
    for (const text of written) {
      for (const secret of [session.session_id, token, token.split(".")[2]]) {
        assert(!text.includes(secret), text.slice(0, 200));
      }
    }
  },

  async "the keyboard reaches every action, and the focus is kept"() {
    const { page, session } = await desktop();
    const focused = () => page.evaluate(() => document.activeElement.shadowRoot?.activeElement?.textContent);
    await page.keyboard.press("Tab");
    assert.equal(await focused(), "Cancel");
    await page.keyboard.press("Tab");
    assert.equal(await focused(), "Copy link");
    await page.keyboard.press("Shift+Tab");
    await page.keyboard.press("Enter");
    await state(page, "cancelled");
    assert.equal(await focused(), "Get a new code");
    await page.keyboard.press("Space");
    await state(page, "ready");
    await page.keyboard.press("Tab");
    assert.equal(await focused(), "Cancel");
    await advance(301);
    await state(page, "expired");
    assert.equal(await focused(), "Get a new code");
    await page.keyboard.press("Enter");
    await state(page, "ready");
    assert.notEqual(await scan(page), session.qr_url);
  },

  async "the link is copied"() {
    const { page, session } = await desktop({ options: { permissions: ["clipboard-read", "clipboard-write"] } });
    await page.getByRole("button", { name: "Copy link" }).click();
    await page.getByRole("button", { name: "Copied" }).waitFor();
    assert.equal(await page.evaluate(() => navigator.clipboard.readText()), session.qr_url);
  },

  async "auto-refresh renews an expired code while the page is visible"() {
    const { page, session } = await desktop({ path: "/?auto-refresh" });
    await advance(300.1);
    await page.waitForFunction((before) => {
      const { qr_url } = document.querySelector("qr-login").state;
      return qr_url && qr_url !== before;
    }, session.qr_url);
    await state(page, "ready");
    // As the browser says it of a tab in the background.
    const hide = (hidden) => page.evaluate((hidden) => {
      Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
      document.dispatchEvent(new Event("visibilitychange", { bubbles: true }));
    }, hidden);
    await hide(true);
    await advance(300.1);
    await state(page, "expired");
    await atRest(page);
    await hide(false);
    await state(page, "ready");
  },

  async "no page is shown in a frame of another site"() {
    const { session } = await desktop();
    for (const path of ["/", new URL(session.qr_url).pathname]) {
      const foreign = await site(`<iframe src="${base}${path}"></iframe>`);
      const page = await (await browser.newContext()).newPage();
      await page.goto(foreign.url);
      await page.waitForLoadState("networkidle");
      const framed = page.frames().find((frame) => frame !== page.mainFrame());
      assert.equal(await framed.locator("main").count(), 0, path);
      foreign.close();
    }
  },

  async "a form that another site posts decides nothing"() {
    const { page, session } = await desktop();
    const forms = [
      ["confirm", `{"code":"${session.code}","x":"`, '"}'],
      ["reject", `{"code":"${session.code}","x":"`, '"}'],
      ["cancel", `{"session_id":"${session.session_id}","x":"`, '"}'],
      ["confirm", "code", session.code],
    ];
    for (const [call, name, value] of forms) {
      const action = `${base}/v1/qr-login/${call}`;
      const form = `<form method="post" enctype="text/plain" action="${action}"><button>Win</button></form>`;
      const foreign = await site(form);
      const other = await (await browser.newContext()).newPage();
      await other.goto(foreign.url);
      await other.evaluate(([name, value]) => {
        document.forms[0].append(Object.assign(document.createElement("input"), { type: "hidden", name, value }));
      }, [name, value]);
      const [answer] = await Promise.all([other.waitForResponse(/qr-login/), other.getByRole("button").click()]);
      assert([401, 403, 415].includes(answer.status()), `${call}: ${answer.status()}`);
      foreign.close();
    }
    assert.equal(await page.evaluate(async (id) => {
      const answer = await fetch("/v1/qr-login/status", { headers: { "x-qr-session": id } });
      return (await answer.json()).version;
    }, session.session_id), 1);
    await state(page, "ready");
  },
};

await runStories(stories);
