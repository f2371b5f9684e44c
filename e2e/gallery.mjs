// Every state of the elements: accessible and whole in every language; those of <qr-login> are of one size.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { base, desktop, expectRefusal, part, runStories, scans, state, visitor } from "./stage.mjs";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core"), "utf8");

const languages = ["en", "zh-CN", "de", "es"];

/** What axe-core finds on this page. */
async function violations(page) {
  // (The policy of the page does not apply to what is evaluated in it from here.)
  await page.evaluate(axe);
  const runOnly = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
  const { violations } = await page.evaluate((runOnly) => window.axe.run(document, { runOnly }), runOnly);
  return violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.target.flat().join(" ")).join("; ")}`);
}

const poses = "[data-pose]";

async function gallery(query, options = {}) {
  const page = await visitor({ viewport: { width: 1300, height: 900 }, ...options });
  await page.goto(`${base}/demo/gallery?${query}`);
  await page.locator(poses).first().waitFor();
  const hasLanguage = () =>
    [...document.querySelectorAll("[data-pose]")].every(({ shadowRoot }) => !shadowRoot.querySelector(".waits"));
  await page.waitForFunction(hasLanguage);
  return page;
}

/** Measures the parts of each pose, and finds those that are clipped or overlap. Runs in the page. */
const measurePoses = () => {
  const findComplaints = (root, frame) => {
    const parts = [...root.querySelectorAll("p, button, a, dt, dd, .code, .avatar, .sign, .number, .left")];
    const isVisible = (part) => part.checkVisibility({ visibilityProperty: true }) && part.textContent + part.className;
    const boxes = parts
      .filter(isVisible)
      .map((part) => ({ name: part.className, box: part.getBoundingClientRect(), part }))
      .filter(({ box }) => box.width && box.height);
    const complaints = [];
    for (const { name, box, part } of boxes) {
      const isOutside = box.left < frame.left || box.right > frame.right || box.bottom > frame.bottom;
      if (isOutside) complaints.push(`${name} sticks out`);
      if (part.scrollWidth > part.clientWidth + 1 && name !== "name") complaints.push(`${name} is clipped`);
      for (const other of boxes) {
        if (other.part.contains(part) || part.contains(other.part)) continue;
        const width = Math.min(box.right, other.box.right) - Math.max(box.left, other.box.left);
        const height = Math.min(box.bottom, other.box.bottom) - Math.max(box.top, other.box.top);
        if (width > 1 && height > 1) complaints.push(`${name} overlaps ${other.name}`);
      }
    }
    return complaints;
  };
  return [...document.querySelectorAll("[data-pose]")].map((element) => {
    const root = element.shadowRoot;
    const frame = root.querySelector(".frame").getBoundingClientRect();
    const topOf = (selector) => Math.round(root.querySelector(selector).getBoundingClientRect().top - frame.top);
    return {
      pose: element.dataset.pose,
      height: Math.round(frame.height),
      stage: topOf(".stage"),
      actions: topOf(".actions"),
      complaints: findComplaints(root, frame),
    };
  });
};

/** Shows the page from right to left, in a language of mirrored English. Runs in the page. */
const mirror = async () => {
  for (const name of ["qr-login", "qr-approve"]) {
    const { languages } = await import(`/js/${name}.js`);
    const mirrored = Object.entries(languages.en).map(([key, text]) => [key, `\u202e${text}\u202c`]);
    languages["ar-XB"] = Object.fromEntries(mirrored);
  }
  document.documentElement.dir = "rtl";
  document.documentElement.lang = "ar-XB";
  for (const element of document.querySelectorAll("[data-pose]")) element.setAttribute("lang", "ar-XB");
};

const sizes = { desktop: {}, phone: { viewport: { width: 320, height: 700 }, isMobile: true, hasTouch: true } };

const stories = {
  async "no state has an accessibility violation, in any theme and language"() {
    for (const options of Object.values(sizes)) {
      for (const element of ["qr-login", "qr-approve"]) {
        for (const query of languages.flatMap((lang) => [`lang=${lang}&theme=light`, `lang=${lang}&theme=dark`])) {
          const page = await gallery(`element=${element}&${query}`, options);
          assert.deepEqual(await violations(page), [], `${element} ${query}`);
          await page.context().close();
        }
      }
    }
  },

  async "a state of <qr-approve> is whole in every language, from right to left, and with text at 200 %"() {
    for (const [size, options] of Object.entries(sizes)) {
      for (const lang of languages) {
        for (const percent of [100, 200]) {
          const page = await gallery(`element=qr-approve&lang=${lang}`, options);
          await page.evaluate((percent) => (document.documentElement.style.fontSize = `${percent}%`), percent);
          if (lang === "en") await page.evaluate(mirror);
          for (const { pose, complaints } of await page.evaluate(measurePoses)) {
            assert.deepEqual(complaints, [], `${size} ${lang} ${percent} % ${pose}`);
          }
          assert.deepEqual(percent === 200 ? await violations(page) : [], []);
          await page.context().close();
        }
      }
    }
  },

  async "the demo's page has no accessibility violation"() {
    for (const colorScheme of ["light", "dark"]) {
      const { page, session } = await desktop({ options: { colorScheme } });
      assert.deepEqual(await violations(page), []);
      const other = await scans(session);
      await state(page, "scanned");
      assert.deepEqual(await violations(page), []);
      await other.confirms();
      await state(page, "confirmed");
      assert.deepEqual(await violations(page), []);
    }
  },

  async "all states are of one size, and nothing in them is clipped or overlaps"() {
    for (const [size, options] of Object.entries(sizes)) {
      for (const query of [...languages.map((lang) => `lang=${lang}`), "lang=en&dir=rtl"]) {
        const page = await gallery(query, options);
        if (query.includes("rtl")) await page.evaluate(mirror);
        const found = await page.evaluate(measurePoses);
        for (const { pose, complaints, ...measures } of found) {
          assert.deepEqual(complaints, [], `${size} ${query} ${pose}`);
          const { pose: _, complaints: __, ...first } = found[0];
          assert.deepEqual(measures, first, `${size} ${query} ${pose}`);
        }
        await page.context().close();
      }
    }
  },

  async "the code is dark on light with a quiet zone in the dark theme"() {
    const page = await gallery("theme=dark&only=ready", { colorScheme: "dark" });
    const colours = await page.locator("[data-pose=ready]").evaluate(async (element) => {
      const picture = element.shadowRoot.querySelector("img");
      const [canvas, size] = [document.createElement("canvas"), 400];
      canvas.width = canvas.height = size;
      const context = canvas.getContext("2d");
      context.drawImage(picture, 0, 0, size, size);
      const { data } = context.getImageData(0, 0, size, size);
      const brightness = (x, y) => {
        const offset = 4 * (y * size + x);
        const alpha = data[offset + 3];
        return data[offset] * (alpha / 255) + 255 - alpha;
      };
      let dark = size;
      for (let y = 0; y < size; y++) {
        for (let x = 0; x < size; x++) {
          if (brightness(x, y) < 128) dark = Math.min(dark, x, y);
        }
      }
      return { zone: dark / size, ground: getComputedStyle(element.shadowRoot.querySelector(".code")).backgroundColor };
    });
    assert.equal(colours.ground, "rgb(255, 255, 255)");
    assert(colours.zone > 4 / 50, `quiet zone: ${colours.zone}`);
  },

  async "the accessibility tree follows a login in order"() {
    const { page, session } = await desktop();
    const tree = () => page.locator("qr-login").ariaSnapshot();
    const status = () => page.locator("qr-login").getByRole("status").innerText();
    const said = [await status()];
    const ready = [
      'heading "qrlogin"', 'img "QR code to scan with your phone"', "status: Scan to log in",
      "timer: Expires in [0-9:]+", 'button "Cancel"', 'button "Copy link"',
    ];
    assert.match(await tree(), new RegExp(ready.join("[^]*")));
    const other = await scans(session);
    await state(page, "scanned");
    said.push(await status());
    assert.match(await tree(), /Ada Lovelace[^]*status: Check your phone[^]*Confirm there[^]*button "Cancel"/);
    assert.doesNotMatch(await tree(), /img "QR|Copy link/);
    await other.confirms();
    await state(page, "confirmed");
    said.push(await status());
    assert.match(await tree(), /Ada Lovelace[^]*status: You are logged in[^]*button "Not you\?"/);
    assert.deepEqual(said, ["Scan to log in", "Check your phone", "You are logged in"]);
  },

  async "an element has the language of the page, and loads it once"() {
    const page = await visitor();
    const files = [];
    page.on("request", (request) => files.push(...request.url().split("/languages/").slice(1)));
    await page.goto(`${base}/demo/gallery?lang=en`);
    const expectations = {
      "de-AT": "Zum Anmelden scannen",
      es: "Escanear para acceder",
      zh: "扫码登录",
      "zh-TW": "扫码登录",
      "ZH-cn": "扫码登录",
      fr: "Scan to log in",
      "en-GB": "Scan to log in",
    };
    const ready = page.locator("[data-pose=ready]");
    await ready.waitFor();
    for (const [lang, expected] of Object.entries(expectations)) {
      await ready.evaluate((element, lang) => element.setAttribute("lang", lang), lang);
      await ready.getByText(expected, { exact: true }).waitFor();
    }
    assert.deepEqual(files, ["de.json", "es.json", "zh-CN.json"]);
  },

  async "an element shows nothing in English while its language arrives, for at most a second"() {
    const page = await visitor();
    let release;
    const released = new Promise((resolve) => (release = resolve));
    await page.route("**/languages/de.json", async (route) => {
      await released;
      await route.continue();
    });
    await page.goto(`${base}/demo/gallery?lang=de&only=ready`);
    const opacity = () => page.locator(".frame").evaluate((frame) => getComputedStyle(frame).opacity);
    await page.getByText("Scan to log in").waitFor();
    assert.equal(await opacity(), "0");
    await page.waitForFunction(() => {
      const { shadowRoot } = document.querySelector("qr-login-pose");
      return getComputedStyle(shadowRoot.querySelector(".frame")).opacity === "1";
    });
    release();
    await page.getByText("Zum Anmelden scannen").waitFor();
  },

  async "a language whose file was altered stays English"() {
    const page = await visitor();
    let requests = 0;
    await page.route("**/languages/es.json", (route) => {
      requests++;
      return route.fulfill({ json: { login: { ready: "altered" } }, headers: { "access-control-allow-origin": "*" } });
    });
    await page.clock.install();
    await page.goto(`${base}/demo/gallery?lang=es&only=ready`);
    await page.getByText("Scan to log in").waitFor();
    while (requests < 3) await page.clock.runFor(1000);
    await page.locator(".frame:not(.waits)").waitFor();
    assert.equal(await page.locator(".message").innerText(), "Scan to log in");
    assert.equal(await page.locator(".frame").getAttribute("lang"), "en");
    expectRefusal("integrity");
  },

  async "a page can add a language, and need not translate every text"() {
    const page = await gallery("");
    const texts = await page.evaluate(async () => {
      const { languages } = await import("/js/qr-login.js");
      languages.fr = { ready: "Scanner pour se connecter" };
      const element = document.querySelector("[data-pose=ready]");
      element.setAttribute("lang", "fr");
      return [".message", ".cancel"].map((name) => element.shadowRoot.querySelector(name).textContent);
    });
    assert.deepEqual(texts, ["Scanner pour se connecter", "Cancel"]);
  },

  async "reduced motion stops all animations"() {
    const page = await gallery("", { reducedMotion: "reduce" });
    const running = await page.evaluate(() => {
      const elements = [...document.querySelectorAll("qr-login-pose")];
      const animations = elements.flatMap((element) => element.shadowRoot.getAnimations?.() ?? []);
      return animations.filter(({ playState }) => playState === "running").length;
    });
    assert.equal(running, 0);
  },
};

await runStories(stories);
