// The same tests in Node and, bundled, in a browser: `run(settings)` against a running server.
const check = (condition, what) => { if (!condition) throw new Error(what); };
const same = (a, b, what) => check(JSON.stringify(a) === JSON.stringify(b), `${what}: ${JSON.stringify(a)} is not ${JSON.stringify(b)}`);
async function fails(promise, code, what) {
  try { await promise; } catch (error) {
    same(error.code, code, what);
    check(error.name === "ApiFailure" && error.message.length > 0, what);
    return error;
  }
  throw new Error(`${what}: did not fail`);
}
const chunks = (...texts) => new ReadableStream({ start(c) { for (const t of texts) c.enqueue(new TextEncoder().encode(t)); c.close(); } });

export async function run({ createClient, events, baseUrl, token }) {
  const passed = [];
  const test = async (name, work) => { await work(); passed.push(name); };
  const api = createClient({ baseUrl, getToken: async () => token });

  await test("a key is saved, listed masked and deleted, with types", async () => {
    const saved = await api.POST("/api/onboarding/api-keys", { body: { provider: "gemini", api_key: "AQ.key-of-the-client-0001" } });
    same(saved.data.key.hint, "0001", "hint");
    const listed = await api.GET("/api/onboarding/api-keys");
    check(listed.data.api_keys.gemini.endsWith("0001") && !JSON.stringify(listed.data).includes("key-of-the-client"), "masked");
    const changed = await api.PATCH("/api/onboarding/api-keys/{provider}", { params: { path: { provider: "gemini" } }, body: { description: "mine" } });
    same(changed.data.description, "mine", "changed");
  });
  await test("a failure is thrown with its code and what to do", async () => {
    const error = await fails(api.POST("/api/onboarding/api-keys", { body: { provider: "gemini", api_key: "your_api_key" } }), "invalid_api_key", "placeholder");
    check(error.status === 400 && error.requestId, "names the request");
    await fails(createClient({ baseUrl, getToken: () => "a.b.c" }).GET("/api/onboarding/api-keys"), "unauthorized", "bad token");
    await fails(createClient({ baseUrl: "http://127.0.0.1:1" }).GET("/api/onboarding/api-keys"), "unreachable", "nobody there");
  });
  await test("words come as an async iterator, and the credential that pays is named first", async () => {
    const seen = [];
    let text = "";
    for await (const event of api.generate({ prompt: "Say hello" })) {
      seen.push(event.type);
      if (event.type === "start") same(event.credential.hint, "0001", "pays");
      if (event.type === "delta") text += event.text;
    }
    same([seen[0], seen.at(-1), text], ["start", "done", "You said: Say hello"], "stream");
    await fails((async () => { for await (const _ of api.generate({ prompt: "" })); })(), "invalid_request", "no prompt");
  });
  await test("a reader who stops hangs up", async () => {
    const controller = new AbortController();
    let cancelled = false;
    const body = new ReadableStream({ pull(c) { c.enqueue(new TextEncoder().encode('event: delta\ndata: {"text":"x"}\n\n')); }, cancel() { cancelled = true; } });
    const endless = createClient({ baseUrl, fetch: async () => new Response(body) });
    for await (const event of endless.generate({ prompt: "x" }, { signal: controller.signal })) if (event.type === "delta") break;
    await new Promise((resolve) => setTimeout(resolve, 0));
    check(cancelled, "hung up");
  });
  await test("retry_after is obeyed, a longer one is thrown, and what may have been done is not repeated", async () => {
    const answering = (answers, log, more = {}) => createClient({ baseUrl, ...more,
      fetch: async (request) => { log.push(request.method); return answers.shift(); }, sleep: async (ms) => { log.push(ms); } });
    const busy = (status, seconds) => new Response(JSON.stringify({ code: status === 429 ? "rate_limited" : "temporarily_unavailable", detail: "Wait.", status, request_id: "r", retry_after: seconds }),
      { status, headers: { "retry-after": String(seconds), "content-type": "application/problem+json" } });
    const fine = () => new Response("{}", { headers: { "content-type": "application/json" } });
    let log = [];
    await answering([busy(429, 2), busy(503, 1), fine()], log).GET("/api/onboarding/api-keys");
    same(log, ["GET", 2000, "GET", 1000, "GET"], "twice");
    log = [];
    const error = await fails(answering([busy(429, 60)], log).GET("/api/onboarding/api-keys"), "rate_limited", "too long");
    same([log, error.retryAfter], [["GET"], 60], "not waited for");
    log = [];
    await fails(answering([busy(503, 1), fine()], log).POST("/api/onboarding/api-keys", { body: { provider: "gemini", api_key: "x" } }), "temporarily_unavailable", "a save");
    same(log, ["POST"], "once");
    log = [];
    await answering([busy(429, 1), fine()], log).POST("/api/onboarding/api-keys", { body: { provider: "gemini", api_key: "x" } });
    same(log, ["POST", 1000, "POST"], "a save that was not done");
  });
  await test("the token is asked for each attempt and goes nowhere but the header", async () => {
    const requests = [];
    const client = createClient({ baseUrl: "https://api.test/prod", getToken: () => `t${requests.length}`,
      fetch: async (request) => { requests.push(request); return new Response(null, { status: 429, headers: { "retry-after": "0" } }); }, sleep: async () => {} });
    await fails(client.GET("/api/onboarding/api-keys"), "unreachable", "no words of the service's own");
    same(requests.map((r) => r.headers.get("authorization")), ["Bearer t0", "Bearer t1", "Bearer t2"], "tokens");
    check(requests.every((r) => r.url === "https://api.test/prod/api/onboarding/api-keys" && r.credentials === "omit"), "url");
  });
  await test("events are read whole however they are cut", async () => {
    const stream = "\uFEFF: a comment\r\nevent: delta\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\ndata:x\n\nevent: end\n\nevent: unfinished\ndata: y\n";
    const whole = async (body) => { const all = []; for await (const e of events(body)) all.push(e); return all; };
    const expected = [{ event: "delta", data: "{\"a\":\n1}" }, { event: "message", data: "x" }];
    same(await whole(chunks(stream)), expected, "at once");
    same(await whole(chunks(...stream)), expected, "letter by letter");
    const cut = createClient({ baseUrl, fetch: async () => new Response(chunks('event: delta\ndata: {"text":"x"}\n\n')) });
    await fails((async () => { for await (const _ of cut.generate({ prompt: "x" })); })(), "cut_off", "cut off");
  });
  const deleted = await api.DELETE("/api/onboarding/api-keys/{provider}", { params: { path: { provider: "gemini" } } });
  same(deleted.response.status, 204, "deleted");
  return passed;
}
