// The demo's pages in a real browser.
import assert from "node:assert/strict";
import { base, browser, choose, desktop, advance, expectRefusal, listen, phone, scan, site, state, tell, text } from "./stage.mjs";

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
    expectRefusal(410);
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

  async "framed by another site, no page shows"() {
    const { session } = await desktop();
    for (const path of ["/", new URL(session.qr_url).pathname]) {
      const foreign = await site(`<iframe src="${base}${path}"></iframe>`);
      const page = await (await browser.newContext()).newPage();
      await page.goto(foreign.url);
      await page.waitForLoadState("networkidle");
      const framed = page.frames().find((frame) => frame !== page.mainFrame());
      assert.equal(await framed.locator(".card").count(), 0, path);
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
      const foreign = await site(`<form method="post" enctype="text/plain" action="${base}/v1/qr-login/${call}"><button>Win</button></form>`);
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

await tell(stories);
