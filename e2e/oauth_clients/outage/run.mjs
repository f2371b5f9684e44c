// Runs the attempts of clients during outages of the store: node run.mjs QRLOGIN SECONDS NAME…, with the durations of
// outages separated by commas. scripts/oauth-clients installs what this needs, and starts it.
import { chromium } from "playwright-core";
import { Stage, freePort, pause } from "../stage.mjs";
import { attempts } from "./attempts.mjs";
import { Gate } from "./gate.mjs";
import { KINDS, Postgres } from "./store.mjs";

const [qrlogin, list, ...names] = process.argv.slice(2);
const durations = list.split(",").map(Number);
/** In place of a failure of the store: the request waits before the server, which shows the client's own time limit. */
const LATE = "late";
/** The outages: a kind, the number of results of the store that pass before others are lost, and durations. */
const outages = [
  { kind: "refuses", durations },
  { kind: "stalls", durations },
  // A request has several statements. Each of these outages loses the result of another one.
  ...[0, 1, 2, 3].map((passing) => ({ kind: "loses", passing, durations: [6, 12] })),
  { kind: LATE, durations: [12, 25, 55] },
];
/** Time after an outage in which the server connects to its store again. Users need longer to begin again. */
const RECOVERY_MILLISECONDS = 2000;

/** Attempts at the same time. They wait most of the time. */
const WORKERS = 4;

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"],
});
const postgres = await Postgres.start();
/** What has begun, and has not ended. */
const begun = new Set();
let ending;
/** Ends what has begun, once. */
function end() {
  ending ??= Promise.all([...begun].map((item) => item.end()))
    .then(() => browser.close())
    .then(() => postgres.end());
  return ending;
}
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => end().finally(() => process.exit(1)));

/** An outage of a store, which an attempt begins with its token request. */
function outageOf(store, { kind, passing }, seconds) {
  const outage = {
    begin() {
      outage.since = performance.now();
      if (kind !== LATE) store.fail(kind, passing);
      outage.ended = pause(seconds * 1000).then(() => kind !== LATE && store.restore());
      return kind === LATE ? outage.ended : undefined;
    },
    /** The client has shown its result. */
    isAnswered() {
      outage.waitedSeconds ??= ((performance.now() - outage.since) / 1000).toFixed(1);
    },
  };
  return outage;
}

/** Names an outage. */
function describe({ kind, passing }) {
  if (kind === LATE) return "answer is late";
  return `store ${kind}${passing ? ` after ${passing} results` : ""}`;
}

/** Makes an attempt during an outage, and another one after it. Returns the results as a line. */
async function measure(attempt, { stage, gate, store }, planned, seconds) {
  const outage = outageOf(store, planned, seconds);
  const run = { stage, gate, outage };
  const shown = await attempt(run);
  outage.isAnswered();
  const responses = gate.responses();
  await outage.ended;
  await pause(RECOVERY_MILLISECONDS);
  const shownAgain = await attempt({ ...run, outage: undefined });
  const first = shown === undefined ? "succeeded" : `failed (${shown})`;
  const second = shownAgain === undefined ? "succeeded" : `FAILED (${shownAgain}; ${gate.responses()})`;
  return `${first} after ${outage.waitedSeconds} s, the next one ${second}; token endpoint: ${responses}`;
}

/** Makes an attempt of a client during each outage. It has a server, a store and an installed client of its own. */
async function runAttempt(name, what, attempt) {
  const stage = new Stage(name, qrlogin, browser);
  begun.add(stage);
  try {
    const { prepare } = await import(`../${name}.mjs`);
    const store = await postgres.database();
    begun.add(store);
    let gate;
    await stage.start(async () => {
      await prepare?.(stage);
      const port = await freePort();
      // Without single sign-on, so that each login needs the phone.
      stage.settings = { QRLOGIN_LISTEN: `127.0.0.1:${port}`, QRLOGIN_DATABASE_URL: store.url };
      gate = await Gate.listen(Number(new URL(stage.issuer).port), port);
      begun.add(gate);
    });
    for (const planned of outages) {
      for (const seconds of planned.durations) {
        const result = await measure(attempt, { stage, gate, store }, planned, seconds);
        console.log(`${name}, ${what}, ${describe(planned)}, ${seconds} s: ${result}`);
      }
    }
  } catch (error) {
    process.exitCode = 1;
    console.error(`${name}, ${what}: broke off: ${error.stack}\n${await stage.pages()}\n${stage.logs()}`);
  } finally {
    await stage.end();
    begun.delete(stage);
  }
}

const tasks = names.flatMap((name) => Object.entries(attempts[name] ?? {}).map((entry) => [name, ...entry]));
async function work() {
  for (let task = tasks.shift(); task; task = tasks.shift()) await runAttempt(...task);
}

for (const [kind, meaning] of Object.entries(KINDS)) console.log(`a store that ${kind}: ${meaning}`);
try {
  await Promise.all(Array.from({ length: WORKERS }, work));
} finally {
  await end();
}
// Some handle kept the process alive in a few runs, after everything had ended.
process.exit();
