import assert from "node:assert/strict";
import { ada } from "./stage.mjs";

/** JupyterHub has packages of PyPI and npm. */
export const maxSeconds = 300;

export default async function story(stage) {
  const page = await stage.visitor();
  await page.getByRole("button", { name: "QR code" }).click();
  await stage.approvePage(page);
  const header = page.locator("nav");
  await header.getByText(ada.sub, { exact: true }).waitFor();
  assert.equal(page.url(), `${stage.url}/hub/home`);

  await header.getByRole("button", { name: "Logout" }).click();
  await page.getByRole("button", { name: "QR code" }).waitFor();
  assert.equal(page.url(), `${stage.url}/hub/login`);

  const other = await stage.visitor();
  await other.getByRole("button", { name: "QR code" }).click();
  await stage.rejectPage(other);
  await other.getByRole("heading", { name: "OAuth error" }).waitFor();
  return "logged in and out; rejected";
}
