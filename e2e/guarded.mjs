// The demo's pages where codes rotate and numbers are compared.
import assert from "node:assert/strict";
import {
  at, part, advance, choose, desktop, expectRefusal, logIn, message, phone, scan, state, runStories,
} from "./stage.mjs";

const shown = (page) => page.locator(".numbers button").allInnerTexts();
const rotated = (page, before) =>
  page.waitForFunction((before) => document.querySelector("qr-login").state.qr_url !== before, before);

const stories = {
  async "the code rotates, and a code that is scanned in time is valid"() {
    const { page, session } = await desktop();
    await advance(20);
    await rotated(page, session.qr_url);
    const url = await scan(page);
    assert.notEqual(url, session.qr_url);
    await advance(20);
    await rotated(page, url);
    const late = await phone(session.qr_url);
    await logIn(late, "Alan Turing");
    await at(late, "failed");
    assert.match(await message(late), /^Code expired/);
    expectRefusal(410);
    await choose(await phone(url), "Ada Lovelace");
    await state(page, "scanned");
  },

  async "the number on the page confirms"() {
    const { page, session } = await desktop();
    const other = await phone(session.qr_url);
    await choose(other, "Ada Lovelace");
    await state(page, "scanned");
    const number = await part(page, "number").innerText();
    assert.match(number, /^[1-9][0-9]$/);
    const numbers = await shown(other);
    assert(numbers.length === 3 && numbers.includes(number), `${number} of ${numbers}`);
    assert.equal(await other.getByRole("button", { name: "Yes" }).count(), 0);
    await page.reload();
    await state(page, "scanned");
    assert.equal(await part(page, "number").innerText(), number);
    await other.getByRole("button", { name: number }).tap();
    await at(other, "confirmed");
    await state(page, "confirmed");
  },

  async "another number rejects"() {
    const { page, session } = await desktop();
    const other = await phone(session.qr_url);
    await choose(other, "Grace Hopper");
    await state(page, "scanned");
    const number = await part(page, "number").innerText();
    const wrong = (await shown(other)).find((shown) => shown !== number);
    await other.getByRole("button", { name: wrong }).tap();
    await at(other, "failed");
    assert.match(await message(other), /not the number/);
    await state(page, "rejected");
    expectRefusal(403);
  },
};

await runStories(stories);
