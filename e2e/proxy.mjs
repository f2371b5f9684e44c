// A proxy between the browser and the server.
import { createServer, request as ask } from "node:http";
import { connect } from "node:net";
import { base, browser, generated, listen, state } from "./stage.mjs";

/**
 * Starts an HTTP proxy. `tunnels` and `streams` allow WebSockets and event streams, `buffers` delays each response
 * until it is complete, and `cutMs` is the time after which idle connections are cut.
 */
export async function proxy({ tunnels = true, streams = true, buffers = false, cutMs = 0 }) {
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
      if (cutMs) answer.socket.setTimeout(cutMs, () => response.destroy());
      const begin = () => {
        if (!response.headersSent) response.writeHead(answer.statusCode, answer.headers);
      };
      answer.on("data", (part) => {
        if (buffers) return parts.push(part);
        begin();
        response.write(part);
      });
      answer.on("end", () => {
        begin();
        response.end(Buffer.concat(parts));
      });
      answer.on("error", () => response.destroy());
    });
    const cut = () => {
      if (response.headersSent) response.destroy();
      else response.writeHead(504).end();
    };
    if (cutMs) there.setTimeout(cutMs, cut);
  });
  server.on("connect", (request, socket, head) => {
    seen.push("tunnel");
    socket.on("error", () => {});
    // Some proxies refuse a tunnel, others never respond.
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
    const cut = () => {
      socket.destroy();
      there.destroy();
    };
    if (cutMs) for (const end of [socket, there]) end.setTimeout(cutMs, cut);
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  server.on("connection", (socket) => {
    open.add(socket);
    socket.on("close", () => open.delete(socket));
  });
  const close = () => {
    server.close();
    server.closeAllConnections();
  };
  /** Stops forwarding on the open connections, in both directions, without closing them. */
  const swallow = () => {
    for (const socket of open) {
      socket.unpipe();
      socket.removeAllListeners("data");
      socket.pause();
      socket.write = () => true;
      socket.end = () => socket;
      socket.destroy = () => socket;
    }
  };
  return { seen, close, swallow, server: `http://127.0.0.1:${server.address().port}` };
}

/** Opens the demo's first page in a desktop browser behind a proxy. */
export async function behind(proxy) {
  const context = await browser.newContext({ proxy: { server: proxy.server, bypass: "<-loopback>" } });
  const page = listen(await context.newPage());
  page.mayFail = true;
  const session = generated(page);
  await page.goto(base);
  await state(page, "ready");
  return { page, session: await session };
}
