// @ts-check
// The languages of an element: English is part of its module, and the others are files beside it.
import { pause } from "../core/pause.js";

/** Hashes of the files in languages/, by tag. The build replaces this name. */
const hashes = LANGUAGE_HASHES;
/** Pauses before the attempts to load a file. */
const PAUSES_MS = [0, 1000, 4000];

/** The texts of one element. @template {Record<string, string>} Texts */
export class Languages {
  /** Texts by tag, as far as they are loaded. A page can add others. @type {Record<string, Texts>} */
  loaded;
  #en;
  #section;
  /** Files that are being loaded, and null for those that were. @type {Record<string, Promise<void> | null>} */
  #loading = {};

  /** @param {string} section section of the files that has the texts of this element @param {Texts} en */
  constructor(section, en) {
    this.loaded = { en };
    this.#en = en;
    this.#section = section;
  }

  /**
   * Returns the texts for an element and the tag of their language: that of the surrounding page, or else of the
   * browser, or else English. If its file is not loaded yet, returns English with `isLoading`.
   * @param {HTMLElement} element @param {() => void} onLoad called when the file is loaded, or cannot be loaded
   */
  find(element, onLoad) {
    const wanted = /** @type {HTMLElement | null} */ (element.closest("[lang]"))?.lang || navigator.language;
    const normalize = (/** @type {string} */ tag, /** @type {number} */ parts) =>
      tag.toLowerCase().split("-", parts).join();
    const match = (/** @type {number} */ parts) =>
      Object.keys({ ...this.loaded, ...hashes }).find((tag) => normalize(tag, parts) === normalize(wanted, parts));
    const tag = match(9) ?? match(1) ?? "en";
    const texts = this.loaded[tag];
    if (texts) return { tag, texts: { ...this.#en, ...texts } };
    if (this.#loading[tag] === undefined) this.#loading[tag] = this.#load(tag);
    const isLoading = this.#loading[tag]?.then(onLoad);
    return { tag: "en", texts: this.#en, isLoading };
  }

  /** @param {string} tag */
  async #load(tag) {
    // The hash makes a file of another version, or one that was altered, an error.
    const init = /** @type {const} */ ({ integrity: `sha256-${hashes[tag]}`, credentials: "omit" });
    for (const pauseMs of PAUSES_MS) {
      try {
        await pause(pauseMs);
        const response = await fetch(new URL(`languages/${tag}.json`, import.meta.url), init);
        this.loaded[tag] ??= (await response.json())[this.#section];
        break;
      } catch {
        // The texts stay English.
      }
    }
    this.#loading[tag] = null;
  }
}
