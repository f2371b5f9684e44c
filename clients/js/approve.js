// @ts-check
// <qr-approve>: the decision about a login by QR code, on the user's phone, as one element.
import { createQrApprove, keepCode } from "./approve-core.js";
import style from "./approve.css";
import { approve as en } from "./languages/en.json";
import { Countdown } from "./shared/countdown.js";
import { attach, make, makeButton, makeIcon, setChildren, setText } from "./shared/dom.js";
import { Languages } from "./shared/languages.js";

export { keepCode };

/**
 * @typedef {import("./approve-core.js").State} State
 * @typedef {import("./approve-core.js").Client} Client
 * @typedef {import("./approve-core.js").Application} Application
 * @typedef {Record<keyof typeof en, string>} Language
 */

/** @type {Languages<Language>} */
const known = new Languages("approve", en);
/** The languages of the element that are loaded, by tag. A page can add others. */
export const languages = known.loaded;

/** Time for which the buttons stay disabled when they appear or the window gets the focus. */
const GUARD_MS = 500;
const EVENTS = [
  "asking", "confirmed", "rejected", "expired", "cancelled", "unknown", "taken", "wrong-number", "logged-out",
  "refused", "no-code", "error",
];
const EXCLAMATION = "M12 5v9m0 4.5v.5";
/** Path of the icon of each state that has another one than an exclamation mark. @type {Record<string, string>} */
const icons = {
  confirmed: "M5 13l4 4L19 7",
  rejected: "M6 6l12 12m0-12L6 18",
  cancelled: "M6 12h12",
  expired: "M12 7v5l3 2M12 3a9 9 0 1 0 .1 0",
  logged_out: "M12 4a4 4 0 1 0 .1 0M4 20a8 7 0 0 1 16 0",
  no_code: "M4 4h6v6H4zm10 0h6v6h-6zM4 14h6v6H4zm10 0h2m2 4h2v2m-6 0v-2",
};

/**
 * Returns the result of a function, or a default if it throws.
 * @template T @param {() => T} run @param {T} otherwise
 */
function attempt(run, otherwise) {
  try {
    return run();
  } catch {
    return otherwise;
  }
}

/**
 * Attributes: endpoint, token-url, login-url, code, lang, theme (light, dark, auto; default: that of the page).
 * Events, which bubble: qr-approve:asking, :confirmed, :rejected, :expired, :cancelled, :unknown, :taken,
 * :wrong-number, :logged-out, :refused, :no-code, :error.
 */
export class QrApproveElement extends HTMLElement {
  static observedAttributes = ["endpoint", "token-url", "login-url", "code", "lang"];
  /** Creates the decision that the element shows. @type {typeof createQrApprove} */
  static create = createQrApprove;

  #approve = createQrApprove();
  /** @type {import("./approve-core.js").Options["token"]} */
  #token;
  /** Code in the URL of the page, or kept, when the element started. @type {string | undefined} */
  #code;
  /** Aborted when the element is removed from the page. @type {AbortController | undefined} */
  #connected;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #guardTimer;

  #spinner = make("div.spin");
  #path = make("path");
  #sign = make("div.sign", {}, makeIcon(this.#path));
  #stage = make("div.stage");
  #message = make("p.message");
  #hint = make("p.hint");
  #asks = make("p.asks");
  #facts = make("dl.facts");
  #risk = make("p.risk", { id: "risk" });
  #check = make("p.check", { id: "check" });
  #numbers = make("div.numbers");
  #yes = makeButton("main yes", () => this.#approve.confirm(), { "aria-describedby": "risk check" });
  #no = makeButton("main no", () => this.#approve.reject());
  #decisions = make("div.decisions", {}, this.#numbers, this.#yes, this.#no);
  #login = /** @type {HTMLAnchorElement} */ (make("a.main login"));
  #retry = makeButton("main retry", () => this.start());
  #countdown = new Countdown();
  #notice = make("p.notice");
  #frame = make(
    "div.frame",
    { tabindex: "-1" },
    make("slot", { name: "header" }),
    this.#stage,
    make("div", { role: "status" }, this.#message, this.#hint, this.#asks),
    this.#facts,
    this.#risk,
    this.#check,
    this.#decisions,
    make("div.actions", {}, this.#login, this.#retry),
    make("div.last", {}, this.#countdown.element, this.#notice),
    make("slot", { name: "footer" }),
  );
  #root = attach(this, style, this.#frame);

  /** The state that is shown. @returns {State} */
  get state() {
    return this.#approve.state;
  }

  /** App token, or a function that returns one, in place of the attribute token-url. */
  get token() {
    return this.#token;
  }

  set token(token) {
    this.#token = token;
    this.#approve.token = token;
    if (this.#connected && /idle|logged_out/.test(this.state.name)) this.start();
  }

  /** Scans the code. Called automatically when the element is added to a page and can have a token. */
  start() {
    this.#code = keepCode();
    this.#approve.start();
  }

  connectedCallback() {
    // The page may have set the property before this class was defined.
    const { token } = this;
    delete (/** @type {any} */ (this).token);
    this.#token = token;
    this.#connected = new AbortController();
    const { signal } = this.#connected;
    const [endpoint, token_url, code] = ["endpoint", "token-url", "code"].map((name) => this.getAttribute(name));
    const { create } = /** @type {typeof QrApproveElement} */ (this.constructor);
    this.#approve = create({ endpoint, token_url, code, token: this.#token });
    this.#approve.addEventListener("change", () => this.#show(), { signal });
    this.#approve.addEventListener("asking", () => this.#guard(), { signal });
    for (const type of EVENTS) {
      const forward = (/** @type {any} */ { detail }) =>
        this.dispatchEvent(new CustomEvent(`qr-approve:${type}`, { detail, bubbles: true, composed: true }));
      this.#approve.addEventListener(type, forward, { signal });
    }
    // A camera may open another code in the same tab.
    const restart = () => {
      const newCode = keepCode();
      if (!code && newCode && newCode !== this.#code) this.start();
    };
    addEventListener("hashchange", restart, { signal });
    const resume = () => {
      this.#guard();
      // The user may have logged in meanwhile, in another tab or before navigating back.
      if (this.state.name === "logged_out" && !document.hidden) this.start();
    };
    document.addEventListener("visibilitychange", resume, { signal });
    const guard = () => {
      // A touch can give the focus to a web view, and then means the button.
      if (matchMedia("(pointer: fine)").matches) this.#guard();
    };
    addEventListener("focus", guard, { signal });
    this.#show();
    if (token_url || this.#token) this.start();
  }

  disconnectedCallback() {
    this.#connected?.abort();
    this.#connected = undefined;
    this.#approve.stop();
    this.#countdown.stop();
    clearTimeout(this.#guardTimer);
  }

  /** @param {string} name @param {string | null} before @param {string | null} now */
  attributeChangedCallback(name, before, now) {
    if (!this.#connected || before === now) return;
    if (/lang|login-url/.test(name)) return this.#show();
    this.disconnectedCallback();
    this.connectedCallback();
  }

  /**
   * Disables the buttons of the decision for a moment, so that a click that was meant for another window or for a
   * previous state decides nothing.
   */
  #guard() {
    const buttons = /** @type {NodeListOf<HTMLButtonElement>} */ (this.#decisions.querySelectorAll("button"));
    const focused = /** @type {HTMLElement | null} */ (this.#root.activeElement);
    const setDisabled = (/** @type {boolean} */ isDisabled) => {
      for (const button of buttons) button.disabled = isDisabled;
    };
    setDisabled(true);
    clearTimeout(this.#guardTimer);
    this.#guardTimer = setTimeout(() => {
      setDisabled(false);
      if (focused && !this.#root.activeElement) focused.focus();
    }, GUARD_MS);
  }

  #show() {
    const { is_connected, is_busy } = this.#approve;
    const name = this.state.name === "idle" ? "loading" : this.state.name;
    const { tag, texts, isLoading } = known.find(this, () => this.#show());
    const isQuestion = /asking|deciding/.test(name);
    const hadFocus = this.#root.activeElement;
    this.#frame.lang = tag;
    this.#frame.className = `frame ${name}${is_connected ? "" : " away"}${isLoading ? " waits" : ""}`;
    this.#stage.hidden = isQuestion;
    this.#stage.replaceChildren(name === "loading" ? this.#spinner : this.#sign);
    this.#path.setAttribute("d", icons[name] ?? EXCLAMATION);
    this.#showTexts(name, texts);
    setText(this.#notice, is_connected ? "" : is_busy ? texts.busy : texts.offline);
    for (const part of [this.#facts, this.#risk, this.#check, this.#decisions]) part.hidden = !isQuestion;
    this.#asks.hidden = !this.state.application?.scopes.length;
    if (isQuestion) this.#showQuestion(name === "deciding", tag, texts);
    this.#showActions(name, texts);
    this.#countdown.show(this.state, texts.left, this.#connected && name === "asking");
    // The focus stays in the element if the focused button disappears.
    if (hadFocus && !hadFocus.checkVisibility()) {
      const next = [this.#login, this.#retry].find((action) => !action.hidden);
      (next ?? this.#frame).focus();
    }
  }

  /** @param {string} name @param {Language} texts */
  #showTexts(name, texts) {
    const { reason } = this.state;
    let key = name;
    if (name === "deciding") key = "loading";
    if (reason === "insufficient_user_authentication") key = "too_old";
    const hintKey = reason === "already_decided" ? reason : `${key}_hint`;
    setText(this.#message, texts[/** @type {keyof Language} */ (key)]);
    setText(this.#hint, texts[/** @type {keyof Language} */ (hintKey)] ?? "");
  }

  /** @param {boolean} isDeciding @param {string} tag @param {Language} texts */
  #showQuestion(isDeciding, tag, texts) {
    const { client, application, numbers = [], risk = [] } = this.state;
    const rows = client ? describe(client, application, tag, texts) : [];
    if (application) this.#showApplication(application, texts);
    setChildren(this.#facts, rows, () =>
      rows.map(([label, text]) => make("div", {}, make("dt", {}, label), make("dd", {}, make("bdi", {}, text)))),
    );
    this.#risk.hidden = !risk.length;
    setText(this.#risk, risk.includes("country") ? texts.risk_country : texts.risk_network);
    setText(this.#check, numbers.length ? texts.pick : texts.check);
    setChildren(this.#numbers, numbers, () => numbers.map((number) => this.#numberButton(number)));
    this.#numbers.hidden = !numbers.length;
    this.#yes.hidden = !!numbers.length;
    setText(this.#yes, texts.yes);
    setText(this.#no, texts.no);
    // A disabled button would lose the focus.
    for (const button of this.#decisions.querySelectorAll("button")) button.ariaDisabled = `${isDeciding}`;
  }

  /** @param {Application} application @param {Language} texts */
  #showApplication({ name, logo, scopes }, texts) {
    const words = scopes.map((scope) => texts[/** @type {keyof Language} */ (`scope_${scope}`)] ?? scope).join("; ");
    const src = /^https:/.test(`${logo}`) ? `${logo}` : "";
    // The text has the placeholders {name} and {scopes}, in this order.
    const [before, between, after] = texts.asks.split(/\{\w+\}/);
    setChildren(this.#asks, [src, name, words, texts.asks], () => [
      src && make("img", { alt: "", referrerpolicy: "no-referrer", src }),
      before,
      make("bdi", {}, name),
      between,
      words,
      after,
    ]);
  }

  /** @param {string} number */
  #numberButton(number) {
    const button = makeButton("main number", () => this.#approve.confirm(number), { "aria-describedby": "risk check" });
    button.append(make("bdi", {}, number));
    return button;
  }

  /** @param {string} name @param {Language} texts */
  #showActions(name, texts) {
    const loginUrl = this.getAttribute("login-url") ?? "";
    const canLogIn = name === "logged_out" && loginUrl && URL.canParse(loginUrl, document.baseURI);
    setText(this.#login, texts.log_in);
    setText(this.#retry, texts.retry);
    this.#login.hidden = !canLogIn;
    this.#retry.hidden = canLogIn || !/logged_out|refused|blocked/.test(name);
    if (!canLogIn) return;
    const url = new URL(loginUrl, document.baseURI);
    url.searchParams.set("next", location.pathname + location.search + location.hash);
    // The user is logged in, but too long ago.
    if (this.state.reason === "insufficient_user_authentication") url.searchParams.set("prompt", "login");
    this.#login.href = url.href;
  }
}

/**
 * Returns what is known of a browser, as labels and texts.
 * @param {Client} client @param {Application | undefined} application @param {string} tag @param {Language} texts
 * @returns {string[][]}
 */
function describe({ ip, browser, os, origin, client_info, time, location, network }, application, tag, texts) {
  const { city, country, country_code = "" } = location ?? {};
  const site = application?.name ?? (origin && attempt(() => new URL(origin).host, origin));
  const region = attempt(() => new Intl.DisplayNames(tag, { type: "region" }).of(country_code), country);
  const clock = attempt(() => new Intl.DateTimeFormat(tag, { timeStyle: "short" }).format(new Date(time)), "");
  const rows = [
    [texts.site, site],
    [texts.browser, browser],
    [texts.system, os],
    [texts.place, [city, region].filter(Boolean).join(", ")],
    [texts.network, network?.organization],
    [texts.address, ip],
    [texts.time, clock],
    [texts.says, client_info],
  ];
  return /** @type {string[][]} */ (rows.filter(([, text]) => text));
}

if (!customElements.get("qr-approve")) customElements.define("qr-approve", QrApproveElement);
