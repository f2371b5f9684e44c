// The page behind proxies: what they do not let through is gone around.
import assert from "node:assert/strict";
import { createServer, request as ask } from "node:http";
import { connect } from "node:net";
import { base, browser, generated, listen, scans, state, tell, waiting } from "./stage.mjs";

/** What a browser's proxy is like. `cut_ms`: connections on which nothing is said for so long are cut. */
async function proxy({ tunnels = true, streams = true, buffers = false, cut_ms = 0 }) {
  const seen = [];
  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url);
    seen.push(pathname);
    if (streams !== true && pathname.includes("/sse/")) {
      return response.writeHead(streams || 403, { "content-type": "text/html" }).end("not through here");
    }
    const there = ask(request.url, { method: request.method, headers: request.headers, agent: false });
    there.on("error", () => response.destroy());
    response.on("close", () => there.destroy());
    request.pipe(there);
    there.on("response", (answer) => {
      const parts = [];
      if (cut_ms) answer.socket.setTimeout(cut_ms, () => response.destroy());
      answer.on("data", (part) => (buffers ? parts.push(part) : (begin(), response.write(part))));
      answer.on("end", () => (begin(), response.end(Buffer.concat(parts))));
      answer.on("error", () => response.destroy());
      const begin = () => response.headersSent || response.writeHead(answer.statusCode, answer.headers);
    });
    if (cut_ms) there.setTimeout(cut_ms, () => (response.headersSent ? response.destroy() : response.writeHead(504).end()));
  });
  server.on("connect", (request, socket, head) => {
    seen.push("tunnel");
    socket.on("error", () => {});
    // Some refuse, some never answer.
    if (tunnels === "silent") return;
    if (!tunnels) return socket.end("HTTP/1.1 403 Forbidden\r\n\r\n");
    const [host, port] = request.url.split(":");
    const there = connect(Number(port), host, () => {
      socket.write("HTTP/1.1 200 OK\r\n\r\n");
      there.write(head);
      socket.pipe(there).pipe(socket);
    });
    there.on("error", () => socket.destroy());
    there.on("close", () => socket.destroy());
    socket.on("close", () => there.destroy());
    if (cut_ms) for (const end of [socket, there]) end.setTimeout(cut_ms, () => (socket.destroy(), there.destroy()));
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  const close = () => (server.close(), server.closeAllConnections());
  return { seen, close, server: `http://127.0.0.1:${server.address().port}` };
}

/** A desktop browser behind it. */
async function behind(proxy) {
  const context = await browser.newContext({ proxy: { server: proxy.server, bypass: "<-loopback>" } });
  const page = listen(await context.newPage());
  page.may_fail = true;
  const session = generated(page);
  await page.goto(base);
  await state(page, "ready");
  return { page, session: await session };
}

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
