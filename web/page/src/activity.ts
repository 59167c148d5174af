/** What has been done: onboarding's steps, tokens by day, the audit trail. */
import { api, type About, type Schemas } from "./api.js";
import { by, el, put, svg } from "./dom.js";

type Progress = Schemas["OnboardingProgress"];

/** Opening the page begins onboarding; with every required key there its first step is done. */
export async function progress(abouts: About[], masks: Record<string, string | null>): Promise<Progress> {
  const now = (await api.GET("/api/onboarding/progress")).data!;
  const first = now.steps.find((step) => step.step_number === 1);
  const ready = abouts.every(({ provider, required }) => !required || masks[provider]);
  const done = first?.status === "completed";
  if (now.started_at && (done || !ready)) return now;
  if (!now.started_at) await api.POST("/api/onboarding/start");
  if (ready && !done) await api.POST("/api/onboarding/step/{n}/complete", { params: { path: { n: 1 } }, body: {} });
  return (await api.GET("/api/onboarding/progress")).data!;
}

export function drawSteps({ steps, completion_percentage: percent }: Progress): void {
  by("steps").replaceChildren(
    el("progress", { max: 100, value: percent, "aria-label": "Steps done" }),
    el("span", {}, ` ${percent} %`),
    el("ol", { class: "steps" }, ...steps.map((step) => el("li", { class: step.status, title: step.description }, step.title, el("span", { class: "quiet" }, ` ${step.status.replace("_", " ")}`)))));
}

export function drawUsage(days: Schemas["UsageDay"][]): void {
  const byDay = new Map<string, number>();
  for (const day of days as (Schemas["UsageDay"] & { day: string })[]) byDay.set(day.day, (byDay.get(day.day) ?? 0) + day.prompt_tokens + day.output_tokens);
  const dates = Array.from({ length: 14 }, (_, n) => new Date(Date.now() - (13 - n) * 86_400_000).toISOString().slice(0, 10));
  const most = Math.max(1, ...byDay.values());
  const total = [...byDay.values()].reduce((a, b) => a + b, 0);
  const bars = dates.map((date, n) => svg("rect", { x: n * 20 + 2, width: 16, y: 60 - (56 * (byDay.get(date) ?? 0)) / most, height: Math.max(1, (56 * (byDay.get(date) ?? 0)) / most), class: "bar" }));
  by("usage").replaceChildren(el("figure", {}, svg("svg", { viewBox: "0 0 280 60", role: "img", "aria-label": `${total} tokens in 14 days` }, ...bars) as unknown as HTMLElement,
    el("figcaption", { class: "quiet" }, `${total.toLocaleString()} tokens in the last 14 days`)));
}

const rows = el("tbody");
const nothing = el("p", { class: "quiet" }, "Nothing yet.");
// It scrolls and takes the focus, so it stays while its rows change.
const table = el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Uses of your keys, newest first", hidden: true }, el("table", {},
  el("thead", {}, el("tr", {}, ...["When", "What", "Key of", "By", "Outcome"].map((title) => el("th", { scope: "col" }, title)))), rows));

export function drawTrail(records: Schemas["AuditRecord"][], abouts: About[]): void {
  const name = (provider: string | null) => abouts.find((about) => about.provider === provider)?.name ?? "all";
  if (!table.isConnected) by("trail").replaceChildren(nothing, table);
  nothing.hidden = records.length > 0;
  // An empty one that has the focus keeps it.
  table.hidden = records.length === 0 && document.activeElement !== table;
  rows.replaceChildren(...records.map((record) => el("tr", {}, ...[new Date(record.at).toLocaleString(), record.action, name(record.provider), record.function, record.outcome].map((text) => el("td", {}, text)))));
}
