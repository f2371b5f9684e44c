// @ts-check
// The code from the URL of the page. It is kept for the tab, because the user may have to log in first.

/** Key of the code in the storage of the tab. */
const KEY = "qr-approve";
/** Time for which a code is kept whose session is unknown, in milliseconds. */
const KEPT_MS = 600_000;
/** A code in a URL: `#CODE`, `#code=CODE` or `?code=CODE`. Codes have 28 characters. */
const IN_URL = /([?#&])(?:code=|(?<=#))([\w-]{28})(?:&|(?=#)|$)/;
/** A response of an OAuth server has a code and a state. */
const IS_OAUTH = /[?#&]state=/;

/** Returns the storage of the tab, if the page has one. @returns {Storage | undefined} */
function tabStorage() {
  try {
    return globalThis.sessionStorage;
  } catch {
    // A page in a sandbox has no storage.
  }
}

/**
 * Stores a code for a time, and returns whether this was possible.
 * @param {string} code @param {number} ms @param {Storage | null} [storage]
 */
export function storeCode(code, ms, storage = tabStorage()) {
  try {
    // The wall clock is the only one that pages share.
    storage?.setItem(KEY, JSON.stringify({ code, ends_at: Date.now() + ms }));
    return !!storage;
  } catch {
    return false;
  }
}

/** Removes the kept code. @param {Storage | null} [storage] */
export function forgetCode(storage = tabStorage()) {
  try {
    storage?.removeItem(KEY);
  } catch {
    // There is nothing to remove.
  }
}

/**
 * Returns the code in the URL of the page. Keeps it for the tab, and removes it from the address bar. If the URL has no
 * code, returns the code that was kept before.
 * @param {Storage | null} [storage] default: sessionStorage
 * @returns {string | undefined}
 */
export function keepCode(storage = tabStorage()) {
  const href = globalThis.location?.href ?? "";
  const [found = "", , code] = IN_URL.exec(href) ?? [];
  if (code && !(found.includes("code=") && IS_OAUTH.test(href))) {
    // Without storage, the URL continues to have the code.
    if (storeCode(code, KEPT_MS, storage)) {
      history.replaceState(history.state, "", href.replace(IN_URL, (text, first) => (text.endsWith("&") ? first : "")));
    }
    return code;
  }
  try {
    const kept = JSON.parse(storage?.getItem(KEY) ?? "{}");
    if (kept.ends_at > Date.now()) return kept.code;
  } catch {
    // The storage is blocked, or has something else.
  }
}
