// Makes pictures, with `qrlogin demo` at the URL: node screenshots.mjs URL DIRECTORY
// Of every state of both elements, in each language, theme and size: DIRECTORY/ELEMENT-SIZE-LANGUAGE-THEME.png, and each
// state by itself in a directory of that name. For the README: DIRECTORY/readme/*.png.
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { chromium } from "playwright-core";

const [base, directory] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"],
});
const sizes = {
  desktop: { viewport: { width: 1400, height: 900 } },
  phone: { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true, deviceScaleFactor: 1 },
};

async function gallery(options, query) {
  const page = await (await browser.newContext(options)).newPage();
  await page.goto(`${base}/demo/gallery?${query}`);
  await page.locator("[data-pose]").first().waitFor();
  return page;
}

/** Makes the pictures of an element in a size, a language and a theme. */
async function sheet(element, size, lang, theme) {
  const path = join(directory, `${element}-${size}-${lang}-${theme}`);
  mkdirSync(path, { recursive: true });
  const options = { ...sizes[size], colorScheme: theme };
  const page = await gallery(options, `element=${element}&lang=${lang}&theme=${theme}`);
  // The text that there is no connection appears after a second.
  await page.waitForTimeout(1500);
  await page.screenshot({ path: `${path}.png`, fullPage: true });
  for (const pose of await page.locator("[data-pose]").all()) {
    const name = await pose.getAttribute("data-pose");
    await pose.screenshot({ path: join(path, `${name.replaceAll(/\W+/g, "-")}.png`) });
  }
  await page.context().close();
}

for (const element of ["qr-login", "qr-approve"]) {
  for (const size of Object.keys(sizes)) {
    for (const lang of ["en", "zh-CN", "de", "es"]) {
      for (const theme of ["light", "dark"]) await sheet(element, size, lang, theme);
    }
  }
}

const readme = join(directory, "readme");
mkdirSync(readme, { recursive: true });
for (const theme of ["light", "dark"]) {
  const states = ["ready", "scanned", "number", "confirmed", "expired", "reconnecting"];
  const width = { viewport: { width: 1120, height: 600 }, colorScheme: theme };
  const page = await gallery(width, `theme=${theme}&${states.map((state) => `only=${state}`).join("&")}`);
  await page.waitForTimeout(1500);
  await page.locator("header").evaluate((header) => {
    header.hidden = true;
  });
  await page.screenshot({ path: join(readme, `states-${theme}.png`), fullPage: true });
  await page.context().close();
}
for (const theme of ["light", "dark"]) {
  const options = { viewport: { width: 560, height: 680 }, colorScheme: theme };
  const desktop = await (await browser.newContext(options)).newPage();
  const generated = desktop.waitForResponse(/\/generate$/);
  await desktop.goto(base);
  const { qr_url } = await (await generated).json();
  await desktop.locator("qr-login .frame.ready").waitFor();
  if (theme === "light") await desktop.screenshot({ path: join(readme, "demo-ready-light.png") });
  const size = { viewport: { width: 390, height: 744 } };
  const phone = await (await browser.newContext({ ...sizes.phone, ...size, colorScheme: theme })).newPage();
  await phone.goto(qr_url);
  await phone.getByRole("button", { name: "Ada" }).tap();
  await phone.locator(".ask .facts").waitFor();
  await phone.screenshot({ path: join(readme, `demo-asking-${theme}.png`) });
  await phone.getByRole("button", { name: "Yes, log me in" }).tap();
  await phone.locator(".good").waitFor();
  await phone.setViewportSize({ width: 390, height: 240 });
  await phone.screenshot({ path: join(readme, `demo-confirmed-${theme}.png`) });
}
await browser.close();
