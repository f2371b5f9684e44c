// A proxy before the server that knows the requests to the token endpoint, and can act before one of them.
import { once } from "node:events";
import { connect, createServer } from "node:net";

const seconds = (since) => (performance.now() - since) / 1000;

/** The proxy. Clients know it as the server. */
export class Gate {
  #sockets = new Set();
  /** Requests to the token endpoint: `status`, `error` and `seconds` of the response. */
  requests = [];
  /** Called once, before the next request to the token endpoint is passed on. */
  #before;
  /** URL that a phone scans, of the last login of a device. */
  deviceUrl;

  static async listen(port, target) {
    const gate = new Gate();
    gate.listener = createServer((near) => gate.#accept(near, target));
    gate.listener.listen(port, "127.0.0.1");
    await once(gate.listener, "listening");
    return gate;
  }

  /**
   * Forgets the requests, and makes the next one wait until the returned function was called and `then` has been run.
   */
  waitBeforeNext(then) {
    let release;
    const released = new Promise((done) => {
      release = done;
    });
    this.requests = [];
    this.#before = () => released.then(then);
    return release;
  }

  #accept(near, target) {
    let far;
    let request;
    let isHeld = false;
    const answered = () => {
      if (request) request.seconds = seconds(request.since);
      request = undefined;
    };
    const track = (socket) => {
      this.#sockets.add(socket);
      socket.setNoDelay(true);
      socket.on("error", () => {});
      socket.on("close", () => this.#sockets.delete(socket));
    };
    const open = () => {
      far = connect(target, "127.0.0.1");
      track(far);
      far.on("data", (data) => {
        const text = data.toString("latin1");
        this.deviceUrl = /"verification_uri_complete":"([^"]+)"/.exec(text)?.[1] ?? this.deviceUrl;
        if (request) {
          request.status = Number(/^HTTP\/1.1 (\d+)/.exec(text)?.[1]);
          request.error = /"error":"(\w+)"/.exec(text)?.[1];
          answered();
        }
        near.write(data);
      });
      far.on("close", () => isHeld || near.destroy());
    };
    open();
    track(near);
    near.on("close", () => {
      answered();
      far.destroy();
    });
    near.on("data", async (data) => {
      if (data.subarray(0, 18).toString("latin1") === "POST /oauth/token ") {
        request = { since: performance.now(), status: "none" };
        this.requests.push(request);
        const act = this.#before;
        this.#before = undefined;
        near.pause();
        isHeld = true;
        await act?.();
        isHeld = false;
        // The server closes a connection that is idle.
        if (far.destroyed && !near.destroyed) open();
        near.resume();
      }
      far.write(data);
    });
  }

  /** Describes the responses of the token endpoint. */
  responses() {
    const describe = ({ status, error, seconds }) => [status, error, `after ${seconds?.toFixed(1)} s`];
    return this.requests.map((request) => describe(request).filter(Boolean).join(" ")).join(", ");
  }

  end() {
    this.listener.close();
    for (const socket of this.#sockets) socket.destroy();
  }
}
