// The files of the languages, for elements and pages: each has the texts of English.
import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";

const directory = new URL("../languages/", import.meta.url);
const read = (name) => JSON.parse(readFileSync(new URL(name, directory), "utf8"));
const names = readdirSync(directory);
const en = read("en.json");
/** Texts that are the same in another language. */
const SAME = [
  "de.json: approve.browser",
  "de.json: approve.system",
  ...["de", "es", "zh-CN"].map((tag) => `${tag}.json: page.dir`),
];

/** Returns the texts by path, as in `login.ready`. */
const flatten = (sections) =>
  Object.entries(sections).flatMap(([section, texts]) =>
    Object.entries(texts).map(([key, text]) => [`${section}.${key}`, text]),
  );
const placeholders = (text) => (text.match(/\{\w+\}/g) ?? []).sort();

test("the languages are English, Chinese, German and Spanish", () => {
  assert.deepEqual(names, ["de.json", "en.json", "es.json", "zh-CN.json"]);
});

test("the sections are those of the elements and of the pages", () => {
  assert.deepEqual(Object.keys(en), ["login", "approve", "page"]);
});

for (const name of names) {
  test(`${name} has the keys of English, in their order`, () => {
    const keys = (sections) => flatten(sections).map(([key]) => key);
    assert.deepEqual(keys(read(name)), keys(en));
  });

  test(`${name} has a text for each key, with the placeholders of English`, () => {
    const english = Object.fromEntries(flatten(en));
    for (const [key, text] of flatten(read(name))) {
      assert.match(text, /^\S(.*\S)?$/, key);
      assert.deepEqual(placeholders(text), placeholders(english[key]), key);
      if (name !== "en.json" && !SAME.includes(`${name}: ${key}`)) assert.notEqual(text, english[key], key);
    }
  });
}
