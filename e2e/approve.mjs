// <qr-approve> on a site of another origin, with a session of its own and a strict policy: a phone logs in there, keeps
// the code, and decides.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { appToken, base, desktop, expectRefusal, foreign, runStories, state, visitor } from "./stage.mjs";

const { origin } = new URL(foreign);
const policy = [
  "default-src 'none'",
  `script-src ${base}`,
  `connect-src 'self' ${base}`,
  "form-action 'self'",
  "frame-src 'self'",
  "require-trusted-types-for 'script'",
].join("; ");
const page = (body) => `<!doctype html><html lang="en"><meta name="viewport" content="width=device-width">
  <meta name="color-scheme" content="light dark"><title>A shop</title><main>${body}</main>`;
const approvePage = (attributes) =>
  page(`<script type="module" src="${base}/js/qr-approve.js" crossorigin="anonymous"></script>
    <h1>A shop</h1><qr-approve endpoint="${base}" ${attributes}></qr-approve>`);

/** A site with a login form and a session. Its user is Ada. */
class Site {
  /** Requests of the token, in order. */
  tokenRequests = [];
  /** URLs of all requests, in order. */
  urls = [];
  #server = createServer((request, response) => this.#handle(request, response));

  async open() {
    await new Promise((listening) => this.#server.listen(new URL(foreign).port, "127.0.0.1", listening));
    return this;
  }

  close() {
    this.#server.close();
    this.#server.closeAllConnections();
  }

  async #handle(request, response) {
    const { pathname, searchParams } = new URL(request.url, foreign);
    this.urls.push(request.url);
    const isLoggedIn = /session=ada/.test(request.headers.cookie ?? "");
    const headers = { "content-type": "text/html", "content-security-policy": policy };
    const next = searchParams.get("next") ?? "/";
    const redirect = (location, more) => response.writeHead(303, { ...headers, location, ...more }).end();
    if (pathname === "/token") return this.#token(request, response, isLoggedIn);
    if (pathname === "/members" && !isLoggedIn) return redirect("/login?next=/members");
    if (pathname === "/login" && request.method === "POST") {
      return redirect(next, { "set-cookie": "session=ada; HttpOnly; SameSite=Lax; Path=/" });
    }
    response.writeHead(200, headers).end(this.#page(pathname, request.url));
  }

  #page(pathname, url) {
    if (pathname === "/login") {
      // One line keeps the code of a redirect that leads here.
      const action = url.replaceAll("&", "&amp;");
      return page(`<script type="module" src="${base}/js/keep-code.js" crossorigin="anonymous"></script>
        <h1>Log in</h1><form method="post" action="${action}"><button>Log in as Ada</button></form>`);
    }
    if (pathname === "/app") return page("");
    if (pathname === "/framing") return page(`<iframe src="/approve" title="Approve"></iframe>`);
    return approvePage(`token-url="/token" login-url="/login"`);
  }

  /** The token endpoint: signs for the user of the session, if the header shows that the request is of this site. */
  async #token(request, response, isLoggedIn) {
    this.tokenRequests.push(request);
    const isAllowed = request.method === "POST" && request.headers["x-qr-approve"] === "1";
    if (!isAllowed || !isLoggedIn) return response.writeHead(isAllowed ? 401 : 400).end();
    response.writeHead(200, { "content-type": "application/json", "cache-control": "no-store" });
    response.end(JSON.stringify({ token: appToken("ada") }));
  }
}

/** Opens a page of the site on a phone. */
async function openPhone(path, { isLoggedIn = true, ...options } = {}) {
  const phone = await visitor({ viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true, ...options });
  const cookie = { name: "session", value: "ada", url: origin };
  if (isLoggedIn) await phone.context().addCookies([cookie]);
  await phone.goto(origin + path);
  return phone;
}

const shows = (phone, name) => phone.locator(`qr-approve .frame.${name}`).waitFor();
const button = (phone, name) => phone.getByRole("button", { name });
const message = (phone) => phone.locator("qr-approve").getByRole("status").innerText();

/** Returns the class of the part that has the focus. Runs in the page. */
const focused = () => document.querySelector("qr-approve").shadowRoot.activeElement?.className;

/** Runs a story with the site. */
const withSite = (story) => async () => {
  const site = await new Site().open();
  try {
    await story(site);
  } finally {
    site.close();
  }
};

const stories = {
  async "a user who is logged in confirms"(site) {
    const { page, session } = await desktop();
    const phone = await openPhone(`/approve#${session.code}`);
    await shows(phone, "asking");
    assert.equal(phone.url(), `${origin}/approve`);
    await state(page, "scanned");
    const facts = await phone.locator("qr-approve .facts").innerText();
    assert.match(facts, /Site\s+localhost:\d+\s+Browser\s+Chrom[^]*System\s+Linux[^]*Address\s+127\.0\.0\.1/);
    await button(phone, "Yes, log me in").tap();
    await shows(phone, "confirmed");
    await state(page, "confirmed");
    assert.equal(await message(phone), "Confirmed\n\nThe other screen is logged in. You can put your phone away.");
    assert.equal(site.tokenRequests.length, 1);
    assert(site.urls.every((url) => !url.includes(session.code)), "the code is in no request of the site");
    await phone.reload();
    await shows(phone, "no_code");
  },

  async "a user rejects"() {
    const { page, session } = await desktop();
    const phone = await openPhone(`/approve#${session.code}`);
    await button(phone, "No, that was not me").tap();
    await shows(phone, "rejected");
    await state(page, "rejected");
  },

  async "a user who is not logged in follows the link, logs in, and confirms"(site) {
    const { page, session } = await desktop();
    const phone = await openPhone(`/approve?from=camera#${session.code}`, { isLoggedIn: false });
    await shows(phone, "logged_out");
    expectRefusal(401);
    const link = phone.getByRole("link", { name: "Log in" });
    assert.equal(await link.getAttribute("href"), `${origin}/login?next=%2Fapprove%3Ffrom%3Dcamera`);
    await link.tap();
    await button(phone, "Log in as Ada").tap();
    await shows(phone, "asking");
    await button(phone, "Yes, log me in").tap();
    await shows(phone, "confirmed");
    await state(page, "confirmed");
    assert.equal(phone.url(), `${origin}/approve?from=camera`);
    assert.equal(site.tokenRequests.length, 2);
  },

  async "a redirect to the login page keeps the code"(site) {
    const { page, session } = await desktop();
    const phone = await openPhone(`/members#${session.code}`, { isLoggedIn: false });
    await phone.waitForURL(`${origin}/login?next=/members`);
    await button(phone, "Log in as Ada").tap();
    await button(phone, "Yes, log me in").tap();
    await shows(phone, "confirmed");
    await state(page, "confirmed");
    assert(site.urls.every((url) => !url.includes(session.code)), "the code is in no request of the site");
  },

  async "a user who has logged in in another tab continues without a reload"() {
    const { session } = await desktop();
    const phone = await openPhone(`/approve#${session.code}`, { isLoggedIn: false });
    await shows(phone, "logged_out");
    expectRefusal(401);
    await phone.context().addCookies([{ name: "session", value: "ada", url: origin }]);
    await phone.evaluate(() => document.dispatchEvent(new Event("visibilitychange")));
    await shows(phone, "asking");
  },

  async "a camera opens another code in the same tab"() {
    const [first, second] = [await desktop(), await desktop()];
    const phone = await openPhone(`/approve#${first.session.code}`);
    await shows(phone, "asking");
    await phone.goto(`${origin}/approve#${second.session.code}`);
    await state(second.page, "scanned");
    await shows(phone, "asking");
    await button(phone, "Yes, log me in").tap();
    await state(second.page, "confirmed");
    await state(first.page, "scanned");
    await phone.goto(`${origin}/approve#${first.session.code}`);
    await button(phone, "No, that was not me").tap();
    await state(first.page, "rejected");
  },

  async "a decision whose answer is lost is sent again"() {
    const { page, session } = await desktop();
    const phone = await openPhone(`/approve#${session.code}`);
    phone.mayFail = true;
    let isLost = false;
    await phone.route(/\/confirm$/, async (route) => {
      if (isLost || route.request().method() !== "POST") return route.continue();
      isLost = true;
      await route.fetch();
      await route.abort();
    });
    await button(phone, "Yes, log me in").tap();
    await shows(phone, "confirmed");
    await state(page, "confirmed");
    assert(isLost);
  },

  async "the buttons are disabled for a moment, and when the page is shown again"() {
    const { page, session } = await desktop();
    const phone = await openPhone(`/approve#${session.code}`);
    await phone.evaluate(() => {
      const { shadowRoot } = document.querySelector("qr-approve");
      window.tapped = new Promise((resolve) => {
        document.addEventListener("qr-approve:asking", () => resolve(shadowRoot.querySelector(".yes").click()));
      });
      document.querySelector("qr-approve").start();
    });
    await phone.evaluate(() => window.tapped);
    await phone.locator(".yes:enabled").waitFor();
    await phone.locator(".yes").focus();
    const isDisabled = await phone.evaluate(() => {
      document.dispatchEvent(new Event("visibilitychange"));
      return document.querySelector("qr-approve").shadowRoot.querySelector(".yes").disabled;
    });
    assert(isDisabled);
    await phone.locator(".yes:enabled").waitFor();
    assert.equal(await phone.evaluate(focused), "main yes");
    await state(page, "scanned");
  },

  async "a page of another origin cannot frame the question"(site) {
    const { session } = await desktop();
    const other = createServer((_, response) => {
      response.writeHead(200, { "content-type": "text/html" });
      response.end(`<iframe src="${origin}/approve#${session.code}" title="A game"></iframe>`);
    });
    await new Promise((listening) => other.listen(0, "127.0.0.1", listening));
    const phone = await openPhone("/approve");
    await shows(phone, "no_code");
    await phone.goto(`http://127.0.0.1:${other.address().port}/`);
    const frame = phone.frameLocator("iframe");
    await frame.locator("qr-approve .frame.blocked").waitFor();
    assert.equal(site.tokenRequests.length, 0);
    expectRefusal("a page of another origin contains this page");
    // A page of the site can.
    await phone.goto(`${origin}/framing`);
    await phone.frameLocator("iframe").locator("qr-approve .frame.asking").waitFor();
    other.close();
    other.closeAllConnections();
  },

  async "the accessibility tree follows a decision, and the focus stays in the element"() {
    const { session } = await desktop();
    const phone = await openPhone(`/approve#${session.code}`);
    await phone.locator(".yes:enabled").waitFor();
    const tree = await phone.locator("qr-approve").ariaSnapshot();
    const asking = [
      "status:", "Log in\\?", "A browser wants to log in as you", "term: Site", "definition:", "term: Address",
      "Confirm only if you began this login", 'button "Yes, log me in"', 'button "No, that was not me"',
      "timer: Expires in",
    ];
    assert.match(tree, new RegExp(asking.join("[^]*")));
    const yes = button(phone, "Yes, log me in");
    const description = () => {
      const { shadowRoot } = document.querySelector("qr-approve");
      const ids = shadowRoot.querySelector(".yes").getAttribute("aria-describedby").split(" ");
      return ids.map((id) => shadowRoot.getElementById(id).textContent).at(-1);
    };
    assert.match(await phone.evaluate(description), /^Confirm only if/);
    await phone.keyboard.press("Tab");
    assert.equal(await phone.evaluate(focused), "main yes");
    await phone.keyboard.press("Tab");
    assert.equal(await phone.evaluate(focused), "main no");
    await yes.press("Enter");
    await shows(phone, "confirmed");
    assert.equal(await phone.evaluate(focused), "frame confirmed");
    assert.doesNotMatch(await phone.locator("qr-approve").ariaSnapshot(), /button|term|timer/);
  },

  async "a page gives the token as a property, before the element is defined or later"() {
    const { page, session } = await desktop();
    const phone = await visitor();
    await phone.goto(`${origin}/app`);
    const give = async ([base, code, isEarly]) => {
      const element = document.createElement("qr-approve");
      element.setAttribute("endpoint", base);
      element.setAttribute("code", code);
      const token = async () => window.token();
      if (isEarly) element.token = token;
      document.body.replaceChildren(element);
      await import(`${base}/js/qr-approve.js`);
      await new Promise((resolve) => setTimeout(resolve, 100));
      if (!isEarly) element.token = token;
    };
    await phone.exposeFunction("token", () => appToken("ada"));
    await phone.evaluate(give, [base, session.qr_url, true]);
    await shows(phone, "asking");
    await phone.evaluate(give, [base, session.qr_url, false]);
    await button(phone, "Yes, log me in").click();
    await state(page, "confirmed");
  },

  async "the question is in the language of the page, with its names of places and times"() {
    const { session } = await desktop();
    const phone = await openPhone(`/approve#${session.code}`);
    await shows(phone, "asking");
    await phone.evaluate(() => (document.documentElement.lang = "de"));
    await phone.locator("qr-approve").evaluate((element) => element.setAttribute("lang", "de"));
    await phone.getByText("Ein Browser möchte sich mit diesem Konto anmelden.").waitFor();
    await button(phone, "Nein, das war ich nicht").tap();
    await phone.getByText("Das Smartphone wird nicht mehr benötigt.").waitFor();
  },
};

await runStories(Object.fromEntries(Object.entries(stories).map(([name, story]) => [name, withSite(story)])));
