// The page behind proxies that block, buffer or cut connections.
import assert from "node:assert/strict";
import { behind, proxy } from "./proxy.mjs";
import { scans, state, runStories, waiting } from "./stage.mjs";

/** Logs in through a proxy, and counts the requests to the proxy. */
async function logIn(kind, meanwhile = () => {}) {
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
  async "a proxy that allows everything"() {
    const used = await logIn({});
    assert(used.tunnels > 0 && used.streams + used.polls + used.receipts === 0, JSON.stringify(used));
  },

  async "without WebSockets, the page uses an event stream"() {
    const used = await logIn({ tunnels: false });
    assert(used.streams > 0 && used.polls === 0 && used.receipts === 1, JSON.stringify(used));
  },

  async "without a response to the WebSocket, the page uses an event stream"() {
    const used = await logIn({ tunnels: "silent" });
    assert(used.streams > 0 && used.polls === 0 && used.receipts === 1, JSON.stringify(used));
  },

  async "without WebSockets and event streams, the page polls"() {
    const used = await logIn({ tunnels: false, streams: false });
    assert(used.polls > 0 && used.receipts === 1, JSON.stringify(used));
  },

  async "with a proxy's page instead of the event stream, the page polls"() {
    const used = await logIn({ tunnels: false, streams: 200 });
    assert(used.polls > 0 && used.receipts === 1, JSON.stringify(used));
  },

  async "with a buffered event stream, the page polls"() {
    const used = await logIn({ tunnels: false, buffers: true });
    assert(used.streams > 0 && used.polls > 0 && used.receipts === 1, JSON.stringify(used));
  },

  async "the page remembers the transport that has worked"() {
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

  async "the page reconnects when idle connections are cut"() {
    const cutMs = Number(process.env.CUT_MS ?? 700);
    const someCuts = () => new Promise((resolve) => setTimeout(resolve, 2.5 * cutMs));
    for (const kind of [{}, { tunnels: false }, { tunnels: false, streams: false }]) {
      await logIn({ cutMs, ...kind }, someCuts);
    }
  },
};

await runStories(stories);
