/**
 * One provider's card. Made once and from then on changed in place, so that no answer, of whatever request,
 * takes the focus or a character from where the user put it.
 */
import { api, say, words, type About, type KeyRecord, type Schemas } from "./api.js";
import { confirmed } from "./confirm.js";
import { ago, el, link, put } from "./dom.js";
import * as publicKey from "./public-key.js";
import { settings } from "./session.js";

export interface Card {
  element: HTMLElement;
  /** Shows what the server has now. */
  show(key: KeyRecord | undefined, mask: string | null): void;
}

/** `changed` reads again what the page shows, and says what could not be read. */
export function card(about: About, changed: () => Promise<string | null>): Card {
  const { provider, name, required } = about;
  const id = `key-${provider}`;
  const path = { params: { path: { provider } } };
  let record: KeyRecord | undefined;
  /** Of the key that this card shows, or has just saved. */
  let version: number | undefined;
  let busy = false;
  /** Grows as the user types. */
  let edits = 0;

  const field = el("input", { id, type: "password", autocomplete: "off", autocapitalize: "off", spellcheck: "false", maxlength: 1024, placeholder: "Paste your key", required: true, input: () => { edits += 1; } });
  const reveal = el("button", { type: "button", "aria-pressed": "false", "aria-label": `Show the ${name} key you are typing`, click: () => shown(field.type === "password") }, "Show");
  const save = el("button", { type: "submit", class: "primary" }, "Save");
  const problem = el("p", { id: `${id}-problem`, class: "wrong", hidden: true });
  const form = el("form", { autocomplete: "off", submit: (event) => { event.preventDefault(); void send(); } },
    el("label", { for: id }, `${name} key`), el("div", { class: "row" }, field, reveal, save), problem, link("Where do I get one?", where));

  const pause = el("button", { type: "button", click: (event) => first(event) && void change() });
  const restore = el("button", { type: "button", click: (event) => first(event) && void bringBack() });
  const remove = el("button", { type: "button", class: "danger", "aria-label": `Delete the ${name} key`, "aria-haspopup": "dialog", click: (event) => void ask(event) }, "Delete");
  const actions = el("div", { class: "row", hidden: true }, pause, restore, remove);

  const hint = el("code");
  const state = el("span");
  const age = el("p", { class: "quiet", hidden: true });
  const element = el("article", { class: "card", "aria-labelledby": `${id}-name`, "data-provider": provider },
    el("h3", { id: `${id}-name` }, name, required && el("span", { class: "badge" }, "required")),
    el("p", {}, hint, " ", state), age, form, actions);

  function show(key: KeyRecord | undefined, mask: string | null): void {
    record = key;
    version = key?.version;
    const [tone, text] = key ? verdict(key, about) : mask ? ["good", "From the environment or .env"] : ["quiet", "None yet"];
    put(hint, mask ?? "");
    put(state, text);
    state.className = tone;
    put(age, key ? history(key) : "");
    age.hidden = !key;
    field.placeholder = key ? "Another key" : "Paste your key";
    put(save, key ? "Replace" : "Save");
    put(pause, key && !key.enabled ? "Go on" : "Pause");
    pause.setAttribute("aria-label", `${key && !key.enabled ? "Go on with" : "Pause"} the ${name} key`);
    put(restore, `Bring back …${key?.previous?.hint ?? ""}`);
    restore.setAttribute("aria-label", `Bring back …${key?.previous?.hint ?? ""}, the former ${name} key`);
    const focused = document.activeElement;
    restore.hidden = !key?.previous;
    actions.hidden = !key;
    // Only who stands on a control that is gone is taken elsewhere: to the field of the same card.
    if (focused && element.contains(focused) && focused.closest("[hidden]")) field.focus();
  }

  /** One thing at a time for each card; whatever comes of it, what is typed and where the focus is stays. */
  async function act(doing: string, work: () => Promise<string>, wrong: (text: string) => void = complain): Promise<void> {
    if (busy) return;
    setBusy(true);
    complain(null);
    say(doing);
    let done: [string, boolean];
    try {
      done = [await work(), false];
    } catch (error) {
      wrong(words(error));
      done = [`${name}: ${words(error)}`, true];
    }
    say(...done);
    setBusy(false);
    const stale = await changed();
    if (stale) say(`${done[0]} What is shown may be old: ${stale}`, true);
  }

  /** No control is disabled: a browser takes the focus from one that is. */
  function setBusy(now: boolean): void {
    busy = now;
    for (const button of [save, pause, restore, remove]) button.setAttribute("aria-disabled", String(now));
  }

  function complain(text: string | null): void {
    put(problem, text ?? "");
    problem.hidden = text === null;
    field.removeAttribute("aria-invalid");
    field.removeAttribute("aria-describedby");
  }

  function refused(text: string): void {
    complain(text);
    field.setAttribute("aria-invalid", "true");
    field.setAttribute("aria-describedby", problem.id);
  }

  function shown(plain: boolean): void {
    field.type = plain ? "text" : "password";
    reveal.setAttribute("aria-pressed", String(plain));
  }

  /** Nothing is changed that another page has changed since. */
  function seen(): Record<string, string> {
    return version === undefined ? {} : { "If-Match": `"${version}"` };
  }

  function send(): Promise<void> {
    return act(`Checking the ${name} key …`, async () => {
      const api_key = field.value;
      const before = edits;
      const { data } = await api.POST("/api/onboarding/api-keys", { body: { provider, api_key }, headers: seen() });
      version = data!.key.version;
      // What has been typed here since then is the next key.
      if (edits === before) {
        field.value = "";
        shown(false);
      }
      if (provider === "copilotkit") publicKey.put(data!.key.kid, api_key);
      return saved(about, data!);
    }, refused);
  }

  function change(): Promise<void> {
    const enabled = !record?.enabled;
    return act(`${name} …`, async () => {
      await api.PATCH("/api/onboarding/api-keys/{provider}", { ...path, body: { enabled }, headers: seen() });
      return `${name}: ${enabled ? "in use again" : "paused"}.`;
    });
  }

  function bringBack(): Promise<void> {
    return act(`${name} …`, async () => {
      const { data } = await api.POST("/api/onboarding/api-keys/{provider}/restore", { ...path, headers: seen() });
      version = data!.key.version;
      return `${name}: the former key is back. ${(data!.warnings ?? []).join(" ")}`.trim();
    });
  }

  async function ask(event: Event): Promise<void> {
    if (busy) return;
    const sure = await confirmed(event, `Delete the ${name} key?`, "It cannot be brought back.", "Delete key");
    // Deleted elsewhere while the question was open.
    if (actions.hidden) field.focus();
    if (!sure) return;
    await act(`${name} …`, async () => {
      await api.DELETE("/api/onboarding/api-keys/{provider}", { ...path, headers: seen() });
      return `${name}: deleted.`;
    });
  }

  async function where(): Promise<[string, string] | null> {
    try {
      const { data } = await api.GET("/api/onboarding/providers/{provider}/setup", path);
      return [data!.get_key_at, `${name}'s page for keys`];
    } catch (error) {
      say(words(error), true);
      return null;
    }
  }

  return { element, show };
}

/** Whether it is not the second half of a double-click, which would undo the first. */
function first(event: Event): boolean {
  return (event as MouseEvent).detail < 2;
}

function verdict(key: KeyRecord, about: About): [string, string] {
  if (!key.enabled) return ["quiet", "Paused"];
  if (key.expires_at && Date.parse(key.expires_at) <= Date.now()) return ["wrong", "Expired"];
  if (key.status === "invalid") return ["wrong", "Refused by its provider"];
  if (key.status === "active") return ["good", "Works"];
  return ["quiet", about.can_be_tested ? "Saved, not checked yet" : "Saved"];
}

function history(key: KeyRecord): string {
  const age = `${key.age_days ? `${key.age_days} days old` : "saved today"}${key.stale ? ", time for a new one" : ""}`;
  if (key.last_used_at) return `${age}; last used ${ago(key.last_used_at)}`;
  // In Local mode a key is also read from `.env`, and then its row does not know.
  return settings.clerk ? `${age}; not used yet` : age;
}

function saved({ name, can_be_tested }: About, { key, warnings = [] }: Schemas["SaveAnswer"]): string {
  const tested = key.check === "valid" ? `${name}: saved, and its provider takes it.`
    : can_be_tested ? `${name}: saved without a test.`
    : `Saved. ${name} offers no way to test a key, so the first use will show.`;
  return [tested, ...warnings].join(" ");
}
