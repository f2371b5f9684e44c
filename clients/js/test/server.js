// A server that implements PROTOCOL.md, in the process of the test. The test controls the other party of a login, and
// can replace the handler of each route.
import { createServer } from "node:http";
import { WebSocketServer } from "ws";

const HEARTBEAT_SECONDS = 10;
const TTL_SECONDS = 300;
const PHONE_ROUTES = ["scan", "confirm", "reject"];
const ENDED = ["confirmed", "rejected", "cancelled", "expired"];

/** Returns a handler that refuses a request with problem details. */
export const refuse = (status, code, headers = {}) => (request, response) =>
  answer(response, status, { type: "about:blank", title: "refused", status, code, detail: `refused: ${code}` }, {
    "content-type": "application/problem+json",
    ...headers,
  });

/** Returns a handler that responds with a text, as a proxy or a captive portal does. */
export const respond = (body, type = "text/html", status = 200) => (request, response) =>
  response.writeHead(status, { "content-type": type }).end(body);

/** Accepts a request and never answers it. */
export const ignore = () => {};

/** Closes the connection of a request without an answer. */
export const disconnect = ({ socket }) => socket.destroy();

function answer(response, status, body, headers = {}) {
  response.writeHead(status, { "content-type": "application/json", "cache-control": "no-store", ...headers });
  response.end(body && JSON.stringify(body));
}

/** Returns the name of a route, as in `Server.instead`. */
function routeOf(pathname, searchParams) {
  if (pathname.endsWith("/v1/sse/qr")) return "sse";
  return searchParams.has("wait") ? "poll" : pathname.split("/").at(-1);
}

/** A session, with the actions of its phone and of its browser. */
class Session {
  version = 1;
  status = "pending";
  period = 0;
  isClaimed = false;
  /** Whether an OAuth client collects the login, so that the browser receives no token. */
  isCollected = false;
  /** The newest connection. @type {Connection | undefined} */
  connection;

  constructor(server, number, client_info) {
    Object.assign(this, { server, client_info, id: `session${number}`.padEnd(43, "-"), name: `code${number}` });
    this.token = `token of ${this.id}`;
  }

  get code() {
    const code = `${this.name}-${this.period}`.padEnd(28, "-");
    return { code, qr_url: `${this.server.url}/q/${code}`, qr_image: `data:image/svg+xml,${code}` };
  }

  /** The frame that a connection of this session begins with. */
  get frame() {
    const { status, version, user, number, reason } = this;
    if (status === "pending") return { status, version, expires_in: TTL_SECONDS };
    if (status === "scanned") return { status, version, user, number };
    if (status === "rejected") return { status, message: "Login rejected by user" };
    if (status === "expired") return { status, message: "QR code expired" };
    if (status === "cancelled") return { status, reason };
    if (this.isClaimed) return { status, claimed: true };
    if (this.isCollected) return { status, collect: true, user };
    return { status, web_token: this.token, token_type: "Bearer", expires_in: 3600, user };
  }

  /** The answer of `status`. */
  get view() {
    const { frame, version } = this;
    const isOpen = !ENDED.includes(this.status);
    const expires_in = frame.expires_in ?? (isOpen ? TTL_SECONDS : 0);
    const openFields = isOpen ? { ...this.code, heartbeat_seconds: this.server.heartbeat_seconds } : {};
    return { ...frame, version, expires_in, ...openFields };
  }

  #change(status, more) {
    Object.assign(this, { status, ...more });
    this.version++;
    this.connection?.deliver();
  }

  scan({ user = { name: "Ada" }, number } = {}) {
    this.#change("scanned", { user, number });
  }
  confirm(more) {
    this.#change("confirmed", more);
  }
  reject() {
    this.#change("rejected");
  }
  expire() {
    this.#change("expired");
  }
  cancel(reason) {
    this.#change("cancelled", { reason });
  }
  rotate() {
    this.period++;
    this.connection?.rotate({ status: "rotated", ...this.code });
  }
  /** Another tab opens a connection of this session. */
  replace() {
    this.connection?.close(4409, "a newer connection took over");
  }
  acknowledge() {
    if (this.status !== "confirmed") return false;
    this.isClaimed = true;
    this.server.acknowledged.push(this.id);
    return true;
  }
}

/** What the server returns to the phone of a session. */
const client = {
  ip: "192.0.2.7",
  browser: "Firefox",
  os: "Linux",
  origin: "https://www.example.com",
  client_info: null,
  time: "2026-01-01T10:42:00.000Z",
};

/** A connection on which a browser waits. */
class Connection {
  constructor(session, server) {
    Object.assign(this, { session, server });
    session.connection?.close(4409, "a newer connection took over");
    session.connection = this;
    server.connections.add(this);
    server.opened.push(this);
  }

  ended() {
    this.server.connections.delete(this);
    if (this.session.connection === this) this.session.connection = undefined;
  }
}

class SocketConnection extends Connection {
  kind = "ws";
  received = [];

  constructor(session, server, socket) {
    super(session, server);
    this.socket = socket;
    socket.on("close", (code) => {
      this.code = code;
      this.ended();
    });
    socket.on("error", () => {});
    socket.on("message", (data, isBinary) => {
      if (!isBinary) this.received.push(`${data}`);
      if (`${data}` === "ping" && !this.isDead) this.heartbeat();
      if (`${data}` === "ack" && session.acknowledge()) socket.close(1000);
    });
    this.deliver();
  }

  deliver() {
    if (this.isDead) return;
    const { frame, status } = this.session;
    this.send(JSON.stringify(frame));
    if (ENDED.includes(status) && !frame.web_token) this.socket.close(1000);
  }
  rotate(frame) {
    this.send(JSON.stringify(frame));
  }
  send(text) {
    this.socket.send(text);
  }
  heartbeat() {
    this.socket.send(Buffer.alloc(0));
  }
  close(code, reason) {
    this.socket.close(code, reason);
  }
  destroy() {
    this.socket.terminate();
  }
}

class StreamConnection extends Connection {
  kind = "sse";

  constructor(session, server, response) {
    super(session, server);
    this.response = response;
    response.on("close", () => this.ended());
    response.writeHead(200, { "content-type": "text/event-stream" });
    this.heartbeat();
    this.deliver();
  }

  deliver() {
    if (this.isDead) return;
    const { frame, status, version } = this.session;
    this.send(`data: ${JSON.stringify(frame)}\nid: ${version}\n\n`);
    if (ENDED.includes(status)) this.close(1000, "");
  }
  rotate(frame) {
    this.send(`data: ${JSON.stringify(frame)}\n\n`);
  }
  send(text) {
    this.response.write(text);
  }
  heartbeat() {
    this.send(":\n\n");
  }
  close(code, reason) {
    this.response.end(`event: close\ndata: ${JSON.stringify({ code, reason })}\n\n`);
  }
  destroy() {
    this.response.destroy();
  }
}

class PollConnection extends Connection {
  kind = "poll";

  constructor(session, server, response, version) {
    super(session, server);
    this.response = response;
    response.on("close", () => this.ended());
    if (version !== session.version || ENDED.includes(session.status)) this.deliver();
  }

  deliver() {
    if (!this.isDead) answer(this.response, 200, this.session.view);
  }
  /** Responds as at the end of a poll, which is at most as long as the interval of heartbeats. */
  heartbeat() {
    this.deliver();
  }
  rotate() {
    this.deliver();
  }
  close(code) {
    if (code === 4409) refuse(409, "replaced")(undefined, this.response);
    else if (code === 1011) refuse(500, "internal")(undefined, this.response);
    else refuse(503, "unavailable", { "retry-after": "2" })(undefined, this.response);
  }
  destroy() {
    this.response.destroy();
  }
}

export class Server {
  heartbeat_seconds = HEARTBEAT_SECONDS;
  /** Each request's route, in order. */
  requests = [];
  /** The query of each long poll. */
  polls = [];
  /** Handlers in the place of a route: generate, status, poll, sse, ws, ack, cancel. */
  instead = {};
  sessions = [];
  /** Ids of the sessions whose token has been acknowledged, once for each acknowledgement. */
  acknowledged = [];
  /** Users of the phone, by app token. */
  users = { "token of Ada": "Ada", "token of Bob": "Bob" };
  /** App tokens of the requests of phones, in order. */
  tokens = [];
  /** Numbers that the phone compares; the browser shows the first one. @type {string[] | undefined} */
  numbers;
  risk;
  /** The OAuth client of the sessions, as in the response of `scan`. */
  application;
  /** Ids of the sessions that the browser has cancelled. */
  cancelled = [];
  /** Open connections on which a browser waits. */
  connections = new Set();
  /** All connections on which a browser has waited. */
  opened = [];
  /** Open sockets of any kind. Those that have been upgraded are unknown to the HTTP server. */
  #open = new Set();
  #sockets = new WebSocketServer({ noServer: true, handleProtocols: () => "qrlogin.ack" });
  #http = createServer((request, response) => this.#handle(request, response));

  async start() {
    this.#http.on("connection", (socket) => {
      this.#open.add(socket);
      socket.on("close", () => this.#open.delete(socket));
    });
    this.#http.on("upgrade", (request, socket, head) => this.#upgrade(request, socket, head));
    await new Promise((listening) => this.#http.listen(0, "127.0.0.1", listening));
    this.url = `http://127.0.0.1:${this.#http.address().port}`;
    return this;
  }

  stop() {
    for (const connection of this.connections) connection.destroy();
    const closed = new Promise((resolve) => this.#http.close(resolve));
    for (const socket of this.#open) socket.destroy();
    return closed;
  }

  /** The newest session. */
  get session() {
    return this.sessions.at(-1);
  }

  count(route) {
    return this.requests.filter((name) => name === route).length;
  }

  #find(id) {
    return this.sessions.find((session) => session.id === id);
  }

  async #handle(request, response) {
    const { pathname, searchParams } = new URL(request.url, this.url);
    let body = "";
    for await (const chunk of request) body += chunk;
    const { client_info, session_id, code, number } = body ? JSON.parse(body) : {};
    const route = routeOf(pathname, searchParams);
    this.requests.push(route);
    const session = this.#find(request.headers["x-qr-session"] ?? session_id);
    if (route === "poll") this.polls.push(Object.fromEntries(searchParams));
    if (this.instead[route]) return this.instead[route](request, response);
    if (PHONE_ROUTES.includes(route)) return this.#phone(route, request, response, code, number);
    if (route === "generate") return this.#generate(response, client_info);
    if (!session) return refuse(404, "not_found")(request, response);
    if (route === "status") return answer(response, 200, session.view);
    if (route === "sse") return new StreamConnection(session, this, response);
    if (route === "poll") {
      const version = searchParams.get("version") ?? "";
      if (!/^\d+$/.test(version)) return refuse(400, "invalid_request")(request, response);
      return new PollConnection(session, this, response, Number(version));
    }
    if (route === "ack") {
      return session.acknowledge() ? answer(response, 204) : refuse(409, "not_decided")(request, response);
    }
    if (["confirmed", "rejected"].includes(session.status)) {
      return refuse(409, "already_decided")(request, response);
    }
    this.cancelled.push(session.id);
    session.cancel();
    return answer(response, 200, { status: "cancelled" });
  }

  /** Answers a request of a phone. */
  #phone(route, request, response, code, number) {
    const [, token] = /^Bearer (.+)$/.exec(request.headers.authorization) ?? [];
    this.tokens.push(token);
    const name = this.users[token];
    const refuseWith = (status, problem) => refuse(status, problem)(request, response);
    if (!name) return refuseWith(401, "invalid_token");
    const session = this.sessions.find((session) => code.includes(session.code.code));
    if (!session) return refuseWith(404, "not_found");
    const { status, decision } = session;
    if (["expired", "cancelled"].includes(status)) return refuseWith(410, status);
    const isOther = session.user && session.user.name !== name;
    if (route === "scan") {
      if (isOther) return refuseWith(409, status === "scanned" ? "already_scanned" : "already_decided");
      if (status === "pending") session.scan({ user: { name }, number: this.numbers?.[0] });
      const numbers = this.numbers && { numbers: this.numbers.toSorted() };
      const risk = this.risk && { risk: this.risk };
      const { application } = this;
      const view = { status: "scanned", client, application, expires_in: TTL_SECONDS, ...numbers, ...risk };
      return answer(response, 200, view);
    }
    const asked = route === "confirm" ? "confirmed" : "rejected";
    if (["confirmed", "rejected"].includes(status)) {
      if (isOther || decision !== `${asked} ${number}`) return refuseWith(409, "already_decided");
    } else {
      if (isOther) return refuseWith(403, "wrong_user");
      if (asked === "confirmed" && this.numbers && status === "pending") return refuseWith(409, "not_scanned");
      const isWrong = asked === "confirmed" && this.numbers && number !== this.numbers[0];
      session.decision = `${asked} ${number}`;
      session.user = { name };
      if (asked === "rejected" || isWrong) session.reject();
      else session.confirm();
      if (isWrong) return refuseWith(403, "number_mismatch");
    }
    if (asked === "confirmed" && status === "rejected") return refuseWith(403, "number_mismatch");
    answer(response, 200, { status: asked });
  }

  #generate(response, client_info) {
    const session = new Session(this, this.sessions.length, client_info);
    this.sessions.push(session);
    const { heartbeat_seconds } = this;
    const times = { expires_in: TTL_SECONDS, heartbeat_seconds };
    answer(response, 201, { session_id: session.id, ...session.code, ...times });
  }

  #upgrade(request, socket, head) {
    this.requests.push("ws");
    socket.on("error", () => {});
    if (this.instead.ws) return this.instead.ws(request, socket);
    const offered = request.headers["sec-websocket-protocol"] ?? "";
    const session = this.#find(/qrlogin\.session\.([\w-]+)/.exec(offered)?.[1]);
    if (!session) return socket.end("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
    this.#sockets.handleUpgrade(request, socket, head, (open) => new SocketConnection(session, this, open));
  }
}

/** Returns a handler that refuses a WebSocket upgrade. The page cannot read the status. */
export const refuseUpgrade = (status) => (request, socket) =>
  socket.end(`HTTP/1.1 ${status} Refused\r\nconnection: close\r\ncontent-length: 0\r\n\r\n`);
