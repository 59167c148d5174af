// What the page's tests share: Chromium, Clerk's place taken, and answers that wait until they are let go.
import { chromium } from "playwright-core";
import { INTEGRITY, integrityOf } from "./clerk.mjs";

export const { LOCAL_URL, PRODUCTION_URL, TOKEN, OTHER_TOKEN, SHOTS, CHROMIUM } = process.env;
export const launch = () => chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox"] });
export const check = (condition, what) => { if (!condition) throw new Error(what); };

export const ANN = { id: "user_2abcDEF9", email: "ann@app.test", token: TOKEN };
export const BOB = { id: "user_2bobDEF9", email: "bob@app.test", token: OTHER_TOKEN };

/** Clerk's library for `user`, who may be null; `Clerk.become` is another user's sign-in elsewhere in the browser. */
const library = (user) => `{
  const listeners = [];
  const session = (user) => user && { getToken: async () => user.token };
  const shown = (user) => user && { id: user.id, primaryEmailAddress: { emailAddress: user.email } };
  window.Clerk = {
    async load() {}, openSignIn() {}, addListener(listener) { listeners.push(listener); },
    become(user) { this.session = session(user); this.user = shown(user); for (const listener of listeners) listener(); },
    async signOut() { await window.signedOut?.(); this.become(null); },
  };
  window.Clerk.become(${JSON.stringify(user)});
}`;

/**
 * Signs `user` in. The library that stands in Clerk's place has an integrity of its own, so the page is told
 * that one and goes on refusing any other. What comes back makes another user of them.
 */
export async function signIn(page, user) {
  let now = user;
  await page.exposeFunction("signedOut", () => { now = null; });
  await page.route("https://clerk.test/**", (route) =>
    route.fulfill({ contentType: "text/javascript", headers: { "access-control-allow-origin": "*" }, body: library(now) }));
  await page.route("**/page.js", async (route) => {
    const response = await route.fetch();
    const body = (await response.text()).replace(INTEGRITY, integrityOf(library(now)));
    await route.fulfill({ response, body });
  });
  return async (next) => {
    now = next;
    await page.evaluate((user) => window.Clerk.become(user), next);
  };
}

/** How a request may end other than as the server says. */
export const problem = (status, code, detail) => (route) =>
  route.fulfill({ status, contentType: "application/problem+json", body: JSON.stringify({ type: `urn:user-api-keys:problem:${code}`, title: code, status, code, detail, request_id: "01ARZ3NDEKTSV4RRFFQ69G5FAV" }) });
export const cut = (route) => route.abort("connectionreset");

/** How many answers are held on a page. */
const heldOn = new WeakMap();
/** Counts what the page has asked for and not read to its end yet; before the page is opened. */
export async function watch(page) {
  heldOn.set(page, 0);
  await page.addInitScript(() => {
    const ask = window.fetch;
    window.unread = 0;
    window.fetch = async (...request) => {
      window.unread += 1;
      // The page's own reading is over, and what follows from it begun, a turn after that of the copy.
      const read = () => setTimeout(() => setTimeout(() => { window.unread -= 1; }));
      try {
        const answer = await ask(...request);
        answer.clone().arrayBuffer().then(read, read);
        return answer;
      } catch (error) {
        read();
        throw error;
      }
    };
  });
}
/** All that follows an answer is shown: what the page has asked for is read, but for what is held. */
export async function settled(page) {
  for (let n = 0; (await page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => setTimeout(() => resolve(window.unread)))))) > heldOn.get(page); n++) {
    check(n < 1000, "the page does not come to rest");
    await page.waitForTimeout(10);
  }
}

/**
 * Holds the answers to requests that `matches`: the server has them, the page does not. `next()` is the next
 * one that has come; `letGo(end)` hands it over, or ends it in another way.
 */
export async function hold(page, matches) {
  const come = [];
  const awaited = [];
  const handler = async (route) => {
    if (!matches(route.request())) return route.fallback();
    const response = await route.fetch();
    let letGo;
    const ended = new Promise((resolve) => { letGo = resolve; });
    heldOn.set(page, heldOn.get(page) + 1);
    const held = { request: route.request(), letGo };
    const waiting = awaited.shift();
    if (waiting) waiting(held);
    else come.push(held);
    const end = await ended;
    heldOn.set(page, heldOn.get(page) - 1);
    await (end ? end(route) : route.fulfill({ response }));
  };
  await page.route("**/api/**", handler);
  return { next: () => new Promise((resolve) => { const held = come.shift(); if (held) resolve(held); else awaited.push(resolve); }) };
}
export const saves = (request) => request.method() === "POST" && new URL(request.url()).pathname === "/api/onboarding/api-keys";
export const lists = (request) => request.method() === "GET" && new URL(request.url()).pathname === "/api/onboarding/api-keys";
export const generates = (request) => new URL(request.url()).pathname === "/api/generate";
