// The page on a network that fails, with a server that stops: it ends in the right state each time.
import assert from "node:assert/strict";
import { advance, at_rest, desktop, generated, part, received, scan, scans, start, state, stop, tell, waiting } from "./stage.mjs";

/** How long the network is away. */
const away_ms = Number(process.env.AWAY_MS ?? 1200);
const pause = () => new Promise((resolve) => setTimeout(resolve, away_ms));

/** A page whose network may fail. */
async function ready() {
  const { page, session } = await desktop();
  page.may_fail = true;
  return { page, session };
}

/** What happens before the network goes, while it is away, and how the page must end. */
const cases = {
  "nothing happens": { ends: "ready" },
  "it is scanned meanwhile": { meanwhile: ({ session }) => scans(session), ends: "scanned" },
  "it is confirmed meanwhile": { meanwhile: async ({ session }) => (await scans(session)).confirms(), ends: "confirmed" },
  "it was scanned": { before: async (it) => (it.phone = await scans(it.session)), ends: "scanned" },
  "it was scanned, and is confirmed meanwhile": {
    before: async (it) => (it.phone = await scans(it.session)),
    meanwhile: ({ phone }) => phone.confirms(),
    ends: "confirmed",
  },
  "it was scanned, and is rejected meanwhile": {
    before: async (it) => (it.phone = await scans(it.session)),
    meanwhile: ({ phone }) => phone.rejects(),
    ends: "rejected",
  },
  "it was confirmed": { before: async ({ session }) => (await scans(session)).confirms(), is: "confirmed", ends: "confirmed" },
  "it was rejected": { before: async ({ session }) => (await scans(session)).rejects(), is: "rejected", ends: "rejected" },
  "it was cancelled": { before: ({ page }) => page.getByRole("button", { name: "Cancel" }).click(), is: "cancelled", ends: "cancelled" },
};

async function set() {
  const scenes = [];
  for (const [name, { before, ...rest }] of Object.entries(cases)) {
    const scene = { name, ...rest, ...(await ready()) };
    await before?.(scene);
    await state(scene.page, before ? (scene.is ?? "scanned") : "ready");
    scenes.push(scene);
  }
  return scenes;
}

async function end(scenes) {
  for (const { name, page, ends, session } of scenes) {
    await state(page, ends).catch(() => assert.fail(`${name}: ends in another state than ${ends}`));
    await page.locator("qr-login .frame:not(.away)").waitFor();
    if (["ready", "scanned"].includes(ends)) {
      await (await scans(session)).confirms();
      await state(page, "confirmed");
    }
    await at_rest(page);
  }
  await waiting(0);
}

const stories = {
  async "the network is away for a while"() {
    const scenes = await set();
    for (const { page } of scenes) await page.context().setOffline(true);
    const [first] = scenes;
    await part(first.page, "notice").waitFor();
    assert.match(await part(first.page, "notice").innerText(), /No connection/);
    for (const scene of scenes) await scene.meanwhile?.(scene);
    await pause();
    for (const { page } of scenes) await page.context().setOffline(false);
    await end(scenes);
  },

  async "the server is stopped and started again"() {
    const scenes = await set();
    await stop();
    await pause();
    await start();
    for (const scene of scenes) await scene.meanwhile?.(scene);
    await end(scenes);
  },

  async "the code runs out while the network, or the server, is away"() {
    const [offline, restarted] = [await ready(), await ready()];
    await offline.page.context().setOffline(true);
    await stop();
    await advance(301);
    await start();
    await state(restarted.page, "expired");
    await state(offline.page, "ready");
    await offline.page.context().setOffline(false);
    await state(offline.page, "expired");
    for (const { page } of [offline, restarted]) {
      await at_rest(page);
      await page.context().setOffline(true);
      await page.context().setOffline(false);
      await state(page, "expired");
    }
  },

  async "a code is asked for while nothing gets through"() {
    const { page } = await ready();
    await page.getByRole("button", { name: "Cancel" }).click();
    await state(page, "cancelled");
    await page.context().setOffline(true);
    await page.getByRole("button", { name: "Get a new code" }).click();
    await state(page, "loading");
    await part(page, "notice").waitFor();
    await pause();
    await page.context().setOffline(false);
    await state(page, "ready");
    await page.getByRole("button", { name: "Cancel" }).click();
    await stop();
    await page.getByRole("button", { name: "Get a new code" }).click();
    await state(page, "loading");
    await start();
    await state(page, "ready");
  },

  async "whoever gives up has given up, also without a network or a server, and nothing is left waiting"() {
    const [offline, alone, unanswered] = [await ready(), await ready(), await ready()];
    await unanswered.page.route(/\/cancel$/, () => {});
    await unanswered.page.getByRole("button", { name: "Cancel" }).click();
    await offline.page.context().setOffline(true);
    await offline.page.getByRole("button", { name: "Cancel" }).click();
    await state(offline.page, "cancelled");
    await offline.page.context().setOffline(false);
    await stop();
    await alone.page.getByRole("button", { name: "Cancel" }).click();
    await state(alone.page, "cancelled");
    await start();
    await state(unanswered.page, "cancelled");
    for (const { page } of [offline, alone, unanswered]) {
      await at_rest(page);
      await state(page, "cancelled");
    }
    await waiting(0);
    for (const { page, session } of [offline, alone, unanswered]) {
      await page.reload();
      await state(page, "ready");
      assert.notEqual(await scan(page), session.qr_url);
    }
  },

  async "a network that comes and goes while the receipt is under way begins no other login"() {
    const { page, session } = await ready();
    await page.getByRole("button", { name: "Cancel" }).click();
    await state(page, "cancelled");
    await page.routeWebSocket(/./, (socket) => socket.close());
    const session_after = generated(page);
    await page.getByRole("button", { name: "Get a new code" }).click();
    const { qr_url } = await session_after;
    assert.notEqual(qr_url, session.qr_url);
    await waiting(1);
    const receipts = [];
    await page.route(/\/ack$/, (route) => receipts.push(route));
    await (await scans({ qr_url })).confirms();
    await state(page, "confirmed");
    await page.context().setOffline(true);
    await page.context().setOffline(false);
    await page.evaluate(() => window.dispatchEvent(new Event("online")));
    await page.locator("qr-login .frame:not(.away)").waitFor();
    for (const route of receipts) await route.continue();
    await page.unroute(/\/ack$/);
    await at_rest(page);
    await state(page, "confirmed");
  },

  async "a page that nobody looks at comes back at once when somebody does"() {
    const { page } = await ready();
    await stop();
    await page.locator("qr-login .frame.away").waitFor();
    await start();
    await page.evaluate(() => document.dispatchEvent(new Event("visibilitychange", { bubbles: true })));
    await page.locator("qr-login .frame:not(.away)").waitFor();
    await waiting(1);
  },

  async "a second tab takes over, also after the server was away"() {
    const { page, session } = await ready();
    const [second] = await Promise.all([page.context().waitForEvent("page"), page.evaluate(() => void window.open(location.href))]);
    await state(second, "ready");
    await state(page, "replaced");
    await at_rest(page);
    second.may_fail = true;
    await stop();
    await pause();
    await start();
    await (await scans(session)).confirms();
    await state(second, "confirmed");
    await received(session);
    await page.getByRole("button", { name: "Continue here" }).click();
    await state(page, "ready");
    assert.notEqual(await scan(page), session.qr_url, "that login is over");
  },

  async "a session that the server has forgotten has expired"() {
    const { page } = await ready();
    await stop();
    // Swept ten minutes after its end.
    await advance(1200);
    await start();
    await state(page, "expired");
    await page.getByRole("button", { name: "Get a new code" }).click();
    await state(page, "ready");
  },
};

await tell(stories);
