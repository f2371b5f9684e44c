import assert from "node:assert/strict";
import { appendFileSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { ada } from "./stage.mjs";

/** Changes the settings of the module: the server answers in a form. */
async function useForm(stage) {
  const log = join(stage.data, "error.log");
  const starts = () => readFileSync(log, "utf8").split("resuming normal operations").length;
  const before = starts();
  appendFileSync(join(stage.data, "openidc.conf"), "OIDCResponseMode form_post\n");
  process.kill(Number(readFileSync(join(stage.data, "apache.pid"), "utf8")), "SIGHUP");
  while (starts() === before) await new Promise((next) => setTimeout(next, 50));
}

async function logsIn(stage, page) {
  await page.getByRole("link", { name: "Log in" }).click();
  const answer = page.waitForRequest((request) => request.url().startsWith(`${stage.url}/oidc/callback`));
  await stage.approvePage(page);
  await page.locator("#user").waitFor();
  assert.equal(page.url(), `${stage.url}/members/`);
  const shown = (await page.locator("p").innerText()).replace(/\s+/g, " ");
  assert.equal(shown, `You are ${ada.name}, ${ada.email}, ${ada.sub}.`);
  return (await answer).method();
}

export default async function story(stage) {
  const page = await stage.visitor();
  assert.equal(await logsIn(stage, page), "GET");
  await page.getByRole("link", { name: "Log out" }).click();
  await page.waitForURL(`${stage.url}/`);
  // The page is protected again.
  await page.goto(`${stage.url}/members/`);
  await stage.scan(page);

  await useForm(stage);
  assert.equal(await logsIn(stage, await stage.visitor()), "POST");
  return "logged in and out; logged in by form_post";
}
