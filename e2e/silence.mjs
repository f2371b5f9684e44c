// The path to the server dies silently: nothing is forwarded any more, and nothing is closed. The page must end in the
// right state. The server's heartbeat is two seconds.
import assert from "node:assert/strict";
import { behind, proxy } from "./proxy.mjs";
import { advance, at, atRest, choose, desktop, phone, state, runStories, waiting } from "./stage.mjs";

const heartbeatMs = 2000;
const ways = { "a WebSocket": {}, events: { tunnels: false }, "long polls": { tunnels: false, streams: false } };

/** Whether the server's time advances. */
let isRunning = true;
const running = (async () => {
  while (isRunning) {
    await advance(0.25);
    await new Promise((resolve) => setTimeout(resolve, 250));
  }
})();

/** Logs the duration of a step. It does not fail if the step takes longer than expected, as on a busy machine. */
const within = async (ms, what) => {
  const begun = performance.now();
  await what;
  console.log(`passed: (took ${Math.round(performance.now() - begun)} ms; at rest, less than ${ms})`);
};

/** Scans with a phone, and returns a function that picks the number which the page shows. */
async function scanned(session) {
  const other = await phone(session.qr_url);
  await choose(other, "Ada Lovelace");
  return async (page) => {
    const number = await page.evaluate(() => document.querySelector("qr-login").state.number);
    await other.locator(".numbers button", { hasText: number }).tap();
    await at(other, "confirmed");
  };
}

/** Opens a page that waits on one transport, on a path that can die. */
async function waits(kind) {
  const through = await proxy(kind);
  const it = await behind(through);
  await waiting(1);
  return { ...it, through };
}

async function ends({ page, through }) {
  await page.context().close();
  through.close();
  await waiting(0);
}

const hide = (page, isHidden) =>
  page.evaluate((isHidden) => {
    Object.defineProperty(document, "hidden", { value: isHidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange", { bubbles: true }));
  }, isHidden);

const stories = {};
for (const [way, kind] of Object.entries(ways)) {
  stories[`a path of ${way} that dies before the code is scanned`] = async () => {
    const it = await waits(kind);
    it.through.swallow();
    const scanning = scanned(it.session);
    await within(2.5 * heartbeatMs, state(it.page, "scanned"));
    await (await scanning)(it.page);
    await state(it.page, "confirmed");
    await ends(it);
  };

  stories[`a path of ${way} that dies while the number is shown`] = async () => {
    const it = await waits(kind);
    const confirms = await scanned(it.session);
    await state(it.page, "scanned");
    it.through.swallow();
    await confirms(it.page);
    await within(2.5 * heartbeatMs, state(it.page, "confirmed"));
    await networkAtRest(it);
    await ends(it);
  };

  stories[`a path of ${way} that dies while the page is hidden`] = async () => {
    const it = await waits(kind);
    const confirms = await scanned(it.session);
    await state(it.page, "scanned");
    await hide(it.page, true);
    it.through.swallow();
    await confirms(it.page);
    await hide(it.page, false);
    await within(3000, state(it.page, "confirmed"));
    await ends(it);
  };

  stories[`a path of ${way} that is alive is kept when the page is hidden and shown`] = async () => {
    const it = await waits(kind);
    const tunnels = () => it.through.seen.filter((path) => path === "tunnel").length;
    const before = tunnels();
    for (let again = 0; again < 3; again++) {
      await hide(it.page, true);
      await hide(it.page, false);
      await it.page.waitForTimeout(300);
    }
    await it.page.waitForTimeout(2500);
    // On a busy machine, the connection may have been silent for too long once. A page that reconnects each time that
    // it is shown does it three times.
    assert(tunnels() - before < 2, `${tunnels() - before} new connections`);
    await state(it.page, "ready");
    await waiting(1);
    await ends(it);
  };
}

/** Waits until the page shows no connection problem. */
const networkAtRest = ({ page }) => page.waitForFunction(() => !document.querySelector("qr-login .frame.away"));

// A headless browser freezes no page, so the script dispatches the event.
stories["a path that dies while the page is frozen"] = async () => {
  const it = await waits({});
  const confirms = await scanned(it.session);
  await state(it.page, "scanned");
  it.through.swallow();
  await confirms(it.page);
  await it.page.evaluate(() => document.dispatchEvent(new Event("resume")));
  await within(3000, state(it.page, "confirmed"));
  await ends(it);
};

// Playwright disables the back/forward cache: the page is loaded again. The next story simulates the cache.
stories["a page that is returned to continues at once, and had no connection meanwhile"] = async () => {
  const { page, session } = await desktop();
  const confirms = await scanned(session);
  await state(page, "scanned");
  const number = await page.evaluate(() => document.querySelector("qr-login").state.number);
  await page.goto("about:blank");
  await waiting(0);
  await confirms({ evaluate: async () => number });
  await within(3000, page.goBack().then(() => state(page, "confirmed")));
  await atRest(page);
};

stories["a page in the back/forward cache has no connection until it is shown"] = async () => {
  const { page } = await desktop();
  await waiting(1);
  await page.evaluate(() => window.dispatchEvent(new PageTransitionEvent("pagehide", { persisted: true })));
  await waiting(0);
  await atRestExceptCountdown(page);
  await page.evaluate(() => window.dispatchEvent(new PageTransitionEvent("pageshow", { persisted: true })));
  await waiting(1);
  await state(page, "ready");
};

/** Waits until nothing is open except the timer of the countdown. */
const atRestExceptCountdown = (page) =>
  page.waitForFunction(() => window.openSockets.size + window.openFetches === 0 && window.runningTimers.size <= 1);

stories["a jump of the wall clock probes the connection, and replaces a dead one"] = async () => {
  const it = await waits({});
  const confirms = await scanned(it.session);
  await state(it.page, "scanned");
  it.through.swallow();
  await confirms(it.page);
  // As after a machine's sleep.
  await it.page.evaluate(() => {
    const { now } = Date;
    Date.now = () => now() + 3600_000;
  });
  await within(3500, state(it.page, "confirmed"));
  await ends(it);
};

stories["a path that dies is noticed in time when the wall clock is set back"] = async () => {
  const it = await waits({});
  const confirms = await scanned(it.session);
  await state(it.page, "scanned");
  await it.page.evaluate(() => {
    const { now } = Date;
    Date.now = () => now() - 600_000;
  });
  it.through.swallow();
  await confirms(it.page);
  await within(2.5 * heartbeatMs, state(it.page, "confirmed"));
  await ends(it);
};

stories["(the time stops)"] = async () => {
  isRunning = false;
  await running;
};

await runStories(stories);
