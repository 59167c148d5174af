/**
 * CopilotKit's public key in the browser: the app around this page reads it from `localStorage`.
 *
 * It is there only while the signed-in user has such a key in use, and never for anybody else: its owner and
 * the id of the key stand beside it. Nothing but a public key (`ck_pub_…`) is ever put there.
 */
import type { KeyRecord } from "./api.js";

const VALUE = "copilotkit_api_key";
const OWNER = "copilotkit_api_key_owner";
const KID = "copilotkit_api_key_kid";
const PUBLIC = /^ck_pub_./;
/** Longer than this a timer of a browser does not wait. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** None where the browser keeps nothing for this page. */
const storage = ((): Storage | null => {
  try {
    return window.localStorage;
  } catch {
    return null;
  }
})();
let owner: string | null = null;
/** The key that should be there. */
let wanted: string | null = null;
/** The key about which the server has been asked. */
let asked: string | null = null;
let expiry: ReturnType<typeof setTimeout> | undefined;

/** From now on for this user; what is there and not theirs goes. */
export function keepFor(user: string | null): void {
  owner = user;
  if (user === null || storage?.getItem(OWNER) !== user) forget();
}

/** Takes it out, and tells the app. */
export function forget(): void {
  clearTimeout(expiry);
  const there = storage?.getItem(VALUE) != null;
  for (const name of [VALUE, OWNER, KID]) storage?.removeItem(name);
  if (there) tell("");
}

/** Puts the key there that the user has just saved. */
export function put(kid: string, apiKey: string): void {
  wanted = kid;
  if (owner === null || !PUBLIC.test(apiKey)) return forget();
  try {
    // The value last: it is never there without its owner.
    storage?.setItem(OWNER, owner);
    storage?.setItem(KID, kid);
    storage?.setItem(VALUE, apiKey);
  } catch {
    return forget();
  }
  tell(apiKey);
}

/** Brings it in line with the server's record: kept, gone, or read anew where it is another key. */
export async function follow(record: KeyRecord | undefined, read: (kid: string) => Promise<string | null>): Promise<void> {
  const left = record?.expires_at ? Date.parse(record.expires_at) - Date.now() : Infinity;
  if (owner === null || !record?.enabled || left <= 0) {
    wanted = asked = null;
    return forget();
  }
  const { kid } = record;
  wanted = kid;
  if (storage?.getItem(KID) !== kid || !PUBLIC.test(storage.getItem(VALUE) ?? "")) {
    forget();
    if (asked === kid) return;
    const apiKey = await read(kid);
    asked = kid;
    if (!apiKey || wanted !== kid) return;
    put(kid, apiKey);
  }
  clearTimeout(expiry);
  if (left < LONGEST_TIMER_MS) expiry = setTimeout(forget, left);
}

function tell(apiKey: string): void {
  window.dispatchEvent(new CustomEvent("copilotkit-key-updated", { detail: { apiKey } }));
}
