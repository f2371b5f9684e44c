// The path to the server dies silently: nothing is forwarded any more, and nothing closed. The page ends in the right
// state all the same. The server's heartbeat is two seconds.
import assert from "node:assert/strict";
import { behind, proxy } from "./proxy.mjs";
import { advance, at, at_rest, choose, desktop, phone, state, tell, waiting } from "./stage.mjs";

const beat_ms = 2000;
const ways = { "a WebSocket": {}, events: { tunnels: false }, "long polls": { tunnels: false, streams: false } };

/** The server's time, which runs by itself here. */
let is_running = true;
const running = (async () => {
  while (is_running) {
    await advance(0.25);
    await new Promise((resolve) => setTimeout(resolve, 250));
  }
})();

/** Says how long it took, and how long it is to take. (A busy machine takes longer: what fails is that it never comes.) */
const within = async (ms, what) => {
  const begun = performance.now();
  await what;
  console.log(`told: (that took ${Math.round(performance.now() - begun)} ms; at rest, less than ${ms})`);
};

/** A phone that scans and picks the number that the page shows. */
async function scanned(session) {
  const other = await phone(session.qr_url);
  await choose(other, "Ada Lovelace");
  return async (page) => {
    const number = await page.evaluate(() => document.querySelector("qr-login").state.number);
    await other.locator('[data-role="numbers"] button', { hasText: number }).tap();
    await at(other, "confirmed");
  };
}

/** A page that waits in this way, on a path that can die. */
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

const hide = (page, is_hidden) =>
  page.evaluate((is_hidden) => {
    Object.defineProperty(document, "hidden", { value: is_hidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange", { bubbles: true }));
  }, is_hidden);

const stories = {};
for (const [way, kind] of Object.entries(ways)) {
  stories[`a path of ${way} that dies before the code is scanned`] = async () => {
    const it = await waits(kind);
    it.through.swallow();
    const scanning = scanned(it.session);
    await within(2.5 * beat_ms, state(it.page, "scanned"));
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
    await within(2.5 * beat_ms, state(it.page, "confirmed"));
    await at_rest_of_network(it);
    await ends(it);
  };

  stories[`a path of ${way} that dies while nobody looks`] = async () => {
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

  stories[`a path of ${way} that is alive is left as it is by looking away and back`] = async () => {
    const it = await waits(kind);
    const tunnels = () => it.through.seen.filter((path) => path === "tunnel").length;
    const before = tunnels();
    for (let again = 0; again < 3; again++) {
      await hide(it.page, true);
      await hide(it.page, false);
      await it.page.waitForTimeout(300);
    }
    await it.page.waitForTimeout(2500);
    // (A busy machine may have been silent for too long once; whoever reconnects at each look does it three times.)
    assert(tunnels() - before < 2, `${tunnels() - before} new connections`);
    await state(it.page, "ready");
    await waiting(1);
    await ends(it);
  };
}

/** The receipt is in, or given up. */
const at_rest_of_network = ({ page }) => page.waitForFunction(() => !document.querySelector("qr-login .frame.away"));

// (A headless browser freezes no page: what it would say when it goes on is said here.)
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

// (Playwright keeps no page for going back to: it is loaded again. The next story has the other.)
stories["a page that is gone back to goes on at once, and held no connection meanwhile"] = async () => {
  const { page, session } = await desktop();
  const confirms = await scanned(session);
  await state(page, "scanned");
  const number = await page.evaluate(() => document.querySelector("qr-login").state.number);
  await page.goto("about:blank");
  await waiting(0);
  await confirms({ evaluate: async () => number });
  await within(3000, page.goBack().then(() => state(page, "confirmed")));
  await at_rest(page);
};

stories["a page that is kept for going back to, and shown again"] = async () => {
  const { page } = await desktop();
  await waiting(1);
  await page.evaluate(() => window.dispatchEvent(new PageTransitionEvent("pagehide", { persisted: true })));
  await waiting(0);
  await at_rest_but_for_the_clock(page);
  await page.evaluate(() => window.dispatchEvent(new PageTransitionEvent("pageshow", { persisted: true })));
  await waiting(1);
  await state(page, "ready");
};

/** Nothing is open but what shows the time left. */
const at_rest_but_for_the_clock = (page) =>
  page.waitForFunction(() => window.open_sockets.size + window.open_fetches === 0 && window.running_timers.size <= 1);

stories["time that jumps has the connection asked, and an old one given up"] = async () => {
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
  await within(2.5 * beat_ms, state(it.page, "confirmed"));
  await ends(it);
};

stories["(the time stops)"] = async () => {
  is_running = false;
  await running;
};

await tell(stories);
