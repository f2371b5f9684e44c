// A proxy between the browser and the server.
import { createServer, request as ask } from "node:http";
import { connect } from "node:net";
import { base, browser, generated, listen, state } from "./stage.mjs";

/** What a browser's proxy is like. `cut_ms`: connections on which nothing is said for so long are cut. */
export async function proxy({ tunnels = true, streams = true, buffers = false, cut_ms = 0 }) {
  const seen = [];
  const open = new Set();
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
  server.on("connection", (socket) => {
    open.add(socket);
    socket.on("close", () => open.delete(socket));
  });
  const close = () => (server.close(), server.closeAllConnections());
  /** From here on nothing is passed on of the connections there are, either way; and none of them is closed. */
  const swallow = () => {
    for (const socket of open) {
      socket.unpipe();
      socket.removeAllListeners("data");
      socket.pause();
      socket.write = () => true;
      socket.end = socket.destroy = () => socket;
    }
  };
  return { seen, close, swallow, server: `http://127.0.0.1:${server.address().port}` };
}

/** A desktop browser behind it. */
export async function behind(proxy) {
  const context = await browser.newContext({ proxy: { server: proxy.server, bypass: "<-loopback>" } });
  const page = listen(await context.newPage());
  page.may_fail = true;
  const session = generated(page);
  await page.goto(base);
  await state(page, "ready");
  return { page, session: await session };
}
