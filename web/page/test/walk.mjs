// A user's way through the page, in Chromium, in Local mode and signed in; screenshots into SHOTS.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { ANN, check, launch, LOCAL_URL, PRODUCTION_URL, settled, SHOTS, signIn, watch } from "./browser.mjs";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const SECRETS = ["AQ.pasted-gemini-key-0001", "exa-pasted-key-of-mine-0002", "AQ.another-gemini-key-0003", "bad-gemini-key-0009"];
const PUBLIC = "ck_pub_pasted0123456789";

async function walk(browser, name, url, prepare) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
  const page = await context.newPage();
  await watch(page);
  const said = [];
  page.on("console", (message) => said.push(message.text()));
  page.on("pageerror", (error) => { throw error; });
  const urls = [];
  page.on("request", (request) => urls.push(request.url()));
  // The network log: what came back, and what was sent other than by a save.
  const network = [];
  page.on("requestfinished", async (request) => {
    const answer = await request.response();
    network.push(answer ? await answer.text().catch(() => "") : "");
    if (!(request.method() === "POST" && request.url().endsWith("/api/onboarding/api-keys"))) network.push(request.postData() ?? "");
  });
  await prepare(page);
  await page.goto(url);
  const status = page.getByRole("status");
  const card = (provider) => page.locator(`[data-provider=${provider}]`);
  await card("gemini").waitFor();
  const paste = async (provider, key) => {
    await card(provider).locator("input").fill(key);
    await card(provider).getByRole("button", { name: /^(Save|Replace)$/ }).click();
  };
  const statusIs = (text) => status.filter({ hasText: text }).waitFor({ timeout: 10_000 });

  // By keyboard: the skip link, then the first field.
  await page.keyboard.press("Tab");
  check(await page.locator(".skip").evaluate((link) => link === document.activeElement), `${name}: the skip link is first`);

  // One wrong key, refused beside its field; nothing is stored.
  await paste("gemini", "bad-gemini-key-0009");
  await card("gemini").locator(".wrong:not([hidden])").waitFor();
  check(await card("gemini").locator("input").getAttribute("aria-invalid") === "true", `${name}: the field is marked`);
  await paste("gemini", SECRETS[0]);
  await statusIs("its provider takes it");
  await card("gemini").getByText("************0001").waitFor();
  await card("mistral").locator("input").fill("half-typed");
  await paste("exa", SECRETS[1]);
  await card("exa").getByText("************0002").waitFor();
  await statusIs("Saved. Exa offers no way to test a key, so the first use will show.");
  await card("exa").getByText("Saved", { exact: true }).waitFor();
  check((await card("mistral").locator("input").inputValue()) === "half-typed", `${name}: what is being typed elsewhere stays`);
  await card("mistral").locator("input").fill("");
  await page.evaluate(() => window.addEventListener("copilotkit-key-updated", (event) => { window.handed = event.detail.apiKey; }));
  const percent = () => page.locator("progress").evaluate((bar) => bar.value);
  check((await percent()) === 0, `${name}: nothing is done yet`);
  await paste("copilotkit", PUBLIC);
  await card("copilotkit").getByText("************6789").waitFor();
  const storage = await page.evaluate(() => ({ ...localStorage }));
  const { copilotkit_api_key, copilotkit_api_key_owner, copilotkit_api_key_kid, ...others } = storage;
  check(copilotkit_api_key === PUBLIC && Object.keys(others).length === 0, `${name}: storage holds the public key alone`);
  check(copilotkit_api_key_owner === (name === "local" ? "local" : ANN.id) && copilotkit_api_key_kid.length === 26, `${name}: and whose it is`);
  check((await page.evaluate(() => window.handed)) === PUBLIC, `${name}: the app is told`);
  await page.waitForFunction(() => document.querySelector("progress").value > 0);

  // Show and hide while typing.
  const field = card("openai").locator("input");
  await field.fill("typed");
  await card("openai").getByRole("button", { name: /Show/ }).click();
  check(await field.getAttribute("type") === "text", `${name}: shown`);
  await card("openai").getByRole("button", { name: /Show/ }).click();
  check(await field.getAttribute("type") === "password", `${name}: hidden again`);
  await field.fill("");
  await card("openai").getByRole("button", { name: "Where do I get one?" }).click();
  check((await card("openai").getByRole("link").getAttribute("href")).startsWith("https://"), `${name}: where to get one`);

  // Masks after a reload.
  await page.reload();
  await card("gemini").getByText("************0001").waitFor();

  // Replace, bring back, pause.
  await paste("gemini", SECRETS[2]);
  await card("gemini").getByText("************0003").waitFor();
  await card("gemini").getByRole("button", { name: /Bring back/ }).click();
  await card("gemini").getByText("************0001").waitFor();
  await card("exa").getByRole("button", { name: /Pause/ }).click();
  await card("exa").getByText("paused").waitFor();
  await card("exa").getByRole("button", { name: /Go on/ }).click();
  await statusIs("in use again");

  // A streamed text, and whose key paid.
  await page.locator("#prompt").fill("Say hello");
  await page.getByRole("button", { name: "Write" }).click();
  await page.locator("#receipt").filter({ hasText: "tokens" }).waitFor();
  check((await page.locator("output").textContent()) === "You said: Say hello", `${name}: the text`);
  check((await page.locator("#receipt").textContent()).includes("ends in 0001"), `${name}: the receipt`);
  await page.getByRole("cell", { name: "generate-content" }).first().waitFor();

  // Nothing of a key anywhere; the addresses neither.
  await settled(page);
  const everywhere = [await page.content(), ...said, ...urls, ...network, await page.evaluate(() => JSON.stringify({ ...localStorage, ...sessionStorage }) + document.cookie + location.href)].join("\n");
  check(network.length > 40, `${name}: the network was listened to`);
  for (const secret of SECRETS) check(!everywhere.includes(secret), `${name}: a key is left`);

  await page.evaluate(axe);
  for (const scheme of ["light", "dark"]) {
    for (const width of [1280, 390]) {
      await page.emulateMedia({ colorScheme: scheme });
      await page.setViewportSize({ width, height: 900 });
      const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
      const serious = violations.filter(({ impact }) => ["serious", "critical"].includes(impact));
      check(serious.length === 0, `${name}, ${scheme}, ${width}: ${serious.map((v) => `${v.id} ${v.nodes[0].html}`).join("; ")}`);
      check(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `${name}, ${width}: wider than the screen`);
      await page.screenshot({ path: `${SHOTS}/${name}-${scheme}-${width}.png`, fullPage: true });
    }
  }
  await page.setViewportSize({ width: 1280, height: 900 });

  // Deleted when the user says so.
  await card("exa").getByRole("button", { name: /Delete/ }).click();
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  check(!violations.some(({ impact }) => ["serious", "critical"].includes(impact)), `${name}: the question`);
  await page.screenshot({ path: `${SHOTS}/${name}-question.png` });
  await page.getByRole("dialog").getByRole("button", { name: "Delete key" }).click();
  await statusIs("Exa: deleted");
  await card("exa").getByText("none yet").waitFor();
  await settled(page);
  await context.close();
}

const browser = await launch();
try {
  // axe is put into the page by the browser's own debugging door, which no policy of the page's closes.
  await walk(browser, "local", LOCAL_URL, async () => {});
  await walk(browser, "production", PRODUCTION_URL, (page) => signIn(page, ANN));
  console.log("the page was walked through in both modes; axe finds nothing serious; 10 screenshots");
} finally {
  await browser.close();
}
