import assert from "node:assert/strict";
import { ada } from "./stage.mjs";

export default async function story(stage) {
  const page = await stage.visitor();
  await page.getByRole("link", { name: "Log in" }).click();
  await stage.approvePage(page);
  await page.locator("#user").waitFor();
  assert.equal(page.url(), `${stage.url}/members/`);
  const shown = (await page.locator("p").innerText()).replace(/\s+/g, " ");
  assert.equal(shown, `You are ${ada.name}, ${ada.email}, ${ada.sub}.`);
  await page.getByRole("link", { name: "Log out" }).click();
  await page.waitForURL(`${stage.url}/`);
  // The page is protected again.
  await page.goto(`${stage.url}/members/`);
  await stage.scan(page);
  return "logged in and out";
}
