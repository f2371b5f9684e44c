// @ts-check
// <qr-login>: login by QR code as one element.
import { createQrLogin } from "./core.js";
import style from "./element.css";
import { login as en } from "./languages/en.json";
import { Countdown } from "./shared/countdown.js";
import { attach, make, makeButton, makeIcon, setText } from "./shared/dom.js";
import { Languages } from "./shared/languages.js";

/**
 * @typedef {import("./core.js").State} State
 * @typedef {import("./core.js").User} User
 * @typedef {Record<keyof typeof en, string>} Language
 */

/** @type {Languages<Language>} */
const known = new Languages("login", en);
/** The languages of the element that are loaded, by tag. A page can add others. */
export const languages = known.loaded;

const PHONE = "M8 3h8v18H8zM11.5 18h1";
/** Path of the icon of each state that has one. @type {Record<string, string>} */
const icons = {
  scanned: PHONE,
  confirmed: "M5 13l4 4L19 7",
  rejected: "M6 6l12 12m0-12L6 18",
  cancelled: "M6 12h12",
  replaced: "M9 9h10v10H9zM15 9V5H5v10h4",
  blocked: "M12 5v9m0 4.5v.5",
};

const EVENTS = [
  "ready", "scanned", "number", "confirmed", "rejected", "cancelled", "expired", "replaced", "refresh", "error",
];

/** Returns the initials of a name: "AL" for "Ada Lovelace". @param {string} name */
const initials = (name) => (name.match(/(?<!\S)\S/gu) ?? []).slice(0, 2).join("").toUpperCase();

/**
 * Attributes: endpoint, lang, theme (light, dark, auto; default: that of the page), once, auto-refresh, client-info,
 * session. Events, which bubble: qr-login:ready, :scanned, :number, :confirmed, :rejected, :cancelled, :expired,
 * :replaced, :refresh, :error, :not-you. Only the detail of :confirmed contains the token.
 */
export class QrLoginElement extends HTMLElement {
  static observedAttributes = ["endpoint", "client-info", "session", "lang"];
  /** Creates the login that the element shows. @type {typeof createQrLogin} */
  static create = createQrLogin;

  #login = createQrLogin();
  /** Aborted when the element is removed from the page. @type {AbortController | undefined} */
  #connected;
  #isCopied = false;

  #picture = /** @type {HTMLImageElement} */ (make("img.qr"));
  #spinner = make("div.spin");
  #renew = makeButton("main refresh", () => this.refresh());
  #code = make("div.code", {}, this.#spinner, this.#picture, this.#renew);
  #open = /** @type {HTMLAnchorElement} */ (make("a.main", { target: "_blank" }));
  #number = make("bdi.number");
  #avatar = make("div.avatar", { class: "sign avatar", "aria-hidden": "true" });
  #path = make("path");
  #sign = make("div.sign", {}, makeIcon(this.#path));
  #name = make("p.name");
  #stage = make("div.stage");
  #message = make("p.message", { role: "status" });
  #hint = make("p.hint");
  #countdown = new Countdown();
  #cancel = makeButton("cancel", () => this.cancel());
  #again = makeButton("main again", () => this.refresh());
  #resume = makeButton("main resume", () => this.start());
  #notYou = makeButton("not-you", () => {
    this.#dispatch("not-you", {});
    this.refresh();
  });
  #actions = [this.#cancel, this.#again, this.#resume, this.#notYou];
  #cannotScan = make("span");
  #copy = makeButton("copy", () => this.#copyLink());
  #foot = make("div.foot", {}, this.#cannotScan, this.#copy);
  #notice = make("p.notice");
  #frame = make(
    "div.frame",
    { tabindex: "-1" },
    make("slot", { name: "header" }),
    this.#stage,
    this.#message,
    this.#hint,
    this.#countdown.element,
    make("div.actions", {}, ...this.#actions),
    make("div.last", {}, this.#foot, this.#notice),
    make("slot", { name: "footer" }),
  );

  #root = attach(this, style, this.#frame);

  /** The state that is shown. @returns {State} */
  get state() {
    return this.#login.state;
  }

  /** Session that has begun already: a response of `generate` or of the device endpoint. Its attribute has it as JSON. */
  get session() {
    try {
      // Without the attribute, this parses null.
      return JSON.parse(/** @type {any} */ (this.getAttribute("session")));
    } catch {
      // The core reports a session without an id.
      return {};
    }
  }

  set session(session) {
    this.setAttribute("session", JSON.stringify(session));
  }

  /** Continues the session of this tab, or begins one. Called automatically when the element is added to a page. */
  start() {
    this.#login.start();
  }

  /** Requests a new code. */
  refresh() {
    this.#login.refresh();
  }

  /** Cancels the login. */
  cancel() {
    return this.#login.cancel();
  }

  /** Acknowledges the token, if the default of the event qr-login:confirmed was prevented. */
  acknowledge() {
    return this.#login.acknowledge();
  }

  connectedCallback() {
    // The page may have set the property before this class was defined.
    const { session } = this;
    delete (/** @type {any} */ (this).session);
    if (session) this.session = session;
    this.#connected = new AbortController();
    const { signal } = this.#connected;
    const endpoint = this.getAttribute("endpoint");
    const client_info = this.getAttribute("client-info");
    this.#login = /** @type {typeof QrLoginElement} */ (this.constructor).create({ endpoint, client_info, session });
    this.#login.addEventListener("change", () => this.#show(), { signal });
    for (const type of EVENTS) {
      const forward = (/** @type {any} */ event) => {
        if (!this.#dispatch(type, event.detail)) event.preventDefault();
      };
      this.#login.addEventListener(type, forward, { signal });
    }
    const renew = () => {
      if (this.state.name === "expired" && this.hasAttribute("auto-refresh") && !document.hidden) this.refresh();
    };
    this.#login.addEventListener("expired", renew, { signal });
    document.addEventListener("visibilitychange", renew, { signal });
    // A page that is restored from the back/forward cache after a login requests a new code.
    const restart = (/** @type {PageTransitionEvent} */ { persisted }) => {
      if (!persisted || this.state.name !== "confirmed" || this.hasAttribute("once")) return;
      if (session) this.refresh();
      else this.start();
    };
    addEventListener("pageshow", restart, { signal });
    this.start();
    this.#show();
  }

  disconnectedCallback() {
    this.#connected?.abort();
    this.#connected = undefined;
    this.#login.stop();
    this.#countdown.stop();
  }

  /** @param {string} name @param {string | null} before @param {string | null} now */
  attributeChangedCallback(name, before, now) {
    if (!this.#connected || before === now) return;
    if (name === "lang") return this.#show();
    this.disconnectedCallback();
    this.connectedCallback();
  }

  /** @param {string} type @param {object} detail */
  #dispatch(type, detail) {
    const options = { detail, cancelable: true, bubbles: true, composed: true };
    return this.dispatchEvent(new CustomEvent(`qr-login:${type}`, options));
  }

  async #copyLink() {
    const text = this.state.qr_url ?? "";
    try {
      await navigator.clipboard.writeText(text);
      this.#isCopied = true;
    } catch {
      // A page on plain http has no clipboard API.
      const field = /** @type {HTMLTextAreaElement} */ (make("textarea.sr", {}, text));
      this.#foot.append(field);
      field.select();
      this.#isCopied = document.execCommand("copy");
      field.remove();
      this.#copy.focus();
    }
    this.#show();
    setTimeout(() => {
      this.#isCopied = false;
      this.#show();
    }, 2000);
  }

  #show() {
    const { name: state } = this.state;
    const { tag, texts, isLoading } = known.find(this, () => this.#show());
    const hadFocus = this.#root.activeElement;
    // A user who is on the phone cannot scan its screen.
    const isOnPhone = state === "ready" && matchMedia("(pointer: coarse) and (max-width: 40rem)").matches;
    this.#frame.lang = tag;
    this.#frame.className = `frame ${state}${this.#login.is_connected ? "" : " away"}${isLoading ? " waits" : ""}`;
    this.#showStage(state, isOnPhone);
    this.#showTexts(state, isOnPhone, texts);
    this.#showButtons(state, texts);
    this.#countdown.show(this.state, texts.left, this.#connected && /ready|scanned/.test(state));
    // The focus stays in the element if the focused button disappears.
    if (hadFocus && !this.#root.activeElement) {
      const next = [this.#renew, ...this.#actions].find((button) => !button.hidden && button.isConnected);
      (next ?? this.#frame).focus();
    }
  }

  /** @param {string} state @param {boolean} isOnPhone */
  #showStage(state, isOnPhone) {
    const { qr_image = "", qr_url = "", user, number = "" } = this.state;
    // The claims of an app token are of any type, and often do not describe the user.
    const name = `${user?.name ?? ""}`;
    const content = [];
    if (isOnPhone) content.push(this.#sign, this.#open);
    if (state === "scanned" && number) content.push(this.#number);
    if (/scanned|confirmed/.test(state) && (name || user?.picture)) content.push(this.#avatar, this.#name);
    if (!content.length) content.push(/loading|ready|expired/.test(state) ? this.#code : this.#sign);
    this.#stage.replaceChildren(...content);
    if (this.#picture.src !== qr_image) this.#picture.src = qr_image;
    this.#picture.hidden = !qr_image;
    this.#spinner.hidden = state !== "loading";
    this.#open.href = qr_url;
    setText(this.#number, number);
    setText(this.#name, name);
    this.#name.hidden = !name;
    this.#showAvatar(user, name);
    this.#path.setAttribute("d", isOnPhone ? PHONE : icons[state] ?? "");
  }

  /** @param {string} state @param {boolean} isOnPhone @param {Language} words */
  #showTexts(state, isOnPhone, words) {
    const { number, reason = "" } = this.state;
    let key = state;
    if (isOnPhone) key = "on_phone";
    if (state === "scanned" && number) key = "number";
    let hintKey = /overload|claimed/.test(reason) ? reason : `${key}_hint`;
    // The page of a session that the server has begun has a title of its own, and need not be one with an app.
    if (this.session && state === "ready") [key, hintKey] = [hintKey, ""];
    setText(this.#message, words[/** @type {keyof Language} */ (key)]);
    setText(this.#hint, words[/** @type {keyof Language} */ (hintKey)] ?? "");
    setText(this.#notice, this.#login.is_connected ? "" : words.offline);
    this.#picture.alt = words.picture;
    setText(this.#cannotScan, isOnPhone ? "" : words.cannot_scan);
  }

  /** @param {string} state @param {Language} words */
  #showButtons(state, words) {
    setText(this.#open, this.session ? words.open_here : words.open);
    setText(this.#copy, this.#isCopied ? words.copied : words.copy);
    for (const [button, text, states] of /** @type {[HTMLElement, string, RegExp][]} */ ([
      [this.#renew, words.refresh, /expired/],
      [this.#cancel, words.cancel, /ready|scanned/],
      [this.#again, state === "blocked" ? words.retry : words.refresh, /rejected|cancelled|blocked/],
      [this.#resume, words.resume, /replaced/],
      [this.#notYou, words.not_you, /confirmed/],
    ])) {
      setText(button, text);
      button.hidden = !states.test(state);
    }
  }

  /**
   * Shows the user's initials, and the picture once it is loaded.
   * @param {User | undefined} user @param {string} name
   */
  #showAvatar(user, name) {
    const key = `${user?.picture} ${name}`;
    if (this.#avatar.dataset.of === key) return;
    this.#avatar.dataset.of = key;
    this.#avatar.replaceChildren(initials(name));
    if (!user?.picture) return;
    const attributes = { src: user.picture, alt: "", referrerpolicy: "no-referrer" };
    const picture = /** @type {HTMLImageElement} */ (make("img", attributes));
    picture.onload = () => {
      if (this.#avatar.dataset.of === key) this.#avatar.replaceChildren(picture);
    };
  }
}

if (!customElements.get("qr-login")) customElements.define("qr-login", QrLoginElement);
