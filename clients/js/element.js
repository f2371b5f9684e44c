// @ts-check
// <qr-login>: the whole of a login by QR code, as one element.
import { en } from "./languages/en.js";
import { zh_CN } from "./languages/zh-CN.js";
import { createQrLogin } from "./core.js";

/** @typedef {import("./core.js").State} State */
/** @typedef {Record<keyof typeof en, string>} Language */

/** Every language there is, by its tag; put another in to have it. @type {Record<string, Language>} */
export const languages = { en, "zh-CN": zh_CN };

const sheet = `
:host { display: block; max-width: 24rem; margin-inline: auto; }
:host([hidden]) { display: none; }
:host([theme="auto"]) { color-scheme: light dark; }
:host([theme="light"]) { color-scheme: light; }
:host([theme="dark"]) { color-scheme: dark; }
.frame {
  --accent: var(--qr-login-accent, light-dark(#2f5bea, #8ea9ff));
  --on-accent: var(--qr-login-on-accent, light-dark(#fff, #10142a));
  --ground: var(--qr-login-background, light-dark(#fff, #1b202b));
  --ink: var(--qr-login-color, light-dark(#171b26, #edf0f7));
  --quiet: var(--qr-login-quiet, light-dark(#5a6275, #a9b3c7));
  --line: var(--qr-login-line, light-dark(#d5dbe8, #3d4659));
  --good: var(--qr-login-good, light-dark(#157347, #5fd19a));
  --bad: var(--qr-login-bad, light-dark(#b3261e, #ff9c93));
  --size: var(--qr-login-size, 15rem);
  --tone: var(--accent);
  display: grid; justify-items: center; padding: 1.5rem; border-radius: var(--qr-login-radius, 1.25rem);
  background: var(--ground); color: var(--ink); font: 1rem/1.5 var(--qr-login-font, system-ui); text-align: center; font-variant-numeric: tabular-nums; outline: 0;
}
* { box-sizing: border-box; margin: 0; }
[hidden] { display: none !important; }
.stage { display: grid; place-items: center; place-content: center; width: var(--size); height: var(--size); }
.code { display: grid; width: var(--size); height: var(--size); border-radius: 1rem; overflow: hidden; background: #fff; color-scheme: light; border: 1px solid var(--line); }
.code > *, .last > * { grid-area: 1 / 1; place-self: center; }
img { width: 100%; height: 100%; object-fit: cover; }
.spin { width: 2rem; height: 2rem; border: 3px solid var(--line); border-top-color: var(--accent); border-radius: 50%; animation: spin 1s linear infinite; }
@keyframes spin { to { rotate: 1turn; } }
.expired .code img { opacity: .08; }
.code button { position: relative; max-width: 90%; }
.avatar, .sign { display: grid; place-items: center; width: 6.5rem; height: 6.5rem; border-radius: 50%; overflow: hidden; background: color-mix(in srgb, var(--tone) 14%, var(--ground)); color: var(--tone); font-size: 2.25rem; font-weight: 600; }
.rejected, .blocked { --tone: var(--bad); }
.confirmed { --tone: var(--good); }
.confirmed .avatar { outline: 3px solid var(--good); outline-offset: 4px; }
path { fill: none; stroke: currentColor; stroke-width: 2; stroke-linecap: round; stroke-linejoin: round; }
.sign + a { margin-top: 1.25rem; }
.number { font-size: 4rem; font-weight: 700; line-height: 1.25; letter-spacing: .06em; }
.name { max-width: var(--size); margin-top: 1rem; font-size: 1.125rem; font-weight: 600; overflow: hidden; overflow-wrap: anywhere; display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 3; }
.number ~ .avatar { width: 3rem; height: 3rem; font-size: 1.125rem; }
.number ~ .name { margin-top: .25rem; }
.message { margin-top: 1rem; font-size: 1.25rem; font-weight: 600; min-height: 1.75rem; line-height: 1.75rem; }
.hint { color: var(--quiet); min-height: 3rem; text-wrap: balance; }
.left, .foot, .actions { display: flex; flex-wrap: wrap; align-items: center; justify-content: center; gap: .5rem; min-height: 2rem; }
.left, .foot { color: var(--quiet); visibility: hidden; }
.left, .last { font-size: .875rem; }
.sign svg { width: 3rem; }
.left svg { width: 1.125rem; rotate: -90deg; }
circle { fill: none; stroke: var(--line); stroke-width: 3; }
circle + circle { stroke: var(--accent); stroke-dasharray: 1; }
.actions { min-height: 2.75rem; margin-top: .75rem; }
button, a { min-height: 2.75rem; padding: .5rem 1.125rem; border: 1px solid var(--line); border-radius: .75rem; background: none; color: inherit; font: inherit; font-weight: 600; text-decoration: none; cursor: pointer; }
.foot button { min-height: 2rem; padding: .125rem .625rem; color: var(--ink); }
:is(button, a):hover { border-color: var(--accent); }
.main { border-color: transparent; background: var(--accent); color: var(--on-accent); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.ready :is(.left, .foot), .scanned .left { visibility: visible; }
.last { display: grid; margin-top: .5rem; }
.notice { color: var(--bad); font-weight: 600; visibility: hidden; }
.away .notice { visibility: visible; animation: late 1s steps(1) both; }
.away .foot { visibility: hidden; animation: late 1s steps(1) reverse both; }
@keyframes late { from { visibility: hidden; } to { visibility: visible; } }
.sr { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
@media (prefers-reduced-motion: reduce) { * { animation-duration: 0s !important; } }
`;

const PHONE = "M8 3h8v18H8zM11.5 18h1";
/** What stands in the middle where there is nobody to show. @type {Record<string, string>} */
const signs = {
  scanned: PHONE,
  confirmed: "M5 13l4 4L19 7",
  rejected: "M6 6l12 12M18 6L6 18",
  cancelled: "M6 12h12",
  replaced: "M9 9h10v10H9zM15 9V5H5v10h4",
  blocked: "M12 5v9M12 18.5v.5",
};

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element with these attributes and children: "p.name" is a `p` of the class, and of the part, "name".
 * @param {string} what @param {Record<string, string>} [attributes] @param {(Node | string)[]} children
 */
function make(what, attributes = {}, ...children) {
  const [tag, name] = what.split(".");
  const element = /svg|path|circle/.test(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [key, value] of Object.entries({ ...(name && { class: name, part: name }), ...attributes })) {
    element.setAttribute(key, value);
  }
  element.append(...children);
  return /** @type {HTMLElement} */ (element);
}

/** Ada Lovelace is AL. @param {string} name */
const initials = (name) =>
  (name.match(/(?<!\S)\S/gu) ?? []).slice(0, 2).join("").toUpperCase();

/**
 * Attributes: endpoint, lang, theme (light, dark, auto; else as the page is), auto-refresh, client-info.
 * Events, which bubble: qr-login:ready, :scanned, :number, :confirmed, :rejected, :cancelled, :expired, :replaced,
 * :error, :not-you. Only the detail of :confirmed has the token.
 */
export class QrLoginElement extends HTMLElement {
  static observedAttributes = ["endpoint", "client-info", "lang"];
  /** What logs in. @type {typeof createQrLogin} */
  static create = createQrLogin;

  #login = createQrLogin({ storage: null });
  #root = this.attachShadow({ mode: "open" });
  /** @type {AbortController | undefined} */
  #shown;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #ticking;
  #copied = false;

  #picture = /** @type {HTMLImageElement} */ (make("img.qr"));
  #spin = make("div.spin");
  #renew = this.#button("main refresh", () => this.refresh());
  #code = make("div.code", {}, this.#spin, this.#picture, this.#renew);
  #open = /** @type {HTMLAnchorElement} */ (make("a.main", { target: "_blank", rel: "noopener" }));
  #number = make("bdi.number");
  #avatar = make("div.avatar", { "aria-hidden": "true" });
  #path = make("path");
  #sign = make("div.sign", { "aria-hidden": "true" }, make("svg", { viewBox: "0 0 24 24" }, this.#path));
  #name = make("p.name");
  #stage = make("div.stage");
  #message = make("p.message", { role: "status" });
  #hint = make("p.hint");
  #ring = make("circle", { cx: "10", cy: "10", r: "8", pathLength: "1" });
  #clock = make("bdi");
  #label = make("span.sr");
  #left = make("div.left", { role: "timer" },
    make("svg", { viewBox: "0 0 20 20", "aria-hidden": "true" }, make("circle", { cx: "10", cy: "10", r: "8" }), this.#ring),
    this.#label, this.#clock);
  #actions = {
    cancel: this.#button("cancel", () => this.cancel()),
    again: this.#button("main again", () => this.refresh()),
    resume: this.#button("main resume", () => this.start()),
    not_you: this.#button("not-you", () => this.#not_you()),
  };
  #cannot_scan = make("span");
  #copy = this.#button("copy", () => this.#copy_link());
  #foot = make("div.foot", {}, this.#cannot_scan, this.#copy);
  #notice = make("p.notice");
  #frame = make("div.frame", { tabindex: "-1" },
    make("slot", { name: "header" }), this.#stage, this.#message, this.#hint, this.#left,
    make("div.actions", {}, ...Object.values(this.#actions)), make("div.last", {}, this.#foot, this.#notice), make("slot", { name: "footer" }));

  constructor() {
    super();
    const style = new CSSStyleSheet();
    style.replaceSync(sheet);
    this.#root.adoptedStyleSheets = [style];
    this.#root.append(this.#frame);
  }

  /** What may be seen now. @returns {State} */
  get state() {
    return this.#login.state;
  }

  /** Goes on with the login of this tab, or begins one. Happens by itself when the element comes into a page. */
  start() {
    this.#login.start();
  }

  /** Asks for a new code. */
  refresh() {
    this.#login.refresh();
  }

  /** Gives up. */
  cancel() {
    return this.#login.cancel();
  }

  /** Says that the token has been received, if the event qr-login:confirmed was prevented from its default. */
  acknowledge() {
    return this.#login.acknowledge();
  }

  connectedCallback() {
    this.#shown = new AbortController();
    const { signal } = this.#shown;
    const endpoint = this.getAttribute("endpoint");
    const client_info = this.getAttribute("client-info");
    this.#login = /** @type {typeof QrLoginElement} */ (this.constructor).create({ endpoint, client_info });
    this.#login.addEventListener("change", () => this.#show(), { signal });
    for (const type of ["ready", "scanned", "number", "confirmed", "rejected", "cancelled", "expired", "replaced", "error"]) {
      const pass_on = (/** @type {any} */ event) => this.#say(type, event.detail) || event.preventDefault();
      this.#login.addEventListener(type, pass_on, { signal });
    }
    const renew = () => this.#renew_if_seen();
    document.addEventListener("visibilitychange", renew, { signal });
    // A page that one goes back to, after the login has led on to another, asks again.
    const asks_again = () => this.state.name === "confirmed" && !this.hasAttribute("once");
    addEventListener("pageshow", ({ persisted }) => persisted && asks_again() && this.start(), { signal });
    this.#login.addEventListener("expired", renew, { signal });
    this.#show();
    this.start();
  }

  disconnectedCallback() {
    this.#shown?.abort();
    this.#shown = undefined;
    this.#login.stop();
    clearInterval(this.#ticking);
    this.#ticking = undefined;
  }

  /** @param {string} name @param {string | null} before @param {string | null} now */
  attributeChangedCallback(name, before, now) {
    if (!this.#shown || before === now) return;
    if (name === "lang") return this.#show();
    this.disconnectedCallback();
    this.connectedCallback();
  }

  /** @param {string} type @param {object} detail */
  #say(type, detail) {
    return this.dispatchEvent(new CustomEvent(`qr-login:${type}`, { detail, bubbles: true, composed: true, cancelable: true }));
  }

  /** @param {string} name @param {() => void} act */
  #button(name, act) {
    const button = make(`button.${name}`, { type: "button" });
    button.addEventListener("click", act);
    return button;
  }

  #renew_if_seen() {
    if (this.hasAttribute("auto-refresh") && this.state.name === "expired" && !document.hidden) this.refresh();
  }

  #not_you() {
    this.#say("not-you", {});
    this.refresh();
  }

  async #copy_link() {
    const text = this.state.qr_url ?? "";
    try {
      await navigator.clipboard.writeText(text);
      this.#copied = true;
    } catch {
      // A page on plain http has no such clipboard.
      const field = /** @type {HTMLTextAreaElement} */ (make("textarea.sr", {}, text));
      this.#foot.append(field);
      field.select();
      this.#copied = document.execCommand("copy");
      field.remove();
      this.#copy.focus();
    }
    this.#show();
    setTimeout(() => {
      this.#copied = false;
      this.#show();
    }, 2000);
  }

  /** The language of the page here, if there is it, else of the browser. */
  #language() {
    const of = (/** @type {string} */ tag, parts = 9) => tag.toLowerCase().split("-", parts).join();
    const wanted = /** @type {HTMLElement | null} */ (this.closest("[lang]"))?.lang || navigator.language;
    const tags = Object.keys(languages);
    return tags.find((tag) => of(tag) === of(wanted)) ?? tags.find((tag) => of(tag, 1) === of(wanted, 1)) ?? "en";
  }

  #show() {
    const { name, qr_image = "", qr_url = "", user, number, reason } = this.state;
    const tag = this.#language();
    const words = languages[tag];
    const state = name === "idle" ? "loading" : name;
    const had_focus = this.#root.activeElement;
    const is_open = /ready|scanned/.test(state);
    const who = `${user?.name ?? ""}`;
    // (Many an app token does not say who it is.)
    const person = /scanned|confirmed/.test(state) && (who || user?.picture) ? [this.#avatar, this.#name] : [];
    const numbers = state === "scanned" && number ? [this.#number] : [];
    // Whoever is on the phone already has nothing to scan it with.
    const is_on_phone = state === "ready" && matchMedia("(pointer: coarse) and (max-width: 40rem)").matches;

    this.#frame.lang = tag;
    this.#frame.className = `frame ${state}${this.#login.is_connected ? "" : " away"}`;
    const faces = [...numbers, ...person];
    const code = /loading|ready|expired/.test(state) ? this.#code : this.#sign;
    this.#stage.replaceChildren(...(is_on_phone ? [this.#sign, this.#open] : faces.length ? faces : [code]));
    if (this.#picture.src !== qr_image) this.#picture.src = qr_image;
    this.#picture.hidden = !qr_image || state === "loading";
    this.#picture.alt = words.picture;
    this.#spin.hidden = state !== "loading";
    this.#open.href = qr_url;
    this.#number.textContent = number ?? "";
    this.#name.textContent = who;
    this.#name.hidden = !who;
    this.#face(user, who);
    this.#path.setAttribute("d", is_on_phone ? PHONE : signs[state] ?? "");

    const key = /** @type {keyof Language} */ (is_on_phone ? "on_phone" : numbers.length ? "number" : state);
    this.#put(this.#message, words[key]);
    const hint = /** @type {keyof Language} */ (/overload|claimed/.test(reason ?? "") ? reason : `${key}_hint`);
    this.#put(this.#hint, words[hint] ?? "");
    this.#put(this.#notice, this.#login.is_connected ? "" : words.offline);
    this.#label.textContent = words.left;
    this.#cannot_scan.textContent = is_on_phone ? "" : words.cannot_scan;
    const { cancel, again, resume, not_you } = this.#actions;
    for (const [button, text, is_there] of /** @type {[HTMLElement, string, boolean][]} */ ([
      [this.#renew, words.refresh, state === "expired"],
      [this.#open, words.open, true],
      [this.#copy, this.#copied ? words.copied : words.copy, true],
      [cancel, words.cancel, is_open],
      [again, state === "blocked" ? words.retry : words.refresh, /rejected|cancelled|blocked/.test(state)],
      [resume, words.resume, state === "replaced"],
      [not_you, words.not_you, state === "confirmed"],
    ])) {
      this.#put(button, text);
      button.hidden = !is_there;
    }
    this.#tick();
    if (!is_open) this.#ticking = void clearInterval(this.#ticking);
    else if (this.#shown) this.#ticking ??= setInterval(() => this.#tick(), 1000);
    // Whoever was here with the keyboard stays here.
    if (had_focus && !this.#root.activeElement) {
      const next = [this.#renew, ...Object.values(this.#actions)].find((button) => !button.hidden && button.isConnected);
      (next ?? this.#frame).focus();
    }
  }

  /** Their picture, or as long as that is not there their initials. @param {import("./core.js").User | undefined} user @param {string} who */
  #face(user, who) {
    const key = `${user?.picture} ${who}`;
    if (this.#avatar.dataset.of === key) return;
    this.#avatar.dataset.of = key;
    this.#avatar.replaceChildren(initials(who));
    if (!user?.picture) return;
    const picture = /** @type {HTMLImageElement} */ (make("img", { src: user.picture, alt: "", referrerpolicy: "no-referrer" }));
    picture.onload = () => this.#avatar.dataset.of === key && this.#avatar.replaceChildren(picture);
  }

  /** Nothing that stays as it is is announced again. @param {HTMLElement} element @param {string} text */
  #put(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  #tick() {
    const { ends_at = 0, lasts_ms = 1 } = this.state;
    const left_ms = Math.max(0, ends_at - performance.now());
    const seconds = Math.ceil(left_ms / 1000);
    this.#put(this.#clock, `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`);
    this.#ring.setAttribute("stroke-dashoffset", `${1 - Math.min(1, left_ms / lasts_ms)}`);
  }
}

customElements.get("qr-login") ?? customElements.define("qr-login", QrLoginElement);
