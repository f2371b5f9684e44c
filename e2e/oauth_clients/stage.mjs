// A client of examples/oauth with a private server: both run on free ports, with a temporary directory for what they
// write. The stories open the client in a browser, and act as the phone by the API.
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { createHmac, randomBytes, randomInt } from "node:crypto";
import { once } from "node:events";
import { chmodSync, mkdirSync, mkdtempSync, openSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

export const examples = fileURLToPath(new URL("../../examples/oauth", import.meta.url));
/** The longest time for which a client installs packages. The time for a whole story is maxSeconds of its file. */
const START_SECONDS = 600;
const run = promisify(execFile);
/** The port of the client in its qrlogin.toml, in place of which it has a free one here. */
const EXAMPLE_PORT = "127.0.0.1:3000";
/** The user of the phone: claims of the app token. */
export const ada = {
  sub: "ada", name: "Ada Lovelace", email: "ada@example.org", email_verified: true, preferred_username: "ada",
};

/** Ports that were returned, so that no other stage has them. */
const ports = new Set();

/** Returns a port that was free a moment ago, below those that the system gives to outgoing connections. */
export async function freePort() {
  for (;;) {
    const port = randomInt(20_000, 30_000);
    if (ports.has(port)) continue;
    ports.add(port);
    const server = createServer();
    const isFree = new Promise((found) => {
      server.once("listening", () => found(true)).once("error", () => found(false));
    });
    server.listen(port, "127.0.0.1");
    if (!(await isFree)) continue;
    server.close();
    await once(server, "close");
    return port;
  }
}

export const pause = (milliseconds) => new Promise((next) => setTimeout(next, milliseconds));

/** Runs an action, and fails if it takes longer. */
export async function within(seconds, act) {
  let timer;
  const end = new Promise((_, fail) => {
    timer = setTimeout(() => fail(new Error(`not done within ${seconds} s`)), seconds * 1000);
  });
  return Promise.race([act(), end]).finally(() => clearTimeout(timer));
}

export class Stage {
  #children = [];
  #faults = [];
  #contexts = [];
  /** Environment variables with further settings of the server, which a story sets before the start. */
  settings = {};

  constructor(name, program, browser) {
    [this.name, this.program, this.browser] = [name, program, browser];
    this.scratch = mkdtempSync(join(tmpdir(), `qrlogin-${name}-`));
    // Servers that give up the rights of root must reach their directory.
    chmodSync(this.scratch, 0o711);
    this.data = join(this.scratch, "data");
    mkdirSync(this.data);
    // Clients encode these signs in HTTP Basic in different ways.
    this.secret = `${randomBytes(24).toString("base64")}+/=`;
    this.appSecret = randomBytes(32).toString("hex");
    // Settings of the caller's own shell would change the server.
    this.inherited = Object.fromEntries(Object.entries(process.env).filter(([key]) => !key.startsWith("QRLOGIN_")));
  }

  /** Starts the server and the client, and waits until both respond. The client can do something before. */
  async start(prepare) {
    const since = performance.now();
    const [port, opsPort, clientPort] = [await freePort(), await freePort(), await freePort()];
    this.issuer = `http://localhost:${port}`;
    this.url = `http://127.0.0.1:${clientPort}`;
    this.environment = {
      ...this.inherited, ISSUER: this.issuer, PORT: String(clientPort), CLIENT_SECRET: this.secret, DATA_DIR: this.data,
    };
    await prepare?.(this);
    const settings = readFileSync(join(examples, this.name, "qrlogin.toml"), "utf8");
    const config = join(this.scratch, "qrlogin.toml");
    writeFileSync(config, settings.replaceAll(EXAMPLE_PORT, `127.0.0.1:${clientPort}`));
    const server = this.spawn(this.program, ["serve", "--config", config], {
      ...this.inherited,
      CLIENT_SECRET: this.secret,
      QRLOGIN_LISTEN: `127.0.0.1:${port}`,
      QRLOGIN_OPS_LISTEN: `127.0.0.1:${opsPort}`,
      QRLOGIN_PUBLIC_URL: this.issuer,
      QRLOGIN_APP_AUTH__HMAC_SECRET: this.appSecret,
      QRLOGIN_LOG__LEVEL: "info",
      ...this.settings,
    }, "server.log");
    // Some clients read the server's metadata when they start.
    await this.#responds(`http://127.0.0.1:${opsPort}/readyz`, server);
    const client = this.spawn(join(examples, this.name, "run"), [], this.environment, "client.log");
    await this.#responds(this.url, client);
    this.setupSeconds = ((performance.now() - since) / 1000).toFixed(1);
  }

  /** Starts a program, which ends with the stage. Its output is in a log unless it has pipes. */
  spawn(command, args, env, log, { stdin = "ignore", stdout } = {}) {
    const file = openSync(join(this.scratch, log), "a");
    // A process group of its own, so that the processes of a client end with it.
    const stdio = [stdin, stdout ?? file, file];
    const child = spawn(command, args, { cwd: this.scratch, env, stdio, detached: true });
    child.once("error", (error) => writeFileSync(file, `${command}: ${error.message}\n`));
    this.#children.push(child);
    return child;
  }

  async #responds(url, child) {
    for (const until = Date.now() + START_SECONDS * 1000; Date.now() < until; await pause(50)) {
      assert(child.exitCode === null && child.signalCode === null, `${child.spawnfile} has ended`);
      const response = await fetch(url, { redirect: "manual" }).catch(() => undefined);
      // A proxy before a client that is not ready responds with 404 or 5xx.
      if (response && response.status < 400) return;
    }
    throw new Error(`no response from ${url}`);
  }

  /** Opens a page of the client in a new browser profile. */
  async visitor(path = "/", options = {}) {
    const context = await this.browser.newContext({ viewport: { width: 1000, height: 900 }, ...options });
    context.setDefaultTimeout(15_000);
    this.#contexts.push(context);
    const page = await context.newPage();
    page.on("pageerror", (error) => this.#faults.push(`${page.url()}: ${error.message}`));
    page.on("console", (message) => {
      if (/Content.Security.Policy|Trusted/i.test(message.text())) this.#faults.push(message.text());
    });
    await page.goto(this.url + path);
    return page;
  }

  /** Reads the QR code of the server's page from a picture of it, as a phone's camera does. */
  async scan(page) {
    await page.waitForURL(`${this.issuer}/**`);
    // Without scripts, the page has a picture.
    await page.locator("qr-login .frame.ready, img.code").waitFor();
    const picture = join(this.scratch, "page.png");
    await page.screenshot({ path: picture });
    const { stdout } = await run("zbarimg", ["-q", "--raw", picture]);
    const code = stdout.trim();
    assert(code.startsWith(`${this.issuer}/q/`), code);
    return code;
  }

  /** Sends a phone's request. Returns the response's body. */
  async phone(action, code, user = ada) {
    const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const claims = { ...user, exp: Math.floor(Date.now() / 1000) + 600 };
    const signed = `${encode({ alg: "HS256", typ: "JWT" })}.${encode(claims)}`;
    const token = `${signed}.${createHmac("sha256", this.appSecret).update(signed).digest("base64url")}`;
    const headers = { authorization: `Bearer ${token}`, "content-type": "application/json" };
    const url = `${this.issuer}/v1/qr-login/${action}`;
    const response = await fetch(url, { method: "POST", headers, body: JSON.stringify({ code }) });
    const body = await response.text();
    assert(response.ok, `${action}: ${response.status} ${body}`);
    return body && JSON.parse(body);
  }

  /** Scans the code and confirms. Returns the response to the scan. */
  async approve(code) {
    const asked = await this.phone("scan", code);
    await this.phone("confirm", code);
    return asked;
  }

  /** Scans the code that a page shows and confirms. */
  async approvePage(page) {
    return this.approve(await this.scan(page));
  }

  /** Runs a file of the client to its end. */
  async runFile(name) {
    const child = this.spawn(join(examples, this.name, "run"), [name], this.environment, "program.log");
    const [status] = await once(child, "exit");
    assert.equal(status, 0, name);
  }

  /** Scans the code that a page shows and rejects. */
  async rejectPage(page) {
    const code = await this.scan(page);
    await this.phone("scan", code);
    await this.phone("reject", code);
  }

  /** Runs a program of the client, approves the login at the URL that it prints, and returns the lines after that. */
  async runProgram(...args) {
    const child = this.spawn(join(examples, this.name, "run"), args, this.environment, "program.log", {
      stdout: "pipe",
    });
    let output = "";
    child.stdout.setEncoding("utf8").on("data", (text) => {
      output += text;
    });
    const ended = once(child, "exit");
    const code = async () => {
      for (;;) {
        const found = output.includes("\n") && output.match(/scan (\S+)/);
        if (found) return found[1];
        assert(child.exitCode === null, `the program has ended: ${output}`);
        await pause(20);
      }
    };
    await this.approve(await code());
    const [status] = await ended;
    assert.equal(status, 0, output);
    return output.trim().split("\n").slice(1).map((line) => JSON.parse(line));
  }

  /** Fails if a page had an error, or if the policy of a page refused something. */
  checkFaults() {
    assert.deepEqual(this.#faults, []);
  }

  /** Returns the URLs and the texts of the open pages. */
  async pages() {
    const describe = async (page) => `--- ${page.url()}\n${await page.locator("body").innerText().catch(() => "")}`;
    const pages = this.#contexts.flatMap((context) => context.pages());
    return (await Promise.all(pages.map(describe))).map((text) => text.slice(0, 2000)).join("\n");
  }

  /** Returns the ends of the logs. */
  logs() {
    const files = [this.scratch, this.data].flatMap((directory) =>
      readdirSync(directory).filter((name) => name.endsWith(".log")).map((name) => join(directory, name)));
    const end = (file) => readFileSync(file, "utf8").split("\n").slice(-60).join("\n");
    return files.map((file) => `--- ${file}\n${end(file)}`).join("\n");
  }

  /** Ends the processes by their ids, and removes what they wrote. */
  async end() {
    await Promise.all(this.#contexts.map((context) => context.close().catch(() => {})));
    await Promise.all(this.#children.map(async (child) => {
      if (child.pid === undefined) return;
      const signal = (name) => {
        try {
          process.kill(-child.pid, name);
          return true;
        } catch {
          return false;
        }
      };
      const isRunning = child.exitCode === null && child.signalCode === null;
      const exit = isRunning ? once(child, "exit") : undefined;
      signal("SIGTERM");
      await Promise.race([exit, pause(10_000)]);
      signal("SIGKILL");
    }));
    rmSync(this.scratch, { recursive: true, force: true });
  }
}
