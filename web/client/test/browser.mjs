// The same in Chromium, from a page of an allowed origin.
import { createServer } from "node:http";
import { build } from "esbuild";
import { chromium } from "playwright-core";

const bundle = await build({ bundle: true, format: "esm", write: false, stdin: { resolveDir: import.meta.dirname,
  contents: 'import { createClient } from "../dist/index.js"; import { events } from "../dist/events.js"; import { run } from "./client.test.mjs"; window.run = (s) => run({ createClient, events, ...s });' } });
const page = '<!doctype html><title>client</title><script type="module" src="/bundle.js"></script>';
const server = createServer((request, response) => {
  const script = request.url === "/bundle.js";
  response.setHeader("content-type", script ? "text/javascript" : "text/html");
  response.end(script ? bundle.outputFiles[0].text : page);
}).listen(Number(process.env.PAGE_PORT), "127.0.0.1");
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });
try {
  const tab = await browser.newPage();
  tab.on("pageerror", (error) => console.error(String(error)));
  await tab.goto(`http://localhost:${process.env.PAGE_PORT}/`);
  await tab.waitForFunction(() => window.run);
  const passed = await tab.evaluate((settings) => window.run(settings), { baseUrl: process.env.BASE_URL, token: process.env.TOKEN });
  console.log(`${passed.length} tests in ${await browser.version()}`);
} finally {
  await browser.close();
  server.close();
}
