// Builds dist/, which the server embeds, from the sources, and writes its hash into the READMEs: `npm run build`. With
// --check, fails if they are not up to date.
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { gzipSync } from "node:zlib";
import { build, transform } from "esbuild";
import { minify } from "terser";

const here = (path) => new URL(path, import.meta.url).pathname;
const { version } = JSON.parse(readFileSync(here("package.json")));
const isCheck = process.argv.includes("--check");

const bundles = [
  { name: "qr-login.js", source: "element.js", maxGzipBytes: 8192 },
  { name: "core.js", source: "core.js", maxGzipBytes: 4096 },
];

/** Properties that only our own modules use, and that have no name in common with the wire or the DOM. */
const internalProperties = /^(refusal|worked|silent|retryAfterMs)$/;

/** Imports a style sheet as text. Custom properties that are internal get short names. */
const style = {
  name: "style",
  setup: ({ onLoad }) =>
    onLoad({ filter: /\.css$/ }, async ({ path }) => {
      const { code } = await transform(await readFile(path, "utf8"), { loader: "css", minify: true });
      const shortNames = new Map();
      const shorten = (name) => {
        if (!shortNames.has(name)) shortNames.set(name, String.fromCharCode(97 + shortNames.size));
        return `--${shortNames.get(name)}`;
      };
      const contents = code
        .trim()
        // esbuild keeps white space in the values of custom properties.
        .replace(/([:,/]) | (?=\/)/g, "$1")
        .replace(/="(\w+)"/g, "=$1")
        .replace(/--(?!qr-login-)([a-z-]+)/g, (_, name) => shorten(name));
      return { contents, loader: "text" };
    }),
};

/** Replaces the second language by its texts: its keys are those of English. */
const secondLanguage = {
  name: "second language",
  setup: ({ onLoad }) =>
    onLoad({ filter: /zh-CN\.js$/ }, async ({ path }) => {
      const [{ en }, { zhCN }] = await Promise.all([import("./languages/en.js"), import(path)]);
      const texts = JSON.stringify(Object.keys(en).map((key) => zhCN[key]).join("|"));
      const contents = `
        import { en } from "./en.js";
        export const zhCN = {};
        const texts = ${texts}.split("|");
        for (const key in en) zhCN[key] = texts.shift();
      `;
      return { contents, loader: "js", resolveDir: here("languages") };
    }),
};

/** Returns the text of a bundle. */
async function bundle(source) {
  const { outputFiles } = await build({
    entryPoints: [here(source)],
    bundle: true,
    minify: true,
    mangleProps: internalProperties,
    format: "esm",
    target: "es2022",
    banner: { js: `/*! qr-login ${version}, MIT/Apache-2.0 */` },
    plugins: [style, secondLanguage],
    write: false,
  });
  // terser's output is 1 % smaller than that of esbuild alone.
  const { code } = await minify(outputFiles[0].text, {
    module: true,
    ecma: 2022,
    compress: {
      passes: 4,
      keep_fargs: false,
      lhs_constants: false,
      pure_getters: true,
      // These assume that built-in objects and getters are as the language defines them.
      unsafe: true,
      unsafe_arrows: true,
    },
    format: { comments: "some", ascii_only: true },
  });
  return code;
}

/** Writes a file, or fails with --check if its content is another. */
function put(path, text) {
  if (!isCheck) writeFileSync(here(path), text);
  else if (readFileSync(here(path), "utf8") !== text) throw new Error(`${path} is not up to date: npm run build`);
}

/** Writes the address and the hash of the element into the READMEs. */
function putIntegrity(name, text) {
  const hash = createHash("sha384").update(text).digest("base64");
  const attributes = `/js/${version}/${name}" crossorigin="anonymous"\n  integrity="sha384-${hash}"`;
  for (const page of ["../../README.md", "../../README.zh-CN.md"]) {
    const pattern = /\/js\/[^"]*" crossorigin="anonymous"\s+integrity="[^"]*"/;
    put(page, readFileSync(here(page), "utf8").replace(pattern, attributes));
  }
}

for (const { name, source, maxGzipBytes } of bundles) {
  const text = await bundle(source);
  const bytes = gzipSync(text, { level: 9 }).length;
  console.log(`dist/${name}: ${text.length} bytes, ${bytes} with gzip`);
  if (bytes > maxGzipBytes) throw new Error(`dist/${name} is larger than ${maxGzipBytes} bytes`);
  put(`dist/${name}`, text);
  if (name === "qr-login.js") putIntegrity(name, text);
}
