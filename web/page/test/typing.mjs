// Whatever answer comes while a user is typing, every character is where it was typed and the focus is where it
// was; and a key is deleted only by who says so. No time decides: answers are held until they are let go.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { ANN, BOB, cut, generates, hold, launch, lists, LOCAL_URL, problem, PRODUCTION_URL, saves, settled, signIn, watch } from "./browser.mjs";

let browser;
before(async () => { browser = await launch(); });
after(() => browser.close());

/** The local developer's page without a key; with `keys` saved before it is opened. */
async function open(keys = {}, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(10_000);
  await watch(page);
  await page.request.delete(`${LOCAL_URL}api/onboarding/api-keys`);
  for (const [provider, api_key] of Object.entries(keys)) {
    const saved = await page.request.post(`${LOCAL_URL}api/onboarding/api-keys`, { data: { provider, api_key } });
    assert.equal(saved.status(), 200);
  }
  await page.goto(LOCAL_URL);
  await card(page, "wavespeed").waitFor();
  await page.locator("#usage figcaption").waitFor();
  await settled(page);
  return page;
}

const card = (page, provider) => page.locator(`[data-provider=${provider}]`);
const field = (page, provider) => card(page, provider).locator("input");
const value = (page, provider) => field(page, provider).inputValue();
const values = (page) => page.locator("#cards input").evaluateAll((fields) => Object.fromEntries(fields.filter(({ value }) => value).map(({ id, value }) => [id.slice(4), value])));
const focus = (page) => page.evaluate(() => ({ id: document.activeElement.id, at: document.activeElement.selectionStart ?? null }));
const focusedCard = (page) => page.evaluate(() => document.activeElement.closest("[data-provider]")?.dataset.provider ?? document.activeElement.tagName);
const status = (page, text) => page.locator("#status").filter({ hasText: text }).waitFor();
/** Types and sends, and is done when the server has the request. */
async function send(page, held, provider, key) {
  await field(page, provider).click();
  await page.keyboard.type(key);
  await page.keyboard.press("Enter");
  return held.next();
}

const HALF = ["sk-openai-secret", "-1234567890"];
const ENDS = {
  "a save": [undefined, "AQ.gemini-key-of-mine-0001", "saved"],
  "422, refused by the provider": [undefined, "bad-gemini-key-0009", "refuses this key"],
  429: [problem(429, "rate_limited", "Too many calls of this kind."), "AQ.gemini-key-of-mine-0001", "Too many calls"],
  500: [problem(500, "internal", "Something broke on our side."), "AQ.gemini-key-of-mine-0001", "broke on our side"],
  401: [problem(401, "unauthorized", "Sign in again and repeat the request."), "AQ.gemini-key-of-mine-0001", "Sign in again"],
  "a cut connection": [cut, "AQ.gemini-key-of-mine-0001", "cannot be reached"],
  "an answer that is no JSON": [(route) => route.fulfill({ status: 200, contentType: "application/json", body: "<html>" }), "AQ.gemini-key-of-mine-0001", "Try again"],
};

for (const [name, [end, key, said]] of Object.entries(ENDS)) {
  for (const other of ["openai", "exa", "wavespeed"]) {
    test(`${name} arrives while the user types the ${other} key`, async () => {
      const page = await open();
      const held = await hold(page, saves);
      const list = await hold(page, lists);
      const post = await send(page, held, "gemini", key);
      await field(page, other).click();
      await page.keyboard.type(HALF[0]);
      post.letGo(end);
      await status(page, said);
      assert.deepEqual(await focus(page), { id: `key-${other}`, at: HALF[0].length });
      // Between the answer and the list that follows it, and after that.
      await page.keyboard.type(HALF[1].slice(0, 4));
      (await list.next()).letGo();
      await settled(page);
      await page.keyboard.type(HALF[1].slice(4));
      assert.equal(await value(page, other), HALF.join(""));
      assert.equal(await value(page, "gemini"), said === "saved" ? "" : key);
      assert.equal(await card(page, "gemini").locator(".wrong:not([hidden])").count(), said === "saved" ? 0 : 1);
      await page.context().close();
    });
  }
}

test("the caret stays in the middle of a word", async () => {
  const page = await open();
  const held = await hold(page, saves);
  const post = await send(page, held, "exa", "exa-key-of-mine-000001");
  await field(page, "mistral").click();
  await page.keyboard.type("beginning-end");
  for (let n = 0; n < 3; n++) await page.keyboard.press("ArrowLeft");
  post.letGo();
  await status(page, "Exa");
  await settled(page);
  await page.keyboard.type("middle-");
  assert.equal(await value(page, "mistral"), "beginning-middle-end");
  await page.context().close();
});

const ORDERS = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
for (const order of ORDERS) {
  test(`three saves are answered in the order ${order.join(", ")} while a fourth key is typed`, async () => {
    const page = await open();
    const held = await hold(page, saves);
    const sent = [["gemini", "AQ.gemini-key-of-mine-0001"], ["exa", "bad exa key"], ["tavily", "tvly-key-of-mine-00000003"]];
    const posts = [];
    for (const [provider, key] of sent) posts.push(await send(page, held, provider, key));
    await field(page, "anthropic").click();
    const ends = [undefined, undefined, problem(500, "internal", "Something broke on our side.")];
    for (const n of order) {
      await page.keyboard.type(`half-${n}-`);
      posts[n].letGo(ends[n]);
      if (n === 0) await card(page, "gemini").getByText("0001").waitFor();
      else await card(page, sent[n][0]).locator(".wrong:not([hidden])").waitFor();
      await settled(page);
    }
    await page.keyboard.type("end");
    assert.deepEqual(await values(page), { anthropic: `${order.map((n) => `half-${n}-`).join("")}end`, exa: "bad exa key", tavily: "tvly-key-of-mine-00000003" });
    // Each error is still beside its field.
    for (const provider of ["exa", "tavily"]) assert.equal(await card(page, provider).locator(".wrong:not([hidden])").count(), 1, provider);
    assert.equal((await focus(page)).id, "key-anthropic");
    await page.context().close();
  });
}

test("an older list that arrives after a newer one changes nothing", async () => {
  const page = await open();
  const held = await hold(page, saves);
  const list = await hold(page, lists);
  const first = await send(page, held, "gemini", "AQ.gemini-key-of-mine-0001");
  const second = await send(page, held, "exa", "exa-key-of-mine-000002");
  first.letGo();
  const older = await list.next();
  second.letGo();
  const newer = await list.next();
  newer.letGo();
  await card(page, "exa").getByText("0002").waitFor();
  await page.evaluate(() => document.querySelector("[data-provider=exa]").setAttribute("data-same", "yes"));
  older.letGo();
  await settled(page);
  assert.equal(await card(page, "exa").getByText("0002").count(), 1);
  assert.equal(await card(page, "exa").getAttribute("data-same"), "yes", "the card is the same element");
  await page.context().close();
});

test("what is typed into the same field while its key is being saved stays", async () => {
  const page = await open();
  const held = await hold(page, saves);
  const post = await send(page, held, "gemini", "AQ.gemini-key-of-mine-0001");
  await page.keyboard.type("-and-more");
  await page.keyboard.press("Enter");
  post.letGo();
  await card(page, "gemini").getByText("0001").waitFor();
  await settled(page);
  assert.equal(await value(page, "gemini"), "AQ.gemini-key-of-mine-0001-and-more");
  assert.equal((await focus(page)).id, "key-gemini");
  await page.context().close();
});

for (const provider of ["gemini", "mistral"]) {
  for (const [name, end] of [["ends", undefined], ["is cut off", cut], ["is refused", problem(429, "rate_limited", "Too many texts.")]]) {
    test(`a streamed text ${name} while the user types the ${provider} key and the next prompt`, async () => {
      const page = await open({ gemini: "AQ.gemini-key-of-mine-0001" });
      const held = await hold(page, generates);
      await page.locator("#prompt").fill("Say hello");
      await page.getByRole("button", { name: "Write" }).click();
      const post = await held.next();
      await page.locator("#prompt").fill("The next prompt");
      await field(page, provider).click();
      await page.keyboard.type("half-");
      post.letGo(end);
      await page.getByRole("button", { name: "Write" }).waitFor();
      await page.keyboard.type("typed-");
      await settled(page);
      await page.keyboard.type("key");
      assert.deepEqual(await values(page), { [provider]: "half-typed-key" });
      assert.equal(await page.locator("#prompt").inputValue(), "The next prompt");
      assert.equal((await focus(page)).id, `key-${provider}`);
      await page.context().close();
    });
  }
}

test("the prompt keeps its text and the focus when the last key that could write is deleted", async () => {
  const page = await open({ gemini: "AQ.gemini-key-of-mine-0001" });
  const held = await hold(page, (request) => request.method() === "DELETE");
  await card(page, "gemini").getByRole("button", { name: /Delete/ }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Delete key" }).click();
  const gone = await held.next();
  await page.locator("#prompt").click();
  await page.keyboard.press("End");
  await page.keyboard.type(" to ");
  gone.letGo();
  await card(page, "gemini").getByText("None yet").waitFor();
  await settled(page);
  await page.keyboard.type("everybody");
  assert.equal(await page.locator("#prompt").inputValue(), "Say hello to everybody");
  await page.context().close();
});

test("what cannot be read again costs nothing that is typed", async () => {
  for (const end of [problem(401, "unauthorized", "Sign in again."), problem(429, "rate_limited", "Too many."), problem(500, "internal", "Broken."), cut]) {
    const page = await open({ exa: "exa-key-of-mine-000002" });
    await field(page, "openai").fill("half-typed-");
    const reads = await hold(page, (request) => request.method() === "GET");
    await card(page, "exa").getByRole("button", { name: /Pause/ }).click();
    await field(page, "openai").focus();
    await page.keyboard.press("End");
    for (let n = 0; n < 3; n++) (await reads.next()).letGo(end);
    await status(page, "Exa: paused. What is shown may be old");
    await page.keyboard.type("key");
    assert.equal(await value(page, "openai"), "half-typed-key");
    assert.equal(await page.locator("#usage figcaption").count(), 1);
    await page.context().close();
  }
});

test("by keyboard alone: an answer moves nobody, and Tab goes where it would have gone", async () => {
  const page = await open();
  const stops = async (first, count) => {
    await field(page, first).focus();
    const seen = [];
    for (let n = 0; n < count; n++) {
      await page.keyboard.press("Tab");
      seen.push(await page.evaluate(() => `${document.activeElement.closest("[data-provider]")?.dataset.provider} ${document.activeElement.id || document.activeElement.textContent}`));
    }
    return seen;
  };
  const without = await stops("openai", 12);
  const held = await hold(page, saves);
  await field(page, "openai").focus();
  await page.keyboard.type("sk-openai-key-of-mine-0001");
  await page.keyboard.press("Enter");
  const post = await held.next();
  const seen = [];
  for (let n = 0; n < 12; n++) {
    await page.keyboard.press("Tab");
    if (n === 4) {
      post.letGo(problem(422, "provider_rejected_key", "OpenAI refuses this key."));
      await card(page, "openai").getByText("refuses this key").waitFor();
      await settled(page);
    }
    seen.push(await page.evaluate(() => `${document.activeElement.closest("[data-provider]")?.dataset.provider} ${document.activeElement.id || document.activeElement.textContent}`));
  }
  assert.deepEqual(seen, without);
  await page.context().close();
});

test("where to get a key: the link takes the focus from nobody who has gone on", async () => {
  const page = await open();
  const held = await hold(page, (request) => request.url().endsWith("/setup"));
  await card(page, "openai").getByRole("button", { name: "Where do I get one?" }).click();
  const answer = await held.next();
  await field(page, "exa").click();
  await page.keyboard.type("half-");
  answer.letGo();
  await card(page, "openai").getByRole("link").waitFor();
  await page.keyboard.type("typed");
  assert.equal(await value(page, "exa"), "half-typed");
  await page.context().close();
});

test("after pause, resume, restore and delete the focus is in the card", async () => {
  const page = await open({ gemini: "AQ.gemini-key-of-mine-0001", exa: "exa-key-of-mine-000002" });
  await page.request.post(`${LOCAL_URL}api/onboarding/api-keys`, { data: { provider: "exa", api_key: "exa-key-of-mine-000003" } });
  await page.reload();
  const press = async (name, done) => {
    await card(page, "exa").getByRole("button", { name }).focus();
    await page.keyboard.press("Enter");
    if (done instanceof Function) await done();
    else await status(page, done);
    await settled(page);
    assert.equal(await focusedCard(page), "exa", String(name));
  };
  await press(/Pause/, "Exa: paused");
  await press(/Go on/, "Exa: in use again");
  await press(/Bring back/, "the former key is back");
  await press(/Delete/, async () => {
    await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    await status(page, "Exa: deleted");
  });
  assert.deepEqual((await focus(page)).id, "key-exa", "its buttons are gone, its field is there");
  await page.context().close();
});

test("a double-click pauses, and a double-click brings back, once", async () => {
  const page = await open({ exa: "exa-key-of-mine-000002" });
  await page.request.post(`${LOCAL_URL}api/onboarding/api-keys`, { data: { provider: "exa", api_key: "exa-key-of-mine-000003" } });
  await page.reload();
  const sent = [];
  page.on("request", (request) => { if (request.method() !== "GET") sent.push(`${request.method()} ${new URL(request.url()).pathname.split("/").at(-1)}`); });
  await card(page, "exa").getByRole("button", { name: /Pause/ }).dblclick();
  await status(page, "Exa: paused");
  await settled(page);
  await card(page, "exa").getByRole("button", { name: /Bring back/ }).dblclick();
  await status(page, "the former key is back");
  await settled(page);
  await field(page, "exa").fill("exa-key-of-mine-000004");
  await card(page, "exa").getByRole("button", { name: "Replace" }).dblclick();
  await card(page, "exa").locator("code").getByText("0004").waitFor();
  await settled(page);
  assert.deepEqual(sent, ["PATCH exa", "POST restore", "POST api-keys"]);
  await page.context().close();
});

test("a card can be used before the keys are known", async () => {
  const page = await open({ gemini: "AQ.gemini-key-of-mine-0001" });
  const list = await hold(page, lists);
  await page.reload();
  await card(page, "gemini").getByRole("button", { name: "Save" }).waitFor();
  await field(page, "gemini").click();
  await page.keyboard.type("half-");
  (await list.next()).letGo();
  await card(page, "gemini").locator("code").getByText("0001").waitFor();
  await page.keyboard.type("typed");
  assert.equal(await value(page, "gemini"), "half-typed");
  await page.context().close();
});

/** The page with an Exa key, and how many deletions have been asked for. */
async function deletable(options) {
  const page = await open({ exa: "exa-key-of-mine-000002" }, options);
  const asked = [];
  page.on("request", (request) => { if (request.method() === "DELETE") asked.push(request.url()); });
  const isThere = async () => {
    await settled(page);
    assert.deepEqual(asked, []);
    const list = await (await page.request.get(`${LOCAL_URL}api/onboarding/api-keys`)).json();
    assert.deepEqual(list.configured_providers, ["exa"]);
  };
  return { page, isThere, remove: card(page, "exa").getByRole("button", { name: /Delete/ }), yes: page.getByRole("dialog").getByRole("button", { name: "Delete key" }) };
}
/** Puts the card's button exactly where the dialog's will be. */
async function under(page, remove, yes) {
  await remove.click();
  const box = await yes.boundingBox();
  await page.keyboard.press("Escape");
  await remove.evaluate((button, { x, y, width, height }) => Object.assign(button.style, { position: "fixed", left: `${x}px`, top: `${y}px`, width: `${width}px`, height: `${height}px`, zIndex: "9" }), box);
}

test("a double-click, a triple-click and many clicks on Delete delete nothing", async () => {
  for (const clicks of [2, 3, 6]) {
    const { page, isThere, remove } = await deletable();
    const { x, y, width, height } = await remove.boundingBox();
    await page.mouse.click(x + width / 2, y + height / 2, { clickCount: clicks });
    await isThere();
    await page.context().close();
  }
});

test("a double-click deletes nothing where the dialog opens under the pointer", async () => {
  const { page, isThere, remove, yes } = await deletable();
  await under(page, remove, yes);
  await remove.dblclick();
  await isThere();
  await page.keyboard.press("Escape");
  // With a screen that counts no taps, too.
  await page.evaluate(() => {
    const press = (element) => element.dispatchEvent(new MouseEvent("click", { detail: 1, clientX: 300, clientY: 300, bubbles: true }));
    press(document.querySelector("[data-provider=exa] .danger"));
    press(document.querySelector("dialog .danger"));
  });
  await isThere();
  await page.context().close();
});

test("a double-tap on Delete deletes nothing", async () => {
  const { page, isThere, remove, yes } = await deletable({ hasTouch: true, viewport: { width: 390, height: 844 } });
  await under(page, remove, yes);
  const { x, y, width, height } = await remove.boundingBox();
  for (let n = 0; n < 2; n++) await page.touchscreen.tap(x + width / 2, y + height / 2);
  await isThere();
  await page.context().close();
});

test("the question begins at Cancel; Escape and Enter delete nothing and lead back to the button", async () => {
  const { page, isThere, remove } = await deletable();
  const back = async (key) => {
    await remove.focus();
    await page.keyboard.press("Enter");
    await page.getByRole("dialog").waitFor();
    assert.equal(await page.evaluate(() => document.activeElement.textContent), "Cancel");
    await page.keyboard.press(key);
    await page.getByRole("dialog").waitFor({ state: "hidden" });
    assert.equal(await page.evaluate(() => document.activeElement.textContent), "Delete", key);
  };
  for (const key of ["Escape", "Enter", "Space"]) await back(key);
  // A key that is held down.
  await remove.focus();
  for (let n = 0; n < 9; n++) await page.keyboard.down("Enter");
  await page.keyboard.up("Enter");
  await isThere();
  await page.context().close();
});

test("who says so deletes the key", async () => {
  const { page, remove, yes } = await deletable();
  await remove.click();
  await yes.click();
  await card(page, "exa").getByText("None yet").waitFor();
  assert.equal(await focusedCard(page), "exa");
  await page.context().close();
});

/** Ann's page, with something typed and a key saved. */
async function annsPage() {
  const context = await browser.newContext();
  const page = await context.newPage();
  page.setDefaultTimeout(10_000);
  await watch(page);
  const become = await signIn(page, ANN);
  await page.goto(PRODUCTION_URL);
  await card(page, "wavespeed").waitFor();
  await field(page, "gemini").fill("AQ.gemini-key-of-ann-0001");
  await page.keyboard.press("Enter");
  await card(page, "gemini").locator("code").getByText("0001").waitFor();
  await settled(page);
  await field(page, "openai").fill("sk-half-typed-by-ann");
  await page.locator("#prompt").fill("A text of Ann's");
  return { page, become };
}
const holds = async (page, text) => (await page.content()).includes(text) || (await page.locator("input, textarea").evaluateAll((fields) => fields.map(({ value }) => value).join())).includes(text);

test("another user finds nothing of what was typed or shown", async () => {
  const { page, become } = await annsPage();
  await become(BOB).catch(() => undefined);
  await page.getByText("Signed in as bob@app.test").waitFor();
  await card(page, "wavespeed").waitFor();
  await settled(page);
  for (const text of ["ann@app.test", "0001", "half-typed", "A text of Ann's"]) assert.equal(await holds(page, text), false, text);
  await page.context().close();
});

for (const [name, leave] of [["signing out", ({ page }) => page.getByRole("button", { name: "Sign out" }).click()], ["being signed out elsewhere", ({ become }) => become(null).catch(() => undefined)]]) {
  test(`${name} leaves nothing of what was typed or shown`, async () => {
    const ann = await annsPage();
    await leave(ann);
    await ann.page.getByRole("button", { name: "Sign in" }).waitFor();
    for (const text of ["ann@app.test", "0001", "half-typed", "A text of Ann's"]) assert.equal(await holds(ann.page, text), false, text);
    await ann.page.context().close();
  });
}

test("what is typed stays when the same user's session is renewed, or is between two", async () => {
  const { page, become } = await annsPage();
  await page.getByRole("button", { name: "Sign out" }).focus();
  await become({ ...ANN, email: "ann@new.test" });
  await page.evaluate(() => { const { user } = window.Clerk; window.Clerk.become(undefined); window.Clerk.become({ id: user.id, email: "ann@new.test", token: "" }); });
  await page.getByText("Signed in as ann@new.test").waitFor();
  assert.equal(await value(page, "openai"), "sk-half-typed-by-ann");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Sign out");
  await page.context().close();
});

test("a save that waits for its turn is not sent in the next user's name", async () => {
  const { page, become } = await annsPage();
  const sent = [];
  page.on("request", (request) => { if (saves(request)) sent.push([request.headers().authorization, request.postData()]); });
  const late = await hold(page, saves);
  await field(page, "openai").focus();
  await page.keyboard.press("Enter");
  const post = await late.next();
  post.letGo((route) => route.fulfill({ status: 429, headers: { "retry-after": "1", "content-type": "application/problem+json" }, body: "{}" }));
  await become(BOB).catch(() => undefined);
  await page.getByText("Signed in as bob@app.test").waitFor();
  for (const [authorization, body] of sent) if (body.includes("half-typed-by-ann")) assert.equal(authorization, `Bearer ${ANN.token}`);
  await page.context().close();
});
