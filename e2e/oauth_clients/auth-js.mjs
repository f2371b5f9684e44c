import assert from "node:assert/strict";
import { ada } from "./stage.mjs";

export default async function story(stage) {
  const page = await stage.visitor();
  await page.getByRole("link", { name: "Log in" }).click();
  await page.getByRole("button", { name: "Sign in with QR code" }).click();
  await stage.approvePage(page);
  await page.locator("#user").waitFor();
  assert.equal(page.url(), `${stage.url}/`);
  assert.equal(await page.locator("p").innerText(), `You are ${ada.name}, ${ada.email}.`);
  await page.getByRole("link", { name: "Log out" }).click();
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByRole("link", { name: "Log in" }).waitFor();
  return "logged in and out";
}
