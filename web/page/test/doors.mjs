// Hostile web pages against running servers: everything that is listened on, by every way a page has.
import { readFileSync, readdirSync, readlinkSync } from "node:fs";
import { createServer } from "node:http";
import { chromium } from "playwright-core";

const { SERVERS, TOKEN, CHROMIUM } = process.env;
const SECRET = "AQ.key-that-no-page-gets-0001";
const check = (condition, what) => { if (!condition) throw new Error(what); };

/** The ports on which a process listens. */
function ports(pid) {
  const links = readdirSync(`/proc/${pid}/fd`).map((fd) => { try { return readlinkSync(`/proc/${pid}/fd/${fd}`); } catch { return ""; } });
  const own = new Set(links.map((link) => link.match(/^socket:\[(\d+)\]$/)?.[1]).filter(Boolean));
  const lines = ["tcp", "tcp6"].flatMap((table) => readFileSync(`/proc/net/${table}`, "utf8").split("\n").slice(1));
  return lines.map((line) => line.trim().split(/\s+/)).filter((fields) => fields[3] === "0A" && own.has(fields[9]))
    .map((fields) => parseInt(fields[1].split(":")[1], 16));
}

/** In the page: tries one address in every way; what came back, as text. */
async function attack({ base, secret }) {
  const json = "application/x-amz-json-1.0";
  const scan = { method: "POST", headers: { "content-type": json, "x-amz-target": "DynamoDB_20120810.Scan", "x-amz-date": "20260101T000000Z", authorization: "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/dynamodb/aws4_request, SignedHeaders=host, Signature=0" }, body: JSON.stringify({ TableName: "user-api-keys" }) };
  const remove = { ...scan, headers: { ...scan.headers, "x-amz-target": "DynamoDB_20120810.DeleteItem" }, body: JSON.stringify({ TableName: "user-api-keys", Key: { pk: { S: "USER#local" }, sk: { S: "KEY#gemini" } } }) };
  const kms = { ...scan, headers: { ...scan.headers, "x-amz-target": "TrentService.DisableKey" }, body: JSON.stringify({ KeyId: "00000000-0000-4000-8000-000000000001" }) };
  const keys = "/api/onboarding/api-keys";
  const open = { method: "POST", body: JSON.stringify({ token: "x", providers: ["gemini"], purpose: "x" }) };
  const tries = [
    ["/", scan], ["/", remove], ["/", kms], ["/", { ...scan, mode: "no-cors", headers: { "content-type": "text/plain" } }], ["/", {}],
    [`${keys}/onboarding`, {}], [`${keys}/onboarding`, { mode: "no-cors" }], [keys, {}], [keys, { method: "DELETE" }],
    ["/2015-03-31/functions/open-keys/invocations", open], ["/2015-03-31/functions/open-keys/invocations", { ...open, mode: "no-cors" }],
    ["/v1beta/models", {}],
  ];
  const got = [];
  for (const [path, options] of tries) {
    try {
      const answer = await fetch(base + path, options);
      got.push({ path, status: answer.status, text: await answer.text() });
    } catch (error) { got.push({ path, status: 0, text: String(error) }); }
  }
  // Frames say nothing to the page when they are of another origin, and everything when they are not.
  const frame = document.createElement("iframe");
  frame.src = `${base}${keys}/onboarding`;
  const loaded = new Promise((resolve) => { frame.onload = resolve; setTimeout(resolve, 3000); });
  document.body.append(frame);
  await loaded;
  let framed = "";
  try { framed = frame.contentDocument?.body?.textContent ?? ""; } catch { /* another origin */ }
  got.push({ path: "frame", status: 0, text: framed });
  return got.filter(({ status, text }) => (status >= 200 && status < 300) || text.includes(secret));
}

async function save(url, production) {
  const headers = { "content-type": "application/json", ...(production ? { authorization: `Bearer ${TOKEN}` } : {}) };
  const answer = await fetch(`${url}api/onboarding/api-keys`, { method: "POST", headers, body: JSON.stringify({ provider: "gemini", api_key: SECRET }) });
  check(answer.status === 200, `a key is saved: ${answer.status} ${await answer.text()}`);
}

async function has(url, production) {
  const answer = await fetch(`${url}api/onboarding/api-keys`, { headers: production ? { authorization: `Bearer ${TOKEN}` } : {} });
  const { keys } = await answer.json();
  return keys.some(({ provider, hint }) => provider === "gemini" && hint === "0001");
}

// A page of another origin: served here, under a name of its own.
const page = createServer((_, answer) => { answer.setHeader("content-type", "text/html"); answer.end("<!doctype html><title>a page</title>"); });
await new Promise((resolve) => page.listen(0, "127.0.0.1", resolve));
const pagePort = page.address().port;
// What a browser asks before a page reaches loopback is answered with yes: other browsers do not ask.
const args = ["--no-sandbox", "--host-resolver-rules=MAP *.test 127.0.0.1", "--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests"];
const browser = await chromium.launch({ executablePath: CHROMIUM, args });
let tried = 0;
try {
  for (const line of SERVERS.trim().split("\n")) {
    const [name, url, pid] = line.split(" ");
    const production = name.startsWith("production");
    await save(url, production);
    const listening = ports(pid);
    check(listening.length === (name.endsWith("-sam") ? 3 : 1), `${name} listens on ${listening}`);
    for (const port of listening) {
      // From another origin.
      const tab = await browser.newPage();
      await tab.goto(`http://evil.test:${pagePort}/`);
      let got = await tab.evaluate(attack, { base: `http://127.0.0.1:${port}`, secret: SECRET });
      // A health check or a page that is the same for everybody may be read; in Production, CORS lets no one.
      check(got.length === 0, `${name}, port ${port}, another origin: ${JSON.stringify(got)}`);
      // From a name that is this machine's by now: the page is of the port's own origin. The document is
      // given by the test, as a cached one would be.
      const rebound = `http://evil.test:${port}`;
      await tab.route(`${rebound}/start`, (route) => route.fulfill({ contentType: "text/html", body: "<!doctype html><title>rebound</title>" }));
      await tab.goto(`${rebound}/start`);
      got = await tab.evaluate(attack, { base: rebound, secret: SECRET });
      // The page at / is in Production the same for everybody, whatever the host is called.
      got = got.filter(({ path, text }) => !(production && path === "/" && text.includes("<title>Your API keys</title>")));
      check(got.length === 0, `${name}, port ${port}, rebound: ${JSON.stringify(got)}`);
      await tab.close();
      tried += 2;
    }
    check(await has(url, production), `${name}: the key is still there`);
    if (!production) {
      // And a page that may call does get it: the attacks would be seen to work.
      const tab = await browser.newPage();
      await tab.route("http://localhost:3000/", (route) => route.fulfill({ contentType: "text/html", body: "<!doctype html><title>ours</title>" }));
      await tab.goto("http://localhost:3000/");
      const got = await tab.evaluate(async (at) => (await fetch(at)).text(), `${url}api/onboarding/api-keys/onboarding`);
      check(got.includes(SECRET), `${name}: an allowed page gets it: ${got}`);
      await tab.close();
    }
  }
  console.log(`${tried} pages got nothing, from another origin and under a rebound name`);
} finally {
  await browser.close();
  page.close();
}
