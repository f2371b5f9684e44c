import assert from "node:assert/strict";
import { ada } from "./stage.mjs";

export const maxSeconds = 120;

export default async function story(stage) {
  const page = await stage.visitor();
  await page.getByRole("link", { name: "Log in" }).click();
  await page.getByRole("link", { name: "QR code" }).click();
  await page.getByRole("button", { name: "Continue" }).click();
  await stage.approvePage(page);
  await page.locator("#user").waitFor();
  assert.equal(page.url(), `${stage.url}/`);
  assert.equal(await page.locator("p").innerText(), `You are ${ada.preferred_username}, ${ada.email}.`);
  await page.getByRole("link", { name: "Log out" }).click();
  await page.getByRole("button", { name: "Sign Out" }).click();
  await page.getByRole("link", { name: "Log in" }).waitFor();
  return "logged in and out";
}
