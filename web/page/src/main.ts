/** The page: reads what there is, draws it, and acts. A key is in a field until it is sent, and nowhere else. */
import { ApiFailure, createClient, type components } from "user-api-keys-client";
import { ago, by, el, svg } from "./dom.js";
import { begin, settings } from "./session.js";
import "./style.css";

type Schemas = components["schemas"];
type Provider = Schemas["Provider"];
type KeyRecord = Schemas["KeyRecord"];
type About = Schemas["OnboardingProvider"];

let token: () => Promise<string | null> = async () => null;
const api = createClient({ baseUrl: settings.apiUrl || location.origin, getToken: () => token() });

function say(text: string, wrong = false): void {
  const status = by("status");
  status.textContent = text;
  status.className = wrong ? "wrong" : "";
}

function words(error: unknown): string {
  return error instanceof ApiFailure ? error.message : "Something went wrong here. Load the page again.";
}

/** Does it, says how it went, and draws what is there now. */
async function act(done: string, work: () => Promise<unknown>): Promise<boolean> {
  try {
    await work();
    say(done);
    await draw();
    return true;
  } catch (error) {
    say(words(error), true);
    return false;
  }
}

async function draw(): Promise<void> {
  const [config, keys, progress, usage, trail] = await Promise.all([
    api.GET("/api/onboarding/config"), api.GET("/api/onboarding/api-keys"), api.GET("/api/onboarding/progress"),
    api.GET("/api/onboarding/api-keys/usage", { params: { query: { days: 14 } } }),
    api.GET("/api/onboarding/api-keys/audit", { params: { query: { limit: 20 } } }),
  ]);
  drawSteps(await advanced(progress.data!, config.data!.providers, keys.data!.api_keys));
  const records = new Map(keys.data!.keys.map((key) => [key.provider, key]));
  const abouts = [...config.data!.providers].sort((a, b) => Number(b.required) - Number(a.required));
  // What somebody has begun to type in another card stays.
  const typed = [...by("cards").querySelectorAll("input")].map((field) => [field.id, field.value] as const);
  by("cards").replaceChildren(...abouts.map((about) => card(about, records.get(about.provider), keys.data!.api_keys[about.provider] ?? null)));
  for (const [id, value] of typed) by("cards").querySelector<HTMLInputElement>(`#${id}`)!.value = value;
  drawTry(abouts.filter(({ provider }) => ["gemini", "openai", "anthropic", "mistral"].includes(provider) && keys.data!.api_keys[provider]));
  drawUsage(usage.data!.days);
  drawTrail(trail.data!.records, abouts);
}

/** Opening the page begins onboarding; with every required key there its first step is done. */
async function advanced(progress: Schemas["OnboardingProgress"], abouts: About[], masks: Record<string, string | null>): Promise<Schemas["OnboardingProgress"]> {
  const first = progress.steps.find((step) => step.step_number === 1);
  const ready = abouts.every(({ provider, required }) => !required || masks[provider]);
  const done = first?.status === "completed";
  if (progress.started_at && (done || !ready)) return progress;
  if (!progress.started_at) await api.POST("/api/onboarding/start");
  if (ready && !done) await api.POST("/api/onboarding/step/{n}/complete", { params: { path: { n: 1 } }, body: {} });
  return (await api.GET("/api/onboarding/progress")).data!;
}

function drawSteps({ steps, completion_percentage: percent }: Schemas["OnboardingProgress"]): void {
  by("steps").replaceChildren(
    el("progress", { max: 100, value: percent, "aria-label": "Steps done" }),
    el("span", {}, ` ${percent} %`),
    el("ol", { class: "steps" }, ...steps.map((step) => el("li", { class: step.status, title: step.description }, step.title, el("span", { class: "quiet" }, ` ${step.status.replace("_", " ")}`)))));
}

function verdict(key: KeyRecord): [string, string] {
  if (!key.enabled) return ["quiet", "paused"];
  if (key.expires_at && Date.parse(key.expires_at) <= Date.now()) return ["wrong", "expired"];
  if (key.status === "invalid") return ["wrong", "refused by its provider"];
  return key.status === "active" ? ["good", "works"] : ["quiet", "saved, not checked yet"];
}

function card(about: About, key: KeyRecord | undefined, mask: string | null): HTMLElement {
  const { provider, name, required } = about;
  const id = `key-${provider}`;
  const field = el("input", { id, type: "password", autocomplete: "off", autocapitalize: "off", spellcheck: "false", maxlength: 1024, placeholder: key ? "Another key" : "Paste your key", required: true });
  const show = el("button", { type: "button", "aria-pressed": "false", "aria-label": `Show the ${name} key you are typing`, click: () => {
    const hidden = field.type === "password";
    field.type = hidden ? "text" : "password";
    show.setAttribute("aria-pressed", String(hidden));
  } }, "Show");
  const problem = el("p", { id: `${id}-problem`, class: "wrong", hidden: true });
  const save = el("button", { type: "submit", class: "primary" }, key ? "Replace" : "Save");
  const form = el("form", { autocomplete: "off", submit: (event) => { event.preventDefault(); void send(); } },
    el("label", { for: id }, `${name} key`), el("div", { class: "row" }, field, show, save), problem,
    el("button", { type: "button", class: "link", click: () => void where(about, form) }, "Where do I get one?"));
  async function send(): Promise<void> {
    save.disabled = true;
    problem.hidden = true;
    say(`Checking the ${name} key …`);
    const api_key = field.value;
    try {
      const { data } = await api.POST("/api/onboarding/api-keys", { body: { provider, api_key } });
      field.value = "";
      if (provider === "copilotkit") hand(api_key);
      const checked = data!.key.check === "valid" ? "and its provider takes it" : "and will be checked later";
      say(`${name}: saved, ${checked}. ${(data!.warnings ?? []).join(" ")}`);
      await draw();
      by("cards").querySelector<HTMLElement>(`#${id}`)?.focus();
    } catch (error) {
      problem.textContent = words(error);
      problem.hidden = false;
      field.setAttribute("aria-invalid", "true");
      field.setAttribute("aria-describedby", problem.id);
      say(words(error), true);
      field.focus();
    } finally {
      save.disabled = false;
    }
  }
  const [tone, state] = key ? verdict(key) : mask ? ["good", "from the environment or .env"] : ["quiet", "none yet"];
  return el("article", { class: "card", "aria-labelledby": `${id}-name`, "data-provider": provider },
    el("h3", { id: `${id}-name` }, name, required && el("span", { class: "badge" }, "required")),
    el("p", {}, mask && el("code", {}, mask), mask && " ", el("span", { class: tone }, state)),
    key && el("p", { class: "quiet" }, `${key.age_days ? `${key.age_days} days old` : "saved today"}${key.stale ? ", time for a new one" : ""}; ${key.last_used_at ? `last used ${ago(key.last_used_at)}` : "not used yet"}`),
    form,
    key && el("div", { class: "row" },
      el("button", { type: "button", "aria-label": `${key.enabled ? "Pause" : "Go on with"} the ${name} key`, click: () => void act(`${name}: ${key.enabled ? "paused" : "in use again"}.`, () => api.PATCH("/api/onboarding/api-keys/{provider}", { params: { path: { provider } }, body: { enabled: !key.enabled } })) }, key.enabled ? "Pause" : "Go on"),
      key.previous && el("button", { type: "button", "aria-label": `Bring back …${key.previous.hint}, the former ${name} key`, click: () => void act(`${name}: the former key is back.`, () => api.POST("/api/onboarding/api-keys/{provider}/restore", { params: { path: { provider } } })) }, `Bring back …${key.previous.hint}`),
      el("button", { type: "button", class: "danger", "aria-label": `Delete the ${name} key`, click: (event) => confirmed(event.currentTarget as HTMLButtonElement, () => act(`${name}: deleted.`, () => api.DELETE("/api/onboarding/api-keys/{provider}", { params: { path: { provider } } }))) }, "Delete")));
}

/** A second press within five seconds does it. */
function confirmed(button: HTMLButtonElement, work: () => Promise<unknown>): void {
  if (button.dataset["sure"]) return void work();
  const before = [button.textContent, button.getAttribute("aria-label") ?? ""] as const;
  button.dataset["sure"] = "yes";
  button.textContent = "Really delete?";
  button.setAttribute("aria-label", `Really delete? ${before[1]}`);
  setTimeout(() => {
    delete button.dataset["sure"];
    button.textContent = before[0];
    button.setAttribute("aria-label", before[1]);
  }, 5_000);
}

/** CopilotKit's public key is the browser's own; the app around this page listens. */
function hand(api_key: string): void {
  localStorage.setItem("copilotkit_api_key", api_key);
  window.dispatchEvent(new CustomEvent("copilotkit-key-updated", { detail: api_key }));
}

async function where({ provider, name }: About, form: HTMLFormElement): Promise<void> {
  try {
    const { data } = await api.GET("/api/onboarding/providers/{provider}/setup", { params: { path: { provider } } });
    const link = el("a", { href: data!.get_key_at, target: "_blank", rel: "noreferrer noopener" }, `${name}'s page for keys`);
    form.querySelector(".link")?.replaceWith(link);
    link.focus();
  } catch (error) {
    say(words(error), true);
  }
}

function drawTry(writers: About[]): void {
  const place = by("try");
  if (writers.length === 0) {
    place.replaceChildren(el("p", { class: "quiet" }, "Save a Gemini, OpenAI, Anthropic or Mistral key, and write a first text with it here."));
    return;
  }
  if (place.querySelector("form")) return;
  const prompt = el("textarea", { id: "prompt", rows: 3, required: true, maxlength: 2000 }, "Say hello");
  const provider = el("select", { id: "writer" }, ...writers.map((about) => el("option", { value: about.provider }, about.name)));
  const output = el("output", { class: "text", for: "prompt", "aria-live": "polite" });
  const receipt = el("p", { class: "quiet", id: "receipt" });
  const go = el("button", { type: "submit", class: "primary" }, "Write");
  let running: AbortController | null = null;
  async function write(): Promise<void> {
    if (running) return running.abort();
    running = new AbortController();
    go.textContent = "Stop";
    output.textContent = receipt.textContent = "";
    try {
      for await (const event of api.generate({ prompt: prompt.value, provider: provider.value as "gemini" }, { signal: running.signal })) {
        if (event.type === "start") receipt.textContent = `Paid by your own ${event.provider} key that ends in ${event.credential.hint} (${event.model}).`;
        if (event.type === "delta") output.append(event.text);
        if (event.type === "done") receipt.append(` ${event.usage.total_tokens} tokens.`);
      }
    } catch (error) {
      if (!running.signal.aborted) say(words(error), true);
    }
    running = null;
    go.textContent = "Write";
    await draw().catch(() => undefined);
  }
  place.replaceChildren(el("form", { submit: (event) => { event.preventDefault(); void write(); } },
    el("label", { for: "prompt" }, "What should be written?"), prompt, el("div", { class: "row" }, el("label", { for: "writer" }, "With your key of"), provider, go)), output, receipt);
}

function drawUsage(days: Schemas["UsageDay"][]): void {
  const byDay = new Map<string, number>();
  for (const day of days as (Schemas["UsageDay"] & { day: string })[]) byDay.set(day.day, (byDay.get(day.day) ?? 0) + day.prompt_tokens + day.output_tokens);
  const dates = Array.from({ length: 14 }, (_, n) => new Date(Date.now() - (13 - n) * 86_400_000).toISOString().slice(0, 10));
  const most = Math.max(1, ...byDay.values());
  const total = [...byDay.values()].reduce((a, b) => a + b, 0);
  const bars = dates.map((date, n) => svg("rect", { x: n * 20 + 2, width: 16, y: 60 - (56 * (byDay.get(date) ?? 0)) / most, height: Math.max(1, (56 * (byDay.get(date) ?? 0)) / most), class: "bar" }));
  by("usage").replaceChildren(el("figure", {}, svg("svg", { viewBox: "0 0 280 60", role: "img", "aria-label": `${total} tokens in 14 days` }, ...bars) as unknown as HTMLElement,
    el("figcaption", { class: "quiet" }, `${total.toLocaleString()} tokens in the last 14 days`)));
}

function drawTrail(records: Schemas["AuditRecord"][], abouts: About[]): void {
  const name = (provider: string | null) => abouts.find((about) => about.provider === provider)?.name ?? "all";
  by("trail").replaceChildren(records.length === 0 ? el("p", { class: "quiet" }, "Nothing yet.") : el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Uses of your keys, newest first" }, el("table", {},
    el("thead", {}, el("tr", {}, ...["When", "What", "Key of", "By", "Outcome"].map((title) => el("th", { scope: "col" }, title)))),
    el("tbody", {}, ...records.map((record) => el("tr", {}, el("td", {}, new Date(record.at).toLocaleString()), el("td", {}, record.action), el("td", {}, name(record.provider)), el("td", {}, record.function), el("td", {}, record.outcome)))))));
}

begin(by("who"), (from) => {
  token = from;
  void draw().catch((error: unknown) => say(words(error), true));
}).catch((error: Error) => say(error.message, true));
