// CopilotKit's public key in the browser: there while its user has it in use, and never for anybody else; and
// Clerk's library, of which the page runs the pinned bytes only.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { ANN, BOB, hold, launch, LOCAL_URL, PRODUCTION_URL, saves, settled, signIn, watch } from "./browser.mjs";
import { packaged, VERSION } from "./clerk.mjs";

let browser;
before(async () => { browser = await launch(); });
after(() => browser.close());

const FIRST = "ck_pub_first0123456789";
const SECOND = "ck_pub_second0123456789";
const PATH = "api/onboarding/api-keys";
const card = (page) => page.locator("[data-provider=copilotkit]");
const stored = (page) => page.evaluate(() => localStorage.getItem("copilotkit_api_key"));
const owner = (page) => page.evaluate(() => localStorage.getItem("copilotkit_api_key_owner"));
const anything = (page) => page.evaluate(() => Object.keys(localStorage).length);
const press = async (page, name) => { await card(page).getByRole("button", { name }).click(); await settled(page); };
const remove = async (page) => { await press(page, /Delete/); await page.getByRole("dialog").getByRole("button", { name: "Delete key" }).click(); await settled(page); };
async function save(page, key) {
  await card(page).locator("input").fill(key);
  await page.keyboard.press("Enter");
  await settled(page);
}
/** As the user, past the page. */
const call = (page, method, path, data) => page.evaluate(async ([method, path, token, data]) => {
  const headers = { "content-type": "application/json", ...(token ? { authorization: `Bearer ${token}` } : {}) };
  return (await fetch(path, { method, headers, ...(data ? { body: JSON.stringify(data) } : {}) })).status;
}, [method, path, page.user?.token, data]);

/** The page in a mode, without a key; what the app around it is told is in `window.told`. */
const MODES = {
  Local: async () => at(LOCAL_URL, null),
  Production: async () => at(PRODUCTION_URL, ANN),
};
async function at(url, user, context) {
  context ??= await browser.newContext();
  const page = await context.newPage();
  page.setDefaultTimeout(10_000);
  await watch(page);
  page.user = user;
  if (user) page.become = await signIn(page, user);
  await page.addInitScript(() => {
    window.told = [];
    window.addEventListener("copilotkit-key-updated", ({ detail }) => window.told.push(detail.apiKey));
  });
  await page.goto(url);
  await shown(page);
  await call(page, "DELETE", `/${PATH}`);
  await page.reload();
  await shown(page);
  await page.evaluate(() => { window.told = []; });
  return page;
}
async function shown(page) {
  await page.locator("[data-provider=wavespeed]").waitFor();
  await settled(page);
}

for (const [mode, open] of Object.entries(MODES)) {
  test(`${mode}: it is stored with its owner and goes when the key is paused, deleted or replaced`, async () => {
    const page = await open();
    await save(page, FIRST);
    assert.equal(await stored(page), FIRST);
    assert.equal(await owner(page), page.user?.id ?? "local");
    await save(page, SECOND);
    assert.equal(await stored(page), SECOND);
    await press(page, /Pause/);
    assert.equal(await anything(page), 0);
    await press(page, /Go on/);
    assert.equal(await stored(page), SECOND);
    await remove(page);
    assert.equal(await anything(page), 0);
    assert.deepEqual(await page.evaluate(() => window.told), [FIRST, SECOND, "", SECOND, ""]);
    await page.context().close();
  });

  test(`${mode}: after a restore the former key is stored`, async () => {
    const page = await open();
    await save(page, FIRST);
    await save(page, SECOND);
    await press(page, /Bring back/);
    assert.equal(await stored(page), FIRST);
    await press(page, /Bring back/);
    assert.equal(await stored(page), SECOND);
    await page.context().close();
  });

  test(`${mode}: what changed elsewhere counts when the page is opened`, async () => {
    const page = await open();
    await save(page, FIRST);
    await call(page, "POST", `/${PATH}`, { provider: "copilotkit", api_key: SECOND });
    await page.reload();
    await shown(page);
    assert.equal(await stored(page), SECOND);
    await call(page, "DELETE", `/${PATH}/copilotkit`);
    await page.reload();
    await shown(page);
    assert.equal(await anything(page), 0);
    await page.context().close();
  });

  test(`${mode}: it goes when the key expires, on an open page and on one that is opened later`, async () => {
    const page = await open();
    const now = Date.now();
    await page.clock.install({ time: now });
    await page.reload();
    await shown(page);
    await save(page, FIRST);
    const hour = new Date(now + 3_600_000).toISOString();
    assert.equal(await call(page, "PATCH", `/${PATH}/copilotkit`, { expires_at: hour }), 200);
    await page.reload();
    await shown(page);
    assert.equal(await stored(page), FIRST);
    await page.clock.fastForward("59:00");
    assert.equal(await stored(page), FIRST);
    await page.clock.fastForward("02:00");
    assert.equal(await anything(page), 0);
    await page.evaluate(([value, owner]) => { localStorage.setItem("copilotkit_api_key", value); localStorage.setItem("copilotkit_api_key_owner", owner); }, [FIRST, page.user?.id ?? "local"]);
    await page.reload();
    await shown(page);
    assert.equal(await anything(page), 0);
    await page.context().close();
  });

  for (const secret of ["sk-ant-a-secret-key-by-mistake-0001", "ck_priv_0123456789abcdef", "ck_pub_", "CK_PUB_0123456789"]) {
    test(`${mode}: ${secret} is not stored, nor what a server says is a key`, async () => {
      const page = await open();
      await save(page, secret);
      await card(page).getByText("begins with ck_pub_").waitFor();
      assert.equal(await card(page).locator("input").inputValue(), secret);
      assert.equal(await anything(page), 0);
      // A server from before the rule takes it.
      const held = await hold(page, saves);
      await page.keyboard.press("Enter");
      (await held.next()).letGo((route) => route.fulfill({ json: { message: "", provider: "copilotkit", status: "saved", key: { provider: "copilotkit", hint: "", kid: "01ARZ3NDEKTSV4RRFFQ69G5FAV", version: 1, check: "skipped" } } }));
      await settled(page);
      assert.equal(await anything(page), 0);
      assert.deepEqual(await page.evaluate(() => window.told), [], "not for a moment");
      await page.context().close();
    });
  }
}

test("one user's key is never there for another", async () => {
  const page = await MODES.Production();
  await save(page, FIRST);
  await page.become(BOB).catch(() => undefined);
  await page.getByText("Signed in as bob@app.test").waitFor();
  await shown(page);
  assert.equal(await anything(page), 0);
  // Nor when the change was seen by no page.
  await page.evaluate(([value, owner]) => { localStorage.setItem("copilotkit_api_key", value); localStorage.setItem("copilotkit_api_key_owner", owner); }, [FIRST, ANN.id]);
  await page.reload();
  await shown(page);
  assert.equal(await anything(page), 0);
  // Nor one that names nobody.
  await page.evaluate((value) => localStorage.setItem("copilotkit_api_key", value), FIRST);
  await page.reload();
  await shown(page);
  assert.equal(await anything(page), 0);
  await page.context().close();
});

for (const [name, leave] of [["signing out", (page) => page.getByRole("button", { name: "Sign out" }).click()], ["being signed out elsewhere", (page) => page.become(null).catch(() => undefined)]]) {
  test(`it goes with ${name}`, async () => {
    const page = await MODES.Production();
    await save(page, FIRST);
    await leave(page);
    await page.getByRole("button", { name: "Sign in" }).waitFor();
    assert.equal(await anything(page), 0);
    await page.context().close();
  });
}

test("a save that is answered after the next user has come stores nothing", async () => {
  const page = await MODES.Production();
  const held = await hold(page, saves);
  await card(page).locator("input").fill(FIRST);
  await page.keyboard.press("Enter");
  const post = await held.next();
  // Both in the page's same turn, before it is gone.
  await page.evaluate(() => { window.addEventListener("beforeunload", () => { for (const end = Date.now() + 300; Date.now() < end;); }); });
  await Promise.all([page.become(BOB).catch(() => undefined), post.letGo((route) => route.fulfill({ json: { message: "", provider: "copilotkit", status: "saved", key: { provider: "copilotkit", hint: "6789", kid: "01ARZ3NDEKTSV4RRFFQ69G5FAV", version: 1, check: "skipped" } } }).catch(() => undefined))]);
  await page.getByText("Signed in as bob@app.test").waitFor();
  await shown(page);
  assert.equal(await anything(page), 0);
  await page.context().close();
});

test("a secret that was saved before the rule is shown to no browser", async () => {
  const page = await MODES.Production();
  const answer = (keys) => (route) => route.fulfill({ json: { api_keys: keys, keys: [{ provider: "copilotkit", kid: "01ARZ3NDEKTSV4RRFFQ69G5FAV" }], configured_providers: [], total_providers: 11 } });
  const record = { provider: "copilotkit", kid: "01ARZ3NDEKTSV4RRFFQ69G5FAV", hint: "0001", version: 1, status: "unverified", enabled: true, created_at: "2026-01-01T00:00:00Z", updated_at: "2026-01-01T00:00:00Z", expires_at: null, previous: null, age_days: 1, stale: false, last_used_at: null };
  await page.route(`**/${PATH}`, (route) => route.fulfill({ json: { api_keys: { copilotkit: "************0001" }, keys: [record], configured_providers: ["copilotkit"], total_providers: 11 } }));
  for (const keys of [{}, { copilotkit: "sk-ant-a-secret-key-by-mistake-0001" }]) {
    await page.route(`**/${PATH}/onboarding?*`, answer(keys));
    await page.reload();
    await shown(page);
    assert.equal(await anything(page), 0);
  }
  await page.context().close();
});

/** Signed out, with `bytes` in the place of Clerk's file. */
async function with_library(bytes) {
  const page = await browser.newPage();
  page.setDefaultTimeout(10_000);
  const asked = [];
  await page.route("https://clerk.test/**", (route) => {
    asked.push(route.request().url());
    return asked.length > 1 ? route.abort() : route.fulfill({ contentType: "text/javascript", headers: { "access-control-allow-origin": "*" }, body: bytes });
  });
  await page.goto(PRODUCTION_URL);
  return { page, asked };
}

test("Clerk's library runs as the npm package has it, and not with one byte changed", async () => {
  const bytes = packaged();
  const whole = await with_library(bytes);
  await whole.page.waitForFunction(() => window.Clerk);
  assert.equal(whole.asked[0], `https://clerk.test/npm/@clerk/clerk-js@${VERSION}/dist/clerk.browser.js`);
  await whole.page.close();
  const changed = Buffer.concat([bytes, Buffer.from("\n")]);
  const other = await with_library(changed);
  await other.page.getByText("The sign-in service cannot be reached").waitFor();
  assert.equal(await other.page.evaluate(() => window.Clerk), undefined);
  await other.page.close();
});
