import assert from "node:assert/strict";
import { ada } from "./stage.mjs";

/** Single sign-on: the server knows the browser for an hour. */
export const prepare = (stage) => {
  stage.settings.QRLOGIN_SSO__TTL_SECONDS = "3600";
};

export default async function story(stage) {
  const page = await stage.visitor();
  const logIn = () => page.getByRole("link", { name: "Log in" }).click();
  await logIn();
  await stage.approvePage(page);
  await page.locator("#user").waitFor();
  assert.equal(page.url(), `${stage.url}/`);
  assert.equal(await page.locator("p").innerText(), `You are ${ada.name}, ${ada.email}.`);

  // The site forgets the user, and the server does not.
  await page.context().clearCookies({ domain: "127.0.0.1" });
  await page.reload();
  await logIn();
  await page.locator("#user").waitFor();

  // The logout at the server ends its session in this browser too.
  await page.getByRole("button", { name: "Log out" }).click();
  await page.getByRole("link", { name: "Log in" }).waitFor();
  assert.equal(page.url(), `${stage.url}/`);
  await logIn();
  await stage.scan(page);

  const users = await stage.runProgram("device.py");
  assert.deepEqual(users.map(({ email }) => email), [ada.email, ada.email]);
  return "logged in, by single sign-on too, and out; device grant, refreshed";
}
