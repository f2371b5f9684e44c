// The code in the URL of a page, which is kept while the user logs in.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Page, Storage, state, until } from "./page.js";

const timeout = 5000;
const CODE = "AbCdEfGhIjKlMnOpQrStUvWx_-01";
let imports = 0;

/** Opens a page at an address, and returns its module and its location. */
async function visit(t, path) {
  const page = await Page.open(t);
  const location = page.visit(t, path);
  const { keepCode } = await import("../approve-core.js");
  return { page, location, keepCode, path: () => location.href.replace(page.server.url, "") };
}

for (const [before, after] of [
  [`/approve#${CODE}`, "/approve"],
  [`/approve?lang=de#${CODE}`, "/approve?lang=de"],
  [`/approve?state=any#${CODE}`, "/approve?state=any"],
  [`/approve#code=${CODE}`, "/approve"],
  [`/approve#code=${CODE}&tab=2`, "/approve#tab=2"],
  [`/approve#tab=2&code=${CODE}`, "/approve#tab=2"],
  [`/approve?code=${CODE}`, "/approve"],
  [`/approve?code=${CODE}#top`, "/approve#top"],
  [`/approve?code=${CODE}&next=%2Fa+b`, "/approve?next=%2Fa+b"],
  [`/approve?next=%2Fa+b&code=${CODE}&lang=de`, "/approve?next=%2Fa+b&lang=de"],
]) {
  test(`the code is taken from ${before}`, { timeout }, async (t) => {
    const { page, keepCode, location, path } = await visit(t, before);
    assert.equal(keepCode(), CODE);
    assert.equal(path(), after);
    assert.deepEqual(location.state, { of: "the site" });
    assert.equal(page.storage.items.size, 1);
    assert.equal(keepCode(), CODE, "the kept code");
  });
}

for (const path of [
  "/approve",
  "/approve#top",
  "/approve#code=short",
  `/approve#${CODE}0`,
  `/approve?barcode=${CODE}`,
  // A response of an OAuth server belongs to the site.
  `/callback?code=${CODE}&state=xyz`,
  `/callback#state=xyz&code=${CODE}`,
]) {
  test(`no code is taken from ${path}`, { timeout }, async (t) => {
    const visited = await visit(t, path);
    assert.equal(visited.keepCode(), undefined);
    assert.equal(visited.path(), path);
    assert.equal(visited.page.storage.items.size, 0);
  });
}

test("a page without an address and without storage has no code", { timeout }, async () => {
  const { keepCode } = await import("../approve-core.js");
  assert.equal(keepCode(), undefined);
  assert.equal(keepCode(null), undefined);
});

test("the code survives a login, and is removed when it is decided", { timeout }, async (t) => {
  const page = await Page.open(t);
  const { code } = (await page.generate()).code;
  const location = page.visit(t, `/login?next=%2Fapprove#${code}`);
  await import(`../keep-code.js?import=${++imports}`);
  assert.equal(location.href, `${page.server.url}/login?next=%2Fapprove`);
  location.href = `${page.server.url}/approve`;
  const approve = await page.ask({ code: undefined });
  assert.equal(page.storage.items.size, 1);
  await approve.confirm();
  assert.equal(page.server.session.status, "confirmed");
  assert.equal(page.storage.items.size, 0);
  approve.start();
  await state(approve, "no_code");
});

test("a reload asks again", { timeout }, async (t) => {
  const page = await Page.open(t);
  const { code } = (await page.generate()).code;
  page.visit(t, `/approve#${code}`);
  (await page.ask({ code: undefined })).stop();
  const approve = await page.ask({ code: undefined });
  assert.equal(page.server.session.status, "scanned");
  await approve.reject();
  assert.equal(page.server.session.status, "rejected");
});

test("a user who is logged out keeps the code", { timeout }, async (t) => {
  const page = await Page.open(t);
  const { code } = (await page.generate()).code;
  page.visit(t, `/approve#${code}`);
  const approve = await page.approve({ token: () => null });
  approve.start();
  await state(approve, "logged_out");
  approve.stop();
  await page.ask({ code: undefined });
});

test("a code in the URL replaces the kept one", { timeout }, async (t) => {
  const page = await Page.open(t);
  const { code: first } = (await page.generate()).code;
  const location = page.visit(t, `/approve#${first}`);
  const approve = await page.ask({ code: undefined });
  const { code: second } = (await page.generate()).code;
  location.href += `#${second}`;
  approve.start();
  await until(() => page.server.sessions[1].status === "scanned");
});

test("a code is kept for ten minutes, and after its scan for as long as its session lasts", { timeout }, async (t) => {
  const { page, location, keepCode } = await visit(t, `/approve#${CODE}`);
  keepCode();
  await page.clock.advance(599_999);
  assert.equal(keepCode(), CODE);
  await page.clock.advance(1);
  assert.equal(keepCode(), undefined);
  const { code } = (await page.generate()).code;
  location.href += `#${code}`;
  (await page.ask({ code: undefined })).stop();
  await page.clock.advance(299_999);
  assert.equal(keepCode(), code);
  await page.clock.advance(1);
  assert.equal(keepCode(), undefined);
});

test("without storage, the URL keeps the code", { timeout }, async (t) => {
  for (const storage of [null, Object.assign(new Storage(), { setItem: () => { throw new DOMException("full"); } })]) {
    const { keepCode, path } = await visit(t, `/approve#${CODE}`);
    assert.equal(keepCode(storage), CODE);
    assert.equal(path(), `/approve#${CODE}`);
  }
});

test("storage that has something else has no code", { timeout }, async (t) => {
  const { page, keepCode } = await visit(t, "/approve");
  for (const text of ["", "null", "{", "5", '{"code":"x"}']) {
    page.storage.setItem("qr-approve", text);
    assert.equal(keepCode(), undefined, text);
  }
});

test("a page without a code says so", { timeout }, async (t) => {
  const page = await Page.open(t);
  page.visit(t, "/approve");
  const approve = await page.approve();
  approve.start();
  assert.equal(approve.state.name, "no_code");
  assert.deepEqual(approve.events, ["no-code"]);
  assert.deepEqual(page.sent, []);
});

test("a given code is not kept", { timeout }, async (t) => {
  const page = await Page.open(t);
  await page.generate();
  page.visit(t, "/approve");
  await page.ask();
  assert.equal(page.storage.items.size, 0);
});
