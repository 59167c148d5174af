/** A first text with one's own key. */
import { api, say, words, type About } from "./api.js";
import { el, put } from "./dom.js";

const WRITERS = ["gemini", "openai", "anthropic", "mistral"];

const prompt = el("textarea", { id: "prompt", rows: 3, required: true, maxlength: 2000, autocomplete: "off" }, "Say hello");
const provider = el("select", { id: "writer" });
const output = el("output", { class: "text", for: "prompt", "aria-live": "polite" });
const receipt = el("p", { class: "quiet", id: "receipt" });
const go = el("button", { type: "submit", class: "primary" }, "Write");
const hint = el("p", { class: "quiet" }, "Save a Gemini, OpenAI, Anthropic or Mistral key, and write a first text with it here.");
const form = el("form", { submit: (event) => { event.preventDefault(); void write(); } },
  el("label", { for: "prompt" }, "What should be written?"), prompt, el("div", { class: "row" }, el("label", { for: "writer" }, "With your key of"), provider, go));
const place = el("div", { hidden: true }, form, output, receipt);
let running: AbortController | null = null;
let written: () => Promise<unknown> = async () => undefined;

/** Puts it there; `after` is called when a text has ended, however. */
export function start(at: HTMLElement, after: () => Promise<unknown>): void {
  written = after;
  at.replaceChildren(hint, place);
}

/** Offers the providers that have a key. What is typed and chosen stays. */
export function offer(abouts: About[], masks: Record<string, string | null>): void {
  const writers = abouts.filter((about) => WRITERS.includes(about.provider) && masks[about.provider]);
  hint.hidden = writers.length > 0;
  // Once it is there it may hold a text, so it stays.
  if (writers.length > 0) place.hidden = false;
  for (const option of [...provider.options]) if (!writers.some((about) => about.provider === option.value)) option.remove();
  for (const about of writers) if (![...provider.options].some(({ value }) => value === about.provider)) provider.append(el("option", { value: about.provider }, about.name));
}

async function write(): Promise<void> {
  if (running) return running.abort();
  if (!provider.value) return say(hint.textContent ?? "", true);
  running = new AbortController();
  put(go, "Stop");
  output.textContent = receipt.textContent = "";
  // Spoken when it is whole, not word by word.
  output.setAttribute("aria-busy", "true");
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
  output.removeAttribute("aria-busy");
  put(go, "Write");
  await written();
}
