// A private Postgres, and proxies before it that fail as a store fails.
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { chownSync, existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { freePort, pause } from "../stage.mjs";

/** Where Debian has a directory per version, outside the PATH. */
const DEBIAN = "/usr/lib/postgresql";
const [version] = existsSync(DEBIAN) ? readdirSync(DEBIAN).sort().reverse() : [];
const program = (name) => (version ? join(DEBIAN, version, "bin", name) : name);
const START_MILLISECONDS = 30_000;

/** Postgres refuses to run as root. */
function postgresUser() {
  if (process.getuid() !== 0) return {};
  const [uid, gid] = ["-u", "-g"].map((flag) => Number(execFileSync("id", [flag, "postgres"])));
  return { uid, gid };
}

/** A Postgres server with a data directory of its own. */
export class Postgres {
  #databases = 0;

  static async start() {
    const postgres = new Postgres();
    postgres.directory = mkdtempSync(join(tmpdir(), "qrlogin-postgres-"));
    const user = postgresUser();
    if (user.uid !== undefined) chownSync(postgres.directory, user.uid, user.gid);
    const data = join(postgres.directory, "data");
    const options = { ...user, cwd: "/", stdio: "ignore" };
    execFileSync(program("initdb"), ["-D", data, "-U", "qrlogin", "-A", "trust", "--no-sync", "-E", "UTF8"], options);
    postgres.port = await freePort();
    const flags = ["-D", data, "-p", postgres.port, "-k", postgres.directory, "-c", "listen_addresses=127.0.0.1"];
    postgres.child = spawn(program("postgres"), flags.map(String), options);
    for (const until = Date.now() + START_MILLISECONDS; !postgres.#answers(); await pause(100)) {
      assert(Date.now() < until && postgres.child.exitCode === null, "Postgres does not start");
    }
    return postgres;
  }

  #answers() {
    try {
      this.#run("pg_isready", []);
      return true;
    } catch {
      return false;
    }
  }

  #run(name, args) {
    execFileSync(program(name), ["-h", "127.0.0.1", "-p", String(this.port), ...args], { stdio: "ignore" });
  }

  /** Creates a database. Returns a proxy before it. */
  async database() {
    const name = `store_${++this.#databases}`;
    this.#run("createdb", ["-U", "qrlogin", name]);
    return Store.listen(name, this.port);
  }

  async end() {
    const ended = once(this.child, "exit");
    // The process may have ended before.
    if (this.child.kill("SIGINT")) await ended;
    rmSync(this.directory, { recursive: true, force: true });
  }
}

/** Kinds of failures of the store. */
export const KINDS = {
  refuses: "all connections are reset, and new ones are refused",
  stalls: "no data passes, and continues to pass afterwards",
  loses: "statements are executed, their results are lost, and all connections are reset afterwards",
};

/** A proxy before Postgres, as which the server knows its store. */
class Store {
  /** Pairs of sockets: that of the server, and that of Postgres. */
  #pairs = new Set();
  #kind;
  /** Results that pass before the others are lost. */
  #passing = 0;

  static async listen(name, target) {
    const store = new Store();
    [store.target, store.port] = [target, await freePort()];
    store.url = `postgres://qrlogin@127.0.0.1:${store.port}/${name}`;
    store.listener = createServer({ allowHalfOpen: true }, (socket) => store.#accept(socket));
    await store.#listen();
    return store;
  }

  async #listen() {
    this.listener.listen(this.port, "127.0.0.1");
    await once(this.listener, "listening");
  }

  #accept(near) {
    const far = connect({ port: this.target, host: "127.0.0.1", allowHalfOpen: true });
    const pair = [near, far];
    this.#pairs.add(pair);
    for (const [from, to] of [pair, [far, near]]) {
      from.setNoDelay(true);
      from.on("data", (data) => {
        const isLost = this.#kind === "loses" && from === far && this.#passing-- <= 0;
        if (!isLost) to.write(data);
      });
      from.on("end", () => to.end());
      from.on("error", () => {});
      from.on("close", () => {
        to.destroy();
        this.#pairs.delete(pair);
      });
    }
    this.#hold(pair);
  }

  #hold(pair) {
    for (const socket of this.#kind === "stalls" ? pair : []) socket.pause();
  }

  #reset() {
    for (const [near, far] of this.#pairs) {
      near.resetAndDestroy();
      far.destroy();
    }
  }

  /** Begins a failure of one of KINDS. This number of results pass before others are lost. */
  fail(kind, passing = 0) {
    [this.#kind, this.#passing] = [kind, passing];
    if (kind === "refuses") {
      this.listener.close();
      this.#reset();
    } else {
      for (const pair of this.#pairs) this.#hold(pair);
    }
  }

  /** Ends the failure. */
  async restore() {
    const kind = this.#kind;
    this.#kind = undefined;
    if (kind === "refuses") await this.#listen();
    else if (kind === "loses") this.#reset();
    else for (const socket of [...this.#pairs].flat()) socket.resume();
  }

  end() {
    this.listener.close();
    this.#reset();
  }
}
