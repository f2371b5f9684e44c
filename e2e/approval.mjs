// What the scripts that start `qrlogin serve` with a real OpenID provider (oidc-provider) use.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";
import puppeteer from "puppeteer-core";

export const PHONE = { width: 390, height: 844 };
/** A directory for the files of this process. */
export const scratch = mkdtempSync(join(tmpdir(), "qrlogin-provider-"));
const children = [];
const browsers = [];

/** Returns a port that was free a moment ago. */
export async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

/** Starts a provider with two people, whose names are in its user info. Returns the function that starts it again. */
export async function createProvider(port, base) {
  // The package writes warnings for developers to the console.
  console.info = console.warn = () => {};
  const { default: Provider } = await import("oidc-provider");
  const names = { ann: "Ann Example", bob: "Bob Example" };
  const provider = new Provider(`http://127.0.0.1:${port}`, {
    clients: [{
      client_id: "qrlogin", client_secret: "a client secret", redirect_uris: [`${base}/q/callback`],
      post_logout_redirect_uris: [`${base}/q/logged-out`],
    }],
    claims: { openid: ["sub"], profile: ["name"] },
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, name: names[id] }) }),
    pkce: { required: () => true },
    cookies: { keys: ["a key of the provider's cookies"] },
  });
  return async () => {
    const server = provider.listen(port, "127.0.0.1");
    await once(server, "listening");
    return () => new Promise((resolve) => {
      server.close(resolve);
      server.closeAllConnections();
    });
  };
}

/** Starts qrlogin with settings and arguments, and waits until it listens. Returns the function that ends it by a signal. */
export async function startServer(program, port, providerPort, settings, args = []) {
  const environment = {
    PATH: process.env.PATH,
    QRLOGIN_LISTEN: `127.0.0.1:${port}`,
    QRLOGIN_OPS_LISTEN: "127.0.0.1:0",
    QRLOGIN_PUBLIC_URL: `http://localhost:${port}`,
    QRLOGIN_APPROVE__ISSUER: `http://127.0.0.1:${providerPort}`,
    QRLOGIN_APPROVE__CLIENT_ID: "qrlogin",
    QRLOGIN_APPROVE__CLIENT_SECRET: "a client secret",
    ...settings,
  };
  const stdio = ["ignore", "ignore", "pipe"];
  const server = spawn(program, ["serve", ...args], { cwd: scratch, env: environment, stdio });
  children.push(server);
  const lines = [];
  let isListening = false;
  for await (const line of createInterface({ input: server.stderr })) {
    lines.push(line);
    if ((isListening = line.includes("listening"))) break;
  }
  if (!isListening) throw new Error(lines.join("\n"));
  server.stderr.resume();
  return async (signal = "SIGTERM") => {
    const hasEnded = once(server, "exit");
    server.kill(signal);
    await hasEnded;
  };
}

/** Logs in at the provider's own pages. */
export async function logIn(page, name) {
  await page.waitForSelector("input[name=login]");
  await page.type("input[name=login]", name);
  await page.type("input[name=password]", "any");
  await page.click("button[type=submit]");
  // Then the provider asks whether qrlogin may know the user.
  await page.waitForSelector("input[value=consent]", { state: "attached" });
  await page.click("button[type=submit]");
}

/** Options with which Playwright launches Chromium. */
export const CHROMIUM = {
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
  ],
};

/** Starts Chromium or Firefox. Returns the function that opens an empty page of a new profile. */
export async function launch(name, preferences = {}) {
  if (name === "Chromium") {
    const browser = await chromium.launch(CHROMIUM);
    browsers.push(browser);
    return async (options = {}) => {
      const context = await browser.newContext({ viewport: PHONE, isMobile: true, hasTouch: true, ...options });
      return context.newPage();
    };
  }
  const browser = await puppeteer.launch({
    browser: "firefox", executablePath: process.env.FIREFOX ?? "/usr/bin/firefox-esr", headless: true,
    extraPrefsFirefox: preferences,
  });
  browsers.push(browser);
  return async () => {
    const context = await browser.createBrowserContext();
    const page = await context.newPage();
    await page.setViewport(PHONE);
    return page;
  };
}

/** Ends the browsers and the servers, and removes the files of this process. */
export async function cleanUp() {
  for (const browser of browsers) await browser.close();
  for (const child of children) child.kill("SIGKILL");
  rmSync(scratch, { recursive: true, force: true });
}
