// Runs the stories of clients in examples/oauth, two at a time: node run.mjs QRLOGIN NAME…. The story of a client is
// the default export of NAME.mjs in this directory. scripts/oauth-clients installs what this needs, and starts it.
import { chromium } from "playwright-core";
import { checkPages } from "./pages.mjs";
import { Stage, within } from "./stage.mjs";

const [program, ...names] = process.argv.slice(2);

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
  ],
});
/** Stages that have not ended. */
const stages = new Set();
async function end() {
  await Promise.all([...stages].map((stage) => stage.end()));
  await browser.close();
}
// A signal ends what was started, and this process with it.
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => end().finally(() => process.exit(1)));

const begun = performance.now();
const seconds = (since) => ((performance.now() - since) / 1000).toFixed(1);
const failed = [];

/** Runs the story of a client, and prints the result. */
async function run(name) {
  const since = performance.now();
  const stage = new Stage(name, program, browser);
  stages.add(stage);
  try {
    const { default: story, prepare, maxSeconds = 60 } = await import(`./${name}.mjs`);
    const shown = await within(maxSeconds, async () => {
      await stage.start(prepare);
      return story(stage);
    });
    stage.checkFaults();
    console.log(`${name}: ${shown}; ${seconds(since)} s, of which ${stage.setupSeconds} s to install and start`);
  } catch (error) {
    failed.push(name);
    console.error(`${name}: failed after ${seconds(since)} s: ${error.stack}\n${await stage.pages()}\n${stage.logs()}`);
  } finally {
    await stage.end();
    stages.delete(stage);
  }
}

/** Runs stories until none is left. */
async function work() {
  for (let name = names.shift(); name; name = names.shift()) await run(name);
}

try {
  checkPages();
  // While one client is installed, another one logs in.
  await Promise.all([work(), work()]);
} finally {
  await end();
}
if (failed.length) console.error(`failed: ${failed.join(", ")}`);
else console.log(`all passed in ${seconds(begun)} s`);
process.exitCode = failed.length ? 1 : 0;
