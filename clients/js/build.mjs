// Makes what the server serves, dist/, out of the sources, and puts its hash into the READMEs: `npm run build`. With
// --check, only says whether it is so.
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";
import { minify } from "terser";

const here = (path) => new URL(path, import.meta.url).pathname;
const { version } = JSON.parse(readFileSync(here("package.json")));
const checks = process.argv.includes("--check");
/** In bytes, with gzip. */
const limits = { "qr-login.js": 8192, "core.js": 4096 };

/** The custom properties that are not for others, each with a short name. @type {Map<string, string>} */
const short = new Map();
const shorten = (name) => short.get(name) ?? short.set(name, String.fromCharCode(97 + short.size)).get(name);

/** esbuild leaves strings as they are: the style sheet is one. */
const style = {
  name: "style",
  setup: ({ onLoad }) =>
    onLoad({ filter: /element\.js$/ }, ({ path }) => ({
      contents: readFileSync(path, "utf8").replace(/(?<=const sheet = `)[^`]*/, (css) =>
        css.replace(/\s+/g, " ").replace(/ ?([{};,>~/]) ?| (?=!)|(?<=e) (?=\+)|(?<=\+) (?=[ac])/g, "$1").replace(/: /g, ":").replace(/;}/g, "}").replace(/="(\w+)"/g, "=$1").trim()
          .replace(/--(?!qr-login-)([a-z-]+)/g, (_, name) => `--${shorten(name)}`)),
      loader: "js",
    })),
};

/** Of a second language only the words are kept: their keys are those of the first. */
const words = {
  name: "words",
  setup: ({ onLoad }) =>
    onLoad({ filter: /zh-CN\.js$/ }, async ({ path }) => {
      const [{ en }, { zh_CN }] = await Promise.all(["./languages/en.js", path].map((file) => import(file)));
      const list = JSON.stringify(Object.keys(en).map((key) => zh_CN[key]).join("|"));
      const fill = `const words = ${list}.split("|"); for (const key in en) zh_CN[key] = words.shift();`;
      return { contents: `import { en } from "./en.js";\nexport const zh_CN = {}; ${fill}`, loader: "js", resolveDir: here("languages") };
    }),
};

/** Makes the file at `path` be this, or only looks whether it is. */
function put(path, text) {
  if (!checks) writeFileSync(here(path), text);
  else if (readFileSync(here(path), "utf8") !== text) throw new Error(`${path} is not of these sources: npm run build`);
}

for (const [name, source] of [["qr-login.js", "element.js"], ["core.js", "core.js"]]) {
  const { outputFiles } = await build({
    entryPoints: [here(source)],
    bundle: true,
    minify: true,
    mangleProps: /^(refusal|worked|silent|retry_after_ms)$/,
    format: "esm",
    target: "es2022",
    banner: { js: `/*! qr-login ${version}, MIT/Apache-2.0 */` },
    plugins: [style, words],
    write: false,
  });
  // (This is 1 % smaller than what esbuild makes of it.)
  const compress = { passes: 4, keep_fargs: false, pure_getters: true, unsafe_arrows: true };
  const format = { comments: "some", ascii_only: true };
  const { code: text } = await minify(outputFiles[0].text, { module: true, ecma: 2022, compress, format });
  const bytes = gzipSync(text, { level: 9 }).length;
  console.log(`dist/${name}: ${text.length} bytes, ${bytes} with gzip`);
  if (bytes > limits[name]) throw new Error(`dist/${name} is larger than ${limits[name]} bytes`);
  put(`dist/${name}`, text);
  if (name !== "qr-login.js") continue;
  const tag = `/js/${version}/${name}" crossorigin="anonymous"\n  integrity="sha384-${createHash("sha384").update(text).digest("base64")}"`;
  for (const page of ["../../README.md", "../../README.zh-CN.md"]) {
    const shown = /\/js\/[^"]*" crossorigin="anonymous"\s+integrity="[^"]*"/;
    put(page, readFileSync(here(page), "utf8").replace(shown, tag));
  }
}
