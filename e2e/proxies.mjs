// The page behind proxies: what they do not let through is gone around.
import assert from "node:assert/strict";
import { behind, proxy } from "./proxy.mjs";
import { scans, state, tell, waiting } from "./stage.mjs";

/** A whole login, and what was asked of the proxy for it. */
async function logs_in(kind, meanwhile = () => {}) {
  const through = await proxy(kind);
  const { page, session } = await behind(through);
  await waiting(1);
  await meanwhile(page, through);
  const other = await scans(session);
  await state(page, "scanned");
  await other.confirms();
  await state(page, "confirmed");
  await waiting(0);
  await page.context().close();
  through.close();
  const count = (what) => through.seen.filter((path) => path.includes(what)).length;
  return { tunnels: count("tunnel"), streams: count("/sse/"), polls: count("/status"), receipts: count("/ack") };
}

const stories = {
  async "one that lets everything through"() {
    const used = await logs_in({});
    assert(used.tunnels > 0 && used.streams + used.polls + used.receipts === 0, JSON.stringify(used));
  },

  async "no WebSocket: by events"() {
    const used = await logs_in({ tunnels: false });
    assert(used.streams > 0 && used.polls === 0 && used.receipts === 1, JSON.stringify(used));
  },

  async "a WebSocket that is never answered: by events"() {
    const used = await logs_in({ tunnels: "silent" });
    assert(used.streams > 0 && used.polls === 0 && used.receipts === 1, JSON.stringify(used));
  },

  async "no events either: by polling"() {
    const used = await logs_in({ tunnels: false, streams: false });
    assert(used.polls > 0 && used.receipts === 1, JSON.stringify(used));
  },

  async "a page of somebody else's in the place of events: by polling"() {
    const used = await logs_in({ tunnels: false, streams: 200 });
    assert(used.polls > 0 && used.receipts === 1, JSON.stringify(used));
  },

  async "events are kept back: by polling"() {
    const used = await logs_in({ tunnels: false, buffers: true });
    assert(used.streams > 0 && used.polls > 0 && used.receipts === 1, JSON.stringify(used));
  },

  async "what has worked is remembered for as long as the page lives"() {
    const through = await proxy({ tunnels: false });
    const { page } = await behind(through);
    await waiting(1);
    const before = through.seen.filter((path) => path === "tunnel").length;
    for (let again = 0; again < 2; again++) {
      await page.evaluate(() => document.querySelector("qr-login").refresh());
      await state(page, "ready");
      await waiting(1);
    }
    assert.equal(through.seen.filter((path) => path === "tunnel").length, before);
    await page.context().close();
    through.close();
  },

  async "connections are cut when nothing is said for a while"() {
    const cut_ms = Number(process.env.CUT_MS ?? 700);
    const some_cuts = () => new Promise((resolve) => setTimeout(resolve, 2.5 * cut_ms));
    for (const kind of [{}, { tunnels: false }, { tunnels: false, streams: false }]) await logs_in({ cut_ms, ...kind }, some_cuts);
  },
};

await tell(stories);
