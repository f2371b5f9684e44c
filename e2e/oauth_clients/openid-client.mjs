import assert from "node:assert/strict";
import { ada } from "./stage.mjs";

/** The server reads the public key of the service when it starts. */
export const prepare = (stage) => stage.runFile("keys.mjs");

export default async function story(stage) {
  const page = await stage.visitor("/login");
  const code = await stage.scan(page);
  await stage.phone("scan", code);
  const since = performance.now();
  await stage.phone("confirm", code);
  await page.locator("#user").waitFor();
  const milliseconds = Math.round(performance.now() - since);
  assert.equal(page.url(), `${stage.url}/`);
  assert.equal(await page.locator("p").innerText(), `You are ${ada.name}, ${ada.email}.`);

  for (let count = 0; count < 2; count++) {
    await Promise.all([page.waitForNavigation(), page.getByRole("button", { name: "Refresh" }).click()]);
    assert.equal(await page.locator("#user").innerText(), ada.name);
  }

  await page.getByRole("button", { name: "Log out" }).click();
  await page.getByRole("link", { name: "Log in" }).waitFor();
  assert.equal(page.url(), `${stage.url}/`);

  // Without single sign-on, the next login needs a phone again. This phone rejects it.
  await page.getByRole("link", { name: "Log in" }).click();
  const other = await stage.scan(page);
  assert.notEqual(other, code);
  await stage.phone("scan", other);
  await stage.phone("reject", other);
  await page.locator("#error").waitFor();
  assert.equal(await page.locator("#error").innerText(), "access_denied");

  const withoutScripts = await stage.visitor("/login", { javaScriptEnabled: false });
  await stage.approvePage(withoutScripts);
  await withoutScripts.locator("#user").waitFor();

  const [user] = await stage.runProgram("device.mjs");
  assert.equal(user.email, ada.email);

  const [access, refresh, revoked] = await stage.runProgram("service.mjs");
  assert.equal(access.active, true);
  assert.equal(access.sub, ada.sub);
  assert.equal(access.client_id, "service");
  assert.equal(refresh.active, true);
  assert.deepEqual(revoked, { active: false });
  const shown = "refreshed, logged out, rejected; logged in without scripts; device grants, introspection, revocation";
  return `logged in ${milliseconds} ms after the phone confirmed; ${shown}`;
}
