import assert from "node:assert/strict";
import { ada } from "./stage.mjs";

/** pgAdmin and its packages have 600 MB, and its first start makes its database. */
export const maxSeconds = 400;

export default async function story(stage) {
  const page = await stage.visitor();
  await page.getByRole("button", { name: "QR code" }).click();
  await stage.approvePage(page);
  const user = page.getByRole("button", { name: `${ada.sub} (qrlogin)` });
  await user.waitFor();
  assert.equal(page.url(), `${stage.url}/browser/`);
  // What pgAdmin knows of the user.
  const script = await page.request.get(`${stage.url}/user_management/current_user.js`);
  assert((await script.text()).includes(ada.email), await script.text());

  await user.click();
  await page.getByRole("menuitem", { name: "Logout" }).click();
  await page.getByRole("button", { name: "QR code" }).waitFor();
  assert.equal(new URL(page.url()).origin, stage.url);

  const other = await stage.visitor();
  await other.getByRole("button", { name: "QR code" }).click();
  await stage.rejectPage(other);
  await other.getByText("access_denied").waitFor();
  assert.equal(new URL(other.url()).origin, stage.url);
  return "logged in and out; rejected";
}
