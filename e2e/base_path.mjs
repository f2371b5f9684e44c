// The demo's pages where public_url has a path.
import assert from "node:assert/strict";
import { base, choose, desktop, phone, received, scan, scans, state, runStories } from "./stage.mjs";

const stories = {
  async "a login from the first page to its token"() {
    const { page, session } = await desktop();
    assert(session.qr_url.startsWith(`${base}/q/`));
    assert(session.ws_path.startsWith(`${new URL(base).pathname}/v1/ws/qr/`));
    assert.equal(await scan(page), session.qr_url);
    await (await scans(session)).confirms();
    await state(page, "confirmed");
    await received(session);
  },

  async "a page whose URL ends with a slash"() {
    const { page, session } = await desktop({ path: "/" });
    await (await scans(session)).rejects();
    await state(page, "rejected");
  },

  async "the gallery opens by its link"() {
    const { page } = await desktop();
    await page.getByRole("link", { name: "All its states" }).click();
    await page.locator('qr-login-pose[data-pose="confirmed"]').waitFor();
    assert.equal(page.url(), `${base}/demo/gallery`);
    await page.locator('[data-role="views"] a').first().click();
    await page.locator('qr-login-pose[data-pose="confirmed"]').waitFor();
  },

  async "the pages on the phone load their style, and log out"() {
    const { session } = await desktop();
    const other = await phone(session.qr_url);
    const isStyled = () => other.evaluate(() => document.styleSheets[0].cssRules.length > 0);
    await other.getByRole("button", { name: "Ada Lovelace" }).waitFor();
    assert.equal(other.url().split("?")[0], `${base}/demo/provider/authorize`);
    assert(await isStyled());
    await choose(other, "Ada Lovelace");
    assert(await isStyled());
    await other.getByRole("button", { name: "Log out here" }).tap();
    await other.waitForURL(`${base}/q/logged-out`);
    assert(await isStyled());
  },
};

await runStories(stories);
