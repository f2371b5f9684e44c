// The page on a network that fails, and with a server that stops. It must end in the right state.
import assert from "node:assert/strict";
import {
  advance, atRest, desktop, generated, part, received, runStories, scan, scans, start, state, stop, waiting,
} from "./stage.mjs";

/** Duration of an outage, in milliseconds. */
const outageMs = Number(process.env.AWAY_MS ?? 1200);
const pause = () => new Promise((resolve) => setTimeout(resolve, outageMs));

/** Opens a page whose network may fail. */
async function ready() {
  const { page, session } = await desktop();
  page.mayFail = true;
  return { page, session };
}

/** Scans the code of a scene, and keeps the phone in the scene. */
async function scanned(scene) {
  scene.phone = await scans(scene.session);
}

async function confirmed({ session }) {
  await (await scans(session)).confirms();
}

async function rejected({ session }) {
  await (await scans(session)).rejects();
}

const cancelled = ({ page }) => page.getByRole("button", { name: "Cancel" }).click();

/** Events before the outage and during it, the state after the first ones, and the state in which the page must end. */
const cases = {
  "nothing happens": { ends: "ready" },
  "it is scanned meanwhile": { meanwhile: scanned, ends: "scanned" },
  "it is confirmed meanwhile": { meanwhile: confirmed, ends: "confirmed" },
  "it was scanned": { before: scanned, ends: "scanned" },
  "it was scanned, and is confirmed meanwhile": {
    before: scanned,
    meanwhile: ({ phone }) => phone.confirms(),
    ends: "confirmed",
  },
  "it was scanned, and is rejected meanwhile": {
    before: scanned,
    meanwhile: ({ phone }) => phone.rejects(),
    ends: "rejected",
  },
  "it was confirmed": { before: confirmed, is: "confirmed", ends: "confirmed" },
  "it was rejected": { before: rejected, is: "rejected", ends: "rejected" },
  "it was cancelled": { before: cancelled, is: "cancelled", ends: "cancelled" },
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
    await atRest(page);
  }
  await waiting(0);
}

const stories = {
  async "the network is interrupted"() {
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

  async "the code expires while the network is interrupted or the server is stopped"() {
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
      await atRest(page);
      await page.context().setOffline(true);
      await page.context().setOffline(false);
      await state(page, "expired");
    }
  },

  async "a code is requested while the server cannot be reached"() {
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

  async "a login can be cancelled while the server cannot be reached"() {
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
      await atRest(page);
      await state(page, "cancelled");
    }
    await waiting(0);
    for (const { page, session } of [offline, alone, unanswered]) {
      await page.reload();
      await state(page, "ready");
      assert.notEqual(await scan(page), session.qr_url);
    }
  },

  async "a network interruption during the acknowledgement begins no other session"() {
    const { page, session } = await ready();
    await page.getByRole("button", { name: "Cancel" }).click();
    await state(page, "cancelled");
    await page.routeWebSocket(/./, (socket) => socket.close());
    const nextSession = generated(page);
    await page.getByRole("button", { name: "Get a new code" }).click();
    const { qr_url } = await nextSession;
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
    await atRest(page);
    await state(page, "confirmed");
  },

  async "a page reconnects at once when it becomes visible"() {
    const { page } = await ready();
    await stop();
    await page.locator("qr-login .frame.away").waitFor();
    await start();
    await page.evaluate(() => document.dispatchEvent(new Event("visibilitychange", { bubbles: true })));
    await page.locator("qr-login .frame:not(.away)").waitFor();
    await waiting(1);
  },

  async "a second tab supersedes the first, also after a restart of the server"() {
    const { page, session } = await ready();
    const opened = page.context().waitForEvent("page");
    await page.evaluate(() => {
      window.open(location.href);
    });
    const second = await opened;
    await state(second, "ready");
    await state(page, "replaced");
    await atRest(page);
    second.mayFail = true;
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

  async "a session that the server has deleted is shown as expired"() {
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

await runStories(stories);
