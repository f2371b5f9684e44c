// Checks of a page's layout and accessibility, in Playwright and Puppeteer.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

export const LANGUAGES = ["en", "zh-CN", "de", "es"];
const axe = readFileSync(new URL("node_modules/axe-core/axe.min.js", import.meta.url), "utf8");

/** Returns the elements that reach out of the page, with text at a percentage of its size. Runs in the page. */
const cutOff = (percent) => {
  if (percent !== 100) document.documentElement.style.fontSize = `${percent}%`;
  const isCutOff = (element) => {
    const { left, right } = element.getBoundingClientRect();
    return left < -1 || right > innerWidth + 1;
  };
  const parts = [...document.querySelectorAll("main, main *")];
  parts.push(...parts.flatMap(({ shadowRoot }) => [...(shadowRoot?.querySelectorAll("*") ?? [])]));
  const found = parts.filter(isCutOff).map(({ outerHTML }) => outerHTML);
  // A word that is too long does not widen its element.
  if (document.documentElement.scrollWidth > innerWidth) found.push("text");
  document.documentElement.style.fontSize = "";
  return found;
};

/** Shows the page from right to left, in mirrored letters. Runs in the page. */
const mirrorPage = () => {
  document.documentElement.dir = "rtl";
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) texts.currentNode.data = `\u202e${texts.currentNode.data}\u202c`;
};

export const mirror = (page) => page.evaluate(mirrorPage);

/** Fails if axe finds a violation. */
export async function checkAccessibility(page, what) {
  await page.evaluate(axe);
  const violations = await page.evaluate(async () => {
    const found = await globalThis.axe.run();
    return found.violations.map(({ id, nodes }) => [id, nodes.map(({ html }) => html)]);
  });
  assert.deepEqual(violations, [], what);
}

/** Fails if an element reaches out of the page. */
export async function checkWidth(page, what, percent = 100) {
  assert.deepEqual(await page.evaluate(cutOff, percent), [], `${what}, text at ${percent} %`);
}
