// Logins and refreshes of the clients, by the directory of examples/oauth. An attempt begins the outage, if there is
// one, before its token request, and ends when the client has ended it. It returns what the client shows, or nothing if
// the client shows no error. The second attempt has no outage. It begins a login again, or repeats a refresh.
import assert from "node:assert/strict";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { examples, pause } from "../stage.mjs";

/** Longer than the longest outage and the time limits of all clients after it. */
const patient = { timeout: 150_000 };

const textOf = async (page) => (await page.locator("body").innerText()).replace(/\s+/g, " ").slice(0, 90);

/** Scans a code and confirms. A token request is passed on when this has ended and `then` has been run. */
async function confirm({ stage, gate }, code, then) {
  await stage.phone("scan", code);
  const confirmed = gate.waitBeforeNext(then);
  await stage.phone("confirm", code);
  confirmed();
}

/**
 * A login in a browser: `begin` goes from the client's first page to the server's page, and `user` is what the client
 * shows after a login.
 */
const site = (begin, user = (page) => page.locator("#user")) => async (run) => {
  const page = await run.stage.visitor();
  try {
    await begin(page);
    await confirm(run, await run.stage.scan(page), run.outage?.begin);
    await page.waitForURL((url) => url.origin === run.stage.url, patient);
    run.outage?.isAnswered();
    const isLoggedIn = await user(page).waitFor({ timeout: 5000 }).then(() => true, () => false);
    return isLoggedIn ? undefined : await textOf(page);
  } finally {
    await page.context().close();
  }
};

/** Starts a program that logs in by the device grant. Returns its process and its last lines. */
async function start(run, [file, ...args], stdin) {
  run.gate.deviceUrl = undefined;
  const { stage } = run;
  const child = stage.spawn(file, args, stage.environment, "program.log", { stdin, stdout: "pipe" });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  while (!run.gate.deviceUrl) {
    assert(child.exitCode === null, `${file} has ended`);
    await pause(20);
  }
  return { child, lines };
}

/** A login of a program. */
const program = (command) => async (run) => {
  const { child } = await start(run, command(run.stage));
  const ended = once(child, "exit");
  await confirm(run, run.gate.deviceUrl, run.outage?.begin);
  const [status] = await ended;
  return status ? `exit code ${status}` : undefined;
};
const file = (name) => program((stage) => [join(examples, stage.name, "run"), name]);

/** A refresh of the site with openid-client, which keeps its refresh token if it gets no other one. */
const refreshOfSite = async (run) => {
  const { stage, gate, outage } = run;
  if (outage) {
    run.page = await stage.visitor("/login");
    await confirm(run, await stage.scan(run.page));
  } else {
    await run.page.goto(stage.url);
  }
  await run.page.locator("#user").waitFor();
  gate.waitBeforeNext(outage?.begin)();
  const isResponse = (response) => response.url() === `${stage.url}/refresh`;
  const [response] = await Promise.all([
    run.page.waitForResponse(isResponse, patient),
    run.page.getByRole("button", { name: "Refresh" }).click({ noWaitAfter: true }),
  ]);
  await run.page.waitForLoadState();
  const shown = response.status() === 302 ? undefined : await textOf(run.page);
  outage?.isAnswered();
  if (!outage) await run.page.context().close();
  return shown;
};

/** A refresh of refresh.py, which keeps its refresh token if it gets no other one. */
const refreshOfProgram = async (run) => {
  const { stage, gate, outage } = run;
  if (outage) {
    const command = [join(stage.data, "venv/bin/python"), join(import.meta.dirname, "refresh.py")];
    run.program = await start(run, command, "pipe");
    await confirm(run, gate.deviceUrl);
    assert.equal((await run.program.lines.next()).value, "logged in");
  }
  gate.waitBeforeNext(outage?.begin)();
  run.program.child.stdin.write("\n");
  const { value } = await run.program.lines.next();
  outage?.isAnswered();
  if (!outage) run.program.child.stdin.end();
  return value === "refreshed" ? undefined : value.slice(0, 120);
};

/** Clicks a link, and then a button if it is named. */
const click = (link, button) => async (page) => {
  await page.getByRole("link", { name: link }).click();
  if (button) await page.getByRole("button", { name: button }).click();
};
const qrloginLogin = program((stage) => [stage.program, "login", "--issuer", stage.issuer, "--client-id", "program"]);

export const attempts = {
  "openid-client": {
    "code grant": site(click("Log in")),
    "device grant": file("device.mjs"),
    "device grant with private_key_jwt": file("service.mjs"),
    "refresh": refreshOfSite,
    "qrlogin login": qrloginLogin,
  },
  "auth-js": { "code grant": site(click("Log in", "Sign in with QR code")) },
  "authlib": { "code grant": site(click("Log in")), "device grant": file("device.py"), "refresh": refreshOfProgram },
  "mozilla-django-oidc": { "code grant": site(click("Log in")) },
  "django-allauth": {
    "code grant": site(async (page) => {
      await click("Log in")(page);
      await click("QR code", "Continue")(page);
    }),
  },
  "mod_auth_openidc": { "code grant": site(click("Log in")) },
  "lemonldap": { "code grant": site(async () => {}, (page) => page.getByText("Connected as ada")) },
  "jupyterhub": {
    "code grant": site(
      (page) => page.getByRole("button", { name: "QR code" }).click(),
      (page) => page.locator("nav").getByText("ada", { exact: true }),
    ),
  },
};
