// The pages of OpenID Connect and of the device grant, in Chromium and in Firefox:
// node oauth_pages.mjs QRLOGIN [PICTURES], with the path of the program, and a directory for pictures of the pages.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { CHROMIUM, PHONE, cleanUp, createProvider, freePort, launch, logIn, scratch, startServer } from "./approval.mjs";
import { LANGUAGES, checkAccessibility, checkWidth, mirror } from "./layout.mjs";

const [program, pictures] = process.argv.slice(2);
if (pictures) mkdirSync(pictures, { recursive: true });
const DESKTOP = { width: 1280, height: 800 };
const TELEVISION = { width: 1920, height: 1080 };
/** Least sizes on a television with 1080 lines, in CSS pixels. */
const TELEVISION_CODE = 420;
const TELEVISION_TEXT = 32;
const ON_DESKTOP = { viewport: DESKTOP, isMobile: false, hasTouch: false };
const NARROW = { width: 320, height: 700 };

/** Starts a client that shows the result of the login. A form it answers with a redirect to another origin. */
async function startClient() {
  const logo = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 48 48"><rect width="48" height="48" rx="10" fill="#c2410c"/>
    <path d="M10 34l9-12 7 7 12-16" fill="none" stroke="#fff" stroke-width="4"/></svg>`;
  const server = createServer(async (request, response) => {
    let parameters = new URL(request.url, "http://client").search;
    for await (const part of request) parameters += part;
    if (request.url === "/logo.svg") return response.writeHead(200, { "content-type": "image/svg+xml" }).end(logo);
    if (request.method === "POST") {
      const location = `http://localhost:${server.address().port}/callback?${parameters}`;
      return response.writeHead(303, { location }).end();
    }
    const isBack = request.url.startsWith("/callback");
    const result = /[?&]?(code|error)=/.exec(parameters)?.[1];
    response.writeHead(200, { "content-type": "text/html" });
    response.end(isBack ? `<title>Result: ${result}</title>` : "<title>Client</title>");
  }).listen(0, "127.0.0.1");
  await new Promise((listening) => server.once("listening", listening));
  return `http://127.0.0.1:${server.address().port}`;
}

const [port, providerPort, client] = [await freePort(), await freePort(), await startClient()];
const base = `http://localhost:${port}`;
const stopProvider = await (await createProvider(providerPort, base))();
const config = join(scratch, "qrlogin.toml");
writeFileSync(config, `
[limits]
enabled = false
[sso]
ttl_seconds = 3600
[[oauth.clients]]
id = "charts"
name = "Example Charts"
logo = "${client}/logo.svg"
redirect_uris = ["${client}/callback"]
post_logout_redirect_uris = ["${client}/start"]
auth_method = "none"
[[oauth.clients]]
id = "tv"
name = "Example TV"
grant_types = ["device_code"]
auth_method = "none"
`);

/** Returns the URL of an authorization request. */
function authorization(changes = {}) {
  const challenge = createHash("sha256").update("a verifier".repeat(5)).digest("base64url");
  const parameters = {
    client_id: "charts", redirect_uri: `${client}/callback`, response_type: "code", scope: "openid profile email",
    // The browsers here have logged in before.
    prompt: "login", state: "a state", code_challenge: challenge, code_challenge_method: "S256", ...changes,
  };
  return `${base}/oauth/authorize?${new URLSearchParams(parameters)}`;
}

/** Requests a user code for a device. */
async function requestUserCode() {
  const body = new URLSearchParams({ client_id: "tv", scope: "openid profile" });
  const response = await fetch(`${base}/oauth/device_authorization`, { method: "POST", body });
  assert(response.ok, await response.clone().text());
  return (await response.json()).user_code;
}

/** Waits until a page has this title. */
async function titled(page, title) {
  const end = Date.now() + 20_000;
  for (;;) {
    // A page that is being replaced has no title.
    const seen = await page.title().catch(() => "");
    if (seen === title) return;
    assert(Date.now() < end, `the page has the title "${seen}", and not "${title}"`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Presses Back. Puppeteer's own function waits for an event that a page from the back/forward cache does not have. */
const goBack = (page) => page.evaluate(() => { setTimeout(() => history.back()); });

/** Waits until the page of an authorization request shows its code. Returns the URL in the code. */
async function qrUrl(page) {
  // The texts of the element may arrive later.
  await page.waitForFunction(() => {
    const login = document.querySelector("qr-login");
    return login?.state?.name === "ready" && !login.shadowRoot.querySelector(".waits");
  });
  return page.evaluate(() => document.querySelector("qr-login").state.qr_url);
}

/** Confirms the login of a code as a user who is logged in on this page's browser, or logs in first. */
async function approve(page, url) {
  await page.goto(url);
  await page.waitForSelector("input[name=login], button[value=confirm]");
  if (await page.$("input[name=login]")) await logIn(page, "ann");
  await page.waitForSelector("button[value=confirm]");
  await page.click("button[value=confirm]");
  await titled(page, "You are logged in");
}

/** Makes a page of Playwright stay where it would go on. */
async function hold(page) {
  await page.route(/\/device(\?|$)/, async (route) => {
    const response = await route.fetch({ maxRedirects: 0 });
    const body = (await response.text()).replaceAll('http-equiv="refresh"', "");
    await route.fulfill({ response, body });
  });
  await page.route("**/oauth/post.js", (route) => route.abort());
}

/** The pages, each with a function that opens it. */
const PAGES = {
  authorize: async (page) => {
    await page.goto(authorization());
    await qrUrl(page);
  },
  wait: async (page) => {
    await page.goto(authorization());
    await page.goto(base + await page.getAttribute("qr-login", "data-next"));
    await page.waitForSelector("img.code");
    // Cancels the refresh, which axe forbids. Without scripts, there is no other way to go on to the client.
    await page.evaluate(() => {
      stop();
      document.querySelector("meta[http-equiv=refresh]").remove();
    });
  },
  logout: (page) => page.goto(`${base}/oauth/logout`),
  "user-code": (page) => page.goto(`${base}/device`),
  "wrong-code": async (page) => {
    await page.goto(`${base}/device`);
    await page.fill("#user_code", "BCDF-GHJK");
    await page.press("#user_code", "Enter");
    await page.waitForSelector("[role=alert]");
  },
  "go-on": async (page) => {
    await page.goto(`${base}/device?user_code=${await requestUserCode()}`);
    await page.click("form button");
    await page.waitForSelector("a.button");
  },
  "form-post": async (page) => {
    await page.goto(authorization({ prompt: "none", response_mode: "form_post", scope: "openid" }));
    await page.waitForSelector("form.actions");
  },
  client: (page) => page.goto(authorization({ client_id: "unknown" })),
  redirect: (page) => page.goto(authorization({ redirect_uri: `${client}/other` })),
  parameters: (page) => page.goto(`${base}/oauth/logout?state=once&state=again`),
  cookies: async (page) => {
    await page.goto(authorization());
    const next = await page.getAttribute("qr-login", "data-next");
    await page.context().clearCookies();
    await page.goto(base + next);
  },
};

/** The pages of the phone, after which the user is logged in there. */
const consent = async (page, phone) => {
  await page.goto(authorization());
  await phone.goto(await qrUrl(page));
  await phone.waitForSelector("input[name=login], button[value=confirm]");
  if (await phone.$("input[name=login]")) await logIn(phone, "ann");
  await phone.waitForSelector("button[value=confirm]");
};

/** Returns the texts that are smaller than a size in CSS pixels, with their sizes. Runs in the page. */
const smallTexts = (least) => {
  const found = [];
  const look = (root) => {
    for (const element of root.querySelectorAll("*")) {
      if (element.shadowRoot) look(element.shadowRoot);
      const hasText = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
      const size = Number.parseFloat(getComputedStyle(element).fontSize);
      if (hasText && element.checkVisibility({ visibilityProperty: true }) && size < least) {
        found.push(`${size} px: ${element.textContent}`);
      }
    }
  };
  look(document.body);
  return found;
};

/** Returns the width of the QR code and the lower end of the page's content. Runs in the page. */
const measure = () => {
  const picture = document.querySelector("img.code") ?? document.querySelector("qr-login")?.shadowRoot.querySelector(".qr");
  return { code: picture?.getBoundingClientRect().width, height: document.documentElement.scrollHeight };
};

/** Checks that a page can be read on a television from three metres, without scrolling. */
async function checkTelevision(page, name) {
  assert.deepEqual(await page.evaluate(smallTexts, TELEVISION_TEXT), [], name);
  const { code, height } = await page.evaluate(measure);
  if (code !== undefined) assert(code >= TELEVISION_CODE, `${name}: the code has ${code} pixels`);
  assert(height <= TELEVISION.height, `${name}: a television would have to scroll, by ${height - TELEVISION.height}`);
}

const SCREENS = { desktop: { desktop: DESKTOP, television: TELEVISION }, phone: { phone: PHONE } };

/** Returns the text of the uppermost link or button. Runs in the page. */
const firstControl = () => {
  const roots = [document, ...[...document.querySelectorAll("qr-login")].map(({ shadowRoot }) => shadowRoot)];
  const controls = roots.flatMap((root) => [...root.querySelectorAll("a, button")]);
  const top = (element) => element.getBoundingClientRect().top;
  return controls.filter((element) => element.checkVisibility()).sort((one, other) => top(one) - top(other))[0]?.innerText;
};

/** Checks a page in the sizes of a desktop and a television, or of phones, in both themes. */
async function check(page, what, { language, screen }) {
  const name = `${what} ${screen} ${language}`;
  assert.equal(await page.evaluate(() => document.documentElement.lang), language, name);
  for (const [size, viewport] of Object.entries(SCREENS[screen])) {
    await page.setViewportSize(viewport);
    await checkWidth(page, `${name} ${size}`);
    if (size === "television") await checkTelevision(page, name);
    for (const theme of pictures ? ["light", "dark"] : []) {
      await page.emulateMedia({ colorScheme: theme });
      await page.screenshot({ path: join(pictures, `${what}-${size}-${language}-${theme}.png`), fullPage: true });
    }
  }
  for (const theme of ["dark", "light"]) {
    await page.emulateMedia({ colorScheme: theme });
    await checkAccessibility(page, `${name} ${theme}`);
  }
  await page.setViewportSize(screen === "phone" ? NARROW : DESKTOP);
  await checkWidth(page, name, 200);
  if (language !== "en") return;
  await mirror(page);
  await checkWidth(page, `${name} from right to left`, 200);
  if (pictures) await page.screenshot({ path: join(pictures, `${what}-${screen}-rtl.png`), fullPage: true });
}

/** Checks each page in a language. */
async function look(open, visitor, language) {
  const desktop = await open({ ...ON_DESKTOP, locale: language });
  const phone = await open({ locale: language });
  await phone.context().addCookies(await visitor.context().cookies());
  await consent(desktop, phone);
  await check(phone, "consent", { language, screen: "phone" });
  await visitor.context().addCookies(await phone.context().cookies());
  await phone.click("button[value=confirm]");
  await desktop.waitForURL(`${client}/**`);
  // Both are logged in by single sign-on then.
  await phone.context().addCookies(await desktop.context().cookies());
  for (const [screen, page] of Object.entries({ desktop, phone })) {
    await hold(page);
    for (const [what, show] of Object.entries(PAGES)) {
      await page.setViewportSize(screen === "phone" ? PHONE : DESKTOP);
      await show(page);
      if (screen === "phone" && language === "en" && /authorize|wait/.test(what)) {
        assert.equal(await page.evaluate(firstControl), "Continue on this phone", what);
      }
      await check(page, what, { language, screen });
    }
    await page.context().close();
  }
}

/** The stories of one browser, whose pages `open` opens. The user of `phone` approves. */
async function stories(name, open, phone) {
  let page = await open(ON_DESKTOP);
  await page.goto(`${client}/start`);
  await page.goto(authorization());
  const first = await qrUrl(page);
  // The title is that of the page.
  const message = await page.evaluate(() => document.querySelector("qr-login").shadowRoot.querySelector(".message").textContent);
  assert.equal(message, "Scan this code with your phone.");
  await page.reload();
  const second = await qrUrl(page);
  assert.notEqual(second, first);
  await approve(phone, second);
  await titled(page, "Result: code");
  await goBack(page);
  await titled(page, "Client");
  console.log(`passed: ${name}: a reload shows a new code; Back leads from the client's result to the client`);

  page = await open(ON_DESKTOP);
  await page.goto(authorization());
  const url = await qrUrl(page);
  // A page that refreshes itself can begin that before Puppeteer has seen the end of a navigation.
  await page.evaluate(() => { location.href = document.querySelector("qr-login").dataset.next; });
  await page.waitForSelector("img.code");
  await page.evaluate(() => { setTimeout(() => location.reload()); });
  await approve(phone, url);
  await titled(page, "Result: code");
  console.log(`passed: ${name}: the page that waits without scripts goes on to the client, and can be reloaded`);

  page = await open(ON_DESKTOP);
  await page.goto(`${client}/start`);
  await page.goto(authorization({ response_mode: "form_post" }));
  await approve(phone, await qrUrl(page));
  await titled(page, "Result: code");
  await goBack(page);
  await titled(page, "Client");
  console.log(`passed: ${name}: a form reaches the client, which redirects to another site; Back leads to the client`);

  const logout = new URLSearchParams({ client_id: "charts", post_logout_redirect_uri: `${client}/start` });
  // Puppeteer does not see the end of a navigation after one to the back/forward cache of Firefox.
  await page.evaluate((url) => { location.href = url; }, `${base}/oauth/logout?${logout}`);
  await page.waitForSelector("form button");
  await page.$eval("form button", (button) => { setTimeout(() => button.click()); });
  await titled(page, "Client");
  console.log(`passed: ${name}: a logout that the user confirms leads back to the client`);

  page = await open(ON_DESKTOP);
  await page.goto(`${base}/device`);
  const typed = (await requestUserCode()).replace("-", "").toLowerCase();
  await page.type("#user_code", "bcdf ghjk");
  await page.click("form button");
  await page.waitForSelector("#user_code[aria-invalid=true]");
  assert.equal(await page.$eval("#user_code", (field) => field.value), "bcdf ghjk");
  await page.$eval("#user_code", (field) => { field.value = ""; });
  await page.type("#user_code", typed);
  await page.click("form button");
  await logIn(page, "bob");
  await titled(page, "Log in?");
  await page.reload();
  await titled(page, "Log in?");
  await page.click("button[value=confirm]");
  await titled(page, "You are logged in");
  console.log(`passed: ${name}: a wrong user code is explained and stays in the field; the right one leads to the question`);
}

/** A browser that refuses all cookies. */
async function withoutCookies(name, open) {
  const page = await open();
  await page.goto(`${client}/start`);
  await page.goto(authorization()).catch(() => {});
  await titled(page, "Cookies are blocked");
  await page.reload();
  await titled(page, "Cookies are blocked");
  console.log(`passed: ${name}: without cookies, the page says so before a scan`);
}

/** Opens Chromium with a profile in which the user has blocked cookies. */
async function launchWithoutCookies() {
  const profile = join(scratch, "profile");
  mkdirSync(join(profile, "Default"), { recursive: true });
  const preferences = { profile: { default_content_setting_values: { cookies: 2 } } };
  writeFileSync(join(profile, "Default", "Preferences"), JSON.stringify(preferences));
  return chromium.launchPersistentContext(profile, CHROMIUM);
}

try {
  const stopServer = await startServer(program, port, providerPort, {}, ["--config", config]);
  const open = await launch("Chromium");
  // The phone of a user who has logged in.
  const visitor = await open();
  const openInFirefox = await launch("Firefox");
  await stories("Chromium", open, visitor);
  await stories("Firefox", openInFirefox, visitor);
  const strict = await launchWithoutCookies();
  await withoutCookies("Chromium", () => strict.newPage());
  await strict.close();
  await withoutCookies("Firefox", await launch("Firefox", { "network.cookie.cookieBehavior": 2 }));
  for (const language of LANGUAGES) await look(open, visitor, language);
  console.log("passed: the pages are accessible and whole on desktops, phones and televisions");
  await stopServer();
} finally {
  await cleanUp();
  await stopProvider();
}
process.exit(0);
