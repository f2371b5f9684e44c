// Makes the README's pictures of the demo: node screenshots.mjs URL DIRECTORY, with `qrlogin demo` at the URL.
import { join } from "node:path";
import { chromium } from "playwright-core";

const [base, directory] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"],
});
const state = (page, name) => page.locator(`.card[data-state="${name}"]`).waitFor();

for (const colorScheme of ["light", "dark"]) {
  const shoot = (page, name) => page.screenshot({ path: join(directory, `${name}-${colorScheme}.png`) });
  const desktop = await browser.newContext({ viewport: { width: 560, height: 680 }, colorScheme });
  const page = await desktop.newPage();
  const generated = page.waitForResponse(/\/generate$/);
  await page.goto(base);
  const { qr_url } = await (await generated).json();
  await state(page, "ready");
  await page.waitForFunction(() => document.querySelector('[data-role="left"]').textContent);
  await shoot(page, "demo-ready");

  const mobile = { viewport: { width: 390, height: 680 }, isMobile: true, hasTouch: true, deviceScaleFactor: 1 };
  const phone = await (await browser.newContext({ ...mobile, colorScheme })).newPage();
  await phone.goto(qr_url);
  await phone.getByRole("button", { name: "Ada" }).waitFor();
  await shoot(phone, "phone-choosing");
  await phone.getByRole("button", { name: "Ada" }).tap();
  await state(phone, "asking");
  await shoot(phone, "demo-asking");
  await state(page, "scanned");
  await shoot(page, "demo-scanned");
  await phone.getByRole("button", { name: "Yes" }).tap();
  await state(page, "confirmed");
  await page.setViewportSize({ width: 560, height: 1000 });
  await shoot(page, "demo-confirmed");
  await shoot(phone, "phone-confirmed");
  await page.setViewportSize({ width: 560, height: 680 });
  await page.getByRole("button", { name: "Not you?" }).click();
  await state(page, "ready");
  await page.getByRole("button", { name: "Cancel" }).click();
  await state(page, "cancelled");
  await shoot(page, "demo-cancelled");
}
await browser.close();
