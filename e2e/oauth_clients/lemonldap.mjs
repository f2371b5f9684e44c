import assert from "node:assert/strict";
import { ada } from "./stage.mjs";

export default async function story(stage) {
  // The portal has one provider, to which it redirects at once.
  const page = await stage.visitor();
  await stage.approvePage(page);
  await page.getByText(`Connected as ${ada.sub}`).waitFor();
  assert.equal(new URL(page.url()).origin, stage.url);

  await page.getByRole("link", { name: "Logout" }).click();
  await page.getByRole("button", { name: "I'm sure" }).click();
  await page.waitForURL(`${stage.url}/?logout=1`);

  // The portal has ended its session, so that it redirects again. This user rejects.
  await page.goto(stage.url);
  await stage.rejectPage(page);
  await page.getByText("Error during authentication with OpenID Provider").waitFor();
  return "logged in and out; rejected";
}
