/** The page: reads what there is, shows it, and acts. A key is in a field until it is sent, and nowhere else. */
import * as activity from "./activity.js";
import { api, inTheNameOf, say, words, type About, type KeyRecord, type Schemas } from "./api.js";
import { card, type Card } from "./card.js";
import { by } from "./dom.js";
import * as publicKey from "./public-key.js";
import { begin } from "./session.js";
import "./style.css";
import * as writer from "./writer.js";

let abouts: About[] = [];
const cards = new Map<string, Card>();

/** Reads and shows; an answer that a later one has overtaken is not shown. */
function reader<T>(read: () => Promise<T>, show: (value: T) => void): () => Promise<void> {
  let begun = 0;
  let shown = 0;
  return async () => {
    const mine = ++begun;
    const value = await read();
    if (mine < shown) return;
    shown = mine;
    show(value);
  };
}

const keys = reader(async () => (await api.GET("/api/onboarding/api-keys")).data!, showKeys);
const usage = reader(async () => (await api.GET("/api/onboarding/api-keys/usage", { params: { query: { days: 14 } } })).data!.days, activity.drawUsage);
const trail = reader(async () => (await api.GET("/api/onboarding/api-keys/audit", { params: { query: { limit: 20 } } })).data!.records,
  (records) => activity.drawTrail(records, abouts));
let masks: Record<string, string | null> = {};
const steps = reader(() => activity.progress(abouts, masks), activity.drawSteps);

function showKeys({ keys: records, api_keys }: Schemas["KeysAnswer"]): void {
  masks = api_keys;
  const of = new Map<string, KeyRecord>(records.map((key) => [key.provider, key]));
  for (const [provider, card] of cards) card.show(of.get(provider), masks[provider] ?? null);
  writer.offer(abouts, masks);
  // One that cannot be read is absent until the next try.
  publicKey.follow(of.get("copilotkit"), readPublicKey).catch(() => undefined);
}

/** The user's CopilotKit key, if it is still this one. */
async function readPublicKey(kid: string): Promise<string | null> {
  const { data } = await api.GET("/api/onboarding/api-keys/onboarding", { params: { query: { provider: "copilotkit" } } });
  return data!.keys.some((key) => key.kid === kid) ? (data!.api_keys["copilotkit"] ?? null) : null;
}

/** Reads all of it again, each part for itself; what could not be read stays as it was, and is said. */
async function refresh(): Promise<string | null> {
  const parts = await Promise.allSettled([keys().then(steps), usage(), trail()]);
  const failed = parts.find((part) => part.status === "rejected");
  return failed ? words(failed.reason) : null;
}

async function open(): Promise<void> {
  abouts = (await api.GET("/api/onboarding/config")).data!.providers;
  abouts.sort((a, b) => Number(b.required) - Number(a.required));
  for (const about of abouts) cards.set(about.provider, card(about, refresh));
  by("cards").replaceChildren(...[...cards.values()].map(({ element }) => element));
  writer.start(by("try"), async () => {
    const stale = await refresh();
    if (stale) say(stale, true);
  });
  const missing = await refresh();
  if (missing) say(missing, true);
}

begin(by("who"), (user, token) => {
  inTheNameOf(token);
  publicKey.keepFor(user);
  void open().catch((error: unknown) => say(words(error), true));
}).catch((error: Error) => say(error.message, true));
