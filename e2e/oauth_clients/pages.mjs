// Checks that docs/clients has the settings of examples/oauth.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { examples } from "./stage.mjs";

const directory = fileURLToPath(new URL("../../docs/clients", import.meta.url));

const CLIENT_URL = "http$<colon>$<slashes>127.0.0.1$<colon>3000";

/** Replaces the hosts of a page by those of the examples. */
const withExampleHosts = (text) =>
  text
    .replaceAll("https://login.example.com", "http://localhost:8080")
    // A URL in the query of another one is percent-encoded.
    .replaceAll(/https(?<colon>:|%3A)(?<slashes>\/\/|%2F%2F)[\w-]+\.example\.com/g, CLIENT_URL)
    .replace(/[\w-]+\.example\.com/g, "127.0.0.1:3000");

/**
 * Fails if a page that names its example has other lines in a block than the files of the example. Lines between two
 * empty ones must be together in one file.
 */
export function checkPages() {
  for (const page of readdirSync(directory).filter((name) => name !== "README.md")) {
    const text = readFileSync(join(directory, page), "utf8");
    const example = /\(\.\.\/\.\.\/examples\/oauth\/([\w-]+)\/README\.md\)/.exec(text)?.[1];
    if (!example) {
      const isHonest = text.includes("not been run");
      assert(isHonest, `docs/clients/${page} names no example, and does not say that it has not been run`);
      continue;
    }
    const files = readdirSync(join(examples, example), { withFileTypes: true }).filter((entry) => entry.isFile());
    const contents = files.map(({ name }) => readFileSync(join(examples, example, name), "utf8"));
    for (const [, block] of text.matchAll(/^```\w+\n([^]*?)^```$/gm)) {
      for (const lines of withExampleHosts(block).split(/\n\n+/).map((part) => part.trim()).filter(Boolean)) {
        const isThere = contents.some((content) => content.includes(lines));
        assert(isThere, `docs/clients/${page} has lines that no file in examples/oauth/${example} has:\n${lines}`);
      }
    }
  }
}
