// Builds dist/, which the server embeds, from the sources, and writes its hashes into the READMEs: `npm run build`. With
// --check, fails if they are not up to date. The server also embeds languages/, for its own pages.
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";
import { minify } from "terser";

const here = (path) => new URL(path, import.meta.url).pathname;
const { version } = JSON.parse(readFileSync(here("package.json")));
const isCheck = process.argv.includes("--check");

const bundles = [
  { name: "qr-login.js", source: "element.js", maxGzipBytes: 8192 },
  { name: "qr-approve.js", source: "approve.js", maxGzipBytes: 8192 },
  { name: "core.js", source: "core.js", maxGzipBytes: 4096 },
  { name: "approve-core.js", source: "approve-core.js", maxGzipBytes: 4096 },
  { name: "keep-code.js", source: "keep-code.js", maxGzipBytes: 1024 },
];

const hash = (content, algorithm = "sha384") => createHash(algorithm).update(content).digest("base64");

/** Texts of the elements by the name of their file, without those of the server's pages. */
const languages = readdirSync(here("languages")).map((name) => {
  const { login, approve } = JSON.parse(readFileSync(here(`languages/${name}`)));
  return { name, text: JSON.stringify({ login, approve }) };
});

/** Hashes of the languages other than English, which is part of the modules. A hash does not compress: SHA-256. */
const languageHashes = Object.fromEntries(
  languages
    .filter(({ name }) => name !== "en.json")
    .map(({ name, text }) => [name.replace(".json", ""), hash(text, "sha256")]),
);

/** Properties that only our own modules use, and that have no name in common with the wire or the DOM. */
const internalProperties = /^(refusal|worked|silent|retryAfterMs|isOfToken|tag|texts|isLoading|loaded|element)$/;

/** Imports a style sheet as text. Custom properties that are internal get short names. */
const style = {
  name: "style",
  setup: ({ onLoad }) =>
    onLoad({ filter: /\.css$/ }, async ({ path }) => {
      const { outputFiles } = await build({ entryPoints: [path], bundle: true, minify: true, write: false });
      const shortNames = new Map();
      const shorten = (name) => {
        if (!shortNames.has(name)) shortNames.set(name, String.fromCharCode(97 + shortNames.size));
        return `--${shortNames.get(name)}`;
      };
      const contents = outputFiles[0].text
        .trim()
        // esbuild keeps white space in the values of custom properties.
        .replace(/([:,/]) | (?=\/)/g, "$1")
        .replace(/="(\w+)"/g, "=$1")
        .replace(/--(?!qr-login-)([a-z-]+)/g, (_, name) => shorten(name));
      return { contents, loader: "text" };
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
    define: { LANGUAGE_HASHES: JSON.stringify(languageHashes) },
    plugins: [style],
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
      // Functions that are used once are not inlined, because the result compresses better.
      reduce_funcs: false,
      // These assume that built-in objects and getters are as the language defines them.
      unsafe: true,
      unsafe_arrows: true,
      unsafe_math: true,
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

/** Writes the address and the hash of a module into the pages that embed it. */
function putIntegrity(name, text) {
  const attributes = `/js/${version}/${name}" crossorigin="anonymous"\n  integrity="sha384-${hash(text)}"`;
  const pattern = new RegExp(`/js/[^"/]*/${name}" crossorigin="anonymous"\\s+integrity="[^"]*"`, "g");
  for (const page of ["../../README.md", "../../README.zh-CN.md", "README.md"]) {
    put(page, readFileSync(here(page), "utf8").replace(pattern, attributes));
  }
}

for (const { name, source, maxGzipBytes } of bundles) {
  const text = await bundle(source);
  const bytes = gzipSync(text, { level: 9 }).length;
  console.log(`dist/${name}: ${text.length} bytes, ${bytes} with gzip`);
  if (bytes > maxGzipBytes) throw new Error(`dist/${name} is larger than ${maxGzipBytes} bytes`);
  put(`dist/${name}`, text);
  putIntegrity(name, text);
}
mkdirSync(here("dist/languages"), { recursive: true });
for (const { name, text } of languages) put(`dist/languages/${name}`, text);
