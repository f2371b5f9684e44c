import assert from "node:assert/strict";
import { ada } from "./stage.mjs";

export default async function story(stage) {
  const page = await stage.visitor();
  await page.getByRole("link", { name: "Log in" }).click();
  await stage.approvePage(page);
  await page.locator("#user").waitFor();
  assert.equal(page.url(), `${stage.url}/`);
  assert.equal(await page.locator("p").innerText(), `You are ${ada.name}, ${ada.email}.`);
  await page.getByRole("button", { name: "Log out" }).click();
  await page.getByRole("link", { name: "Log in" }).waitFor();
  assert.equal(page.url(), `${stage.url}/`);

  const users = await stage.runProgram("device.py");
  assert.deepEqual(users.map(({ email }) => email), [ada.email, ada.email]);
  return "logged in and out; device grant, refreshed";
}
