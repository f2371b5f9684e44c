// @ts-check
// The transports on which a browser waits for changes of its session: a WebSocket, an event stream, long polls.
import { getStatus, open } from "./api.js";
import { pause } from "./pause.js";

/**
 * A transport waits on one connection of a session until the connection ends, or `signal` closes it. It calls `onAlive`
 * for all that arrives, with a function that makes the server respond, if the transport has one. It calls `receive` for
 * each message, which acknowledges a token: on the connection if `sendAck` returns true, or else by a request.
 * `receive` resolves to whether the login is over. `heartbeatMs` is the time between two heartbeats of the server, 0 if
 * it is unknown. The reason of `signal` is empty if the connection is given up for another one.
 * @typedef {(
 *   base: string, sessionId: any, signal: AbortSignal, onAlive: (probe?: () => void) => void, receive: Receive,
 *   heartbeatMs: number,
 * ) => Promise<End>} Transport
 * @typedef {(frame: any, sendAck?: () => boolean) => Promise<boolean>} Receive
 *
 * How a connection ended: with a close code and its reason, or with a refusal. `worked`: something has arrived on it.
 * `silent`: it was given up because nothing more arrived.
 * @typedef {object} End
 * @property {number} [code]
 * @property {string} [reason]
 * @property {import("./api.js").Refusal} [refusal]
 * @property {boolean} [worked]
 * @property {boolean} [silent]
 */

/** Maximum duration of a long poll. It is below the usual timeouts of proxies. */
const POLL_SECONDS = 15;
const OPEN = 1;

/** Waits on a WebSocket. @type {Transport} */
const waitOnWebSocket = (base, sessionId, signal, onAlive, receive) =>
  new Promise((resolve) => {
    // The session id is not in the URL, because browsers and proxies log URLs.
    const protocols = ["qrlogin.ack", `qrlogin.session.${sessionId}`];
    const socket = new WebSocket(`${base.replace("http", "ws")}/v1/ws/qr`, protocols);
    const close = () => socket.close(1000);
    signal.addEventListener("abort", () => {
      // Closing a socket before it is open logs an error. One that is given up must not open later, because it would
      // supersede the next connection. An open one is closed in a microtask: a listener of confirmed may have stopped
      // the login, and the acknowledgement is sent after it returns.
      if (socket.readyState || !signal.reason) queueMicrotask(close);
      else socket.onopen = close;
      resolve({});
    });
    const sendAck = () => {
      // Firefox may have closed the socket of a page that is being left.
      if (socket.readyState !== OPEN) return false;
      socket.send("ack");
      return true;
    };
    socket.onmessage = ({ data }) => {
      if (signal.aborted) return;
      try {
        // A heartbeat is a binary message.
        const frame = typeof data === "string" && JSON.parse(data);
        onAlive(() => socket.send("ping"));
        if (frame) receive(frame, sendAck);
      } catch {
        // The message is not from qrlogin.
        close();
      }
    };
    socket.onclose = ({ code, reason }) => resolve({ code, reason });
  });

/** Waits on an event stream. @type {Transport} */
const waitOnEvents = async (base, sessionId, signal, onAlive, receive) => {
  const { body, headers } = await open(base, "/v1/sse/qr", sessionId, signal);
  // A proxy may have responded with a page of its own.
  if (!body || !/^text\/event-stream/.test(/** @type {any} */ (headers.get("content-type")))) return {};
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (true) {
    const { done, value } = await reader.read();
    if (done) return {};
    onAlive();
    const events = (text + value).split("\n\n");
    text = events.pop() ?? "";
    for (const event of events) {
      const data = JSON.parse(/^data: (.*)/m.exec(event)?.[1] ?? "null");
      if (/^event: close/m.test(event)) return data;
      if (data) await receive(data);
    }
  }
};

/** Waits on long polls. @type {Transport} */
const waitOnPolls = async (base, sessionId, signal, onAlive, receive, heartbeatMs) => {
  const seconds = Math.min(POLL_SECONDS, heartbeatMs / 1000 || POLL_SECONDS);
  let version = 0;
  while (true) {
    const startedAt = performance.now();
    const view = await getStatus(base, `?wait=${seconds}&version=${version}`, sessionId, signal);
    onAlive();
    if (await receive(view)) return {};
    const { version: newVersion = version } = view;
    // A proxy may have responded at once instead of the server.
    if (newVersion === version && performance.now() - startedAt < 1000) await pause(1000, signal);
    version = newVersion;
  }
};

/** The transports, the best one first. */
export const transports = [waitOnWebSocket, waitOnEvents, waitOnPolls];
