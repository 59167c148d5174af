/** Who is using the page: the local developer, or whoever Clerk says. */
import { loadClerk, type Clerk } from "./clerk.js";
import { el, put } from "./dom.js";
import * as publicKey from "./public-key.js";

interface Settings { apiUrl?: string; missing?: string; clerk?: { publishableKey: string; frontendApi: string } }

export const settings: Settings = {
  // A build for another host says where the API and Clerk are; the server that has the page inside says so itself.
  apiUrl: (import.meta.env["VITE_API_URL"] as string | undefined) ?? "",
  ...(import.meta.env["VITE_CLERK_PUBLISHABLE_KEY"] ? { clerk: { publishableKey: import.meta.env["VITE_CLERK_PUBLISHABLE_KEY"] as string, frontendApi: import.meta.env["VITE_CLERK_FRONTEND_API"] as string } } : {}),
  ...(JSON.parse(document.getElementById("settings")?.textContent || "{}") as Settings),
};

/** The developer's name where nobody signs in. */
const DEVELOPER = "local";

/** Signs in where Clerk is configured; `ready` once somebody is there, with where their token comes from. */
export async function begin(who: HTMLElement, ready: (user: string, token: () => Promise<string | null>) => void): Promise<void> {
  if (settings.missing) throw new Error(`People sign in here, and the page does not know where: set ${settings.missing}.`);
  if (!settings.clerk) {
    who.textContent = "Local mode: these are the developer's own keys.";
    return ready(DEVELOPER, async () => null);
  }
  const clerk = await loadClerk(settings.clerk);
  /** Whose page this is; `undefined` until that is known. */
  let now: string | null | undefined;
  const name = el("span");
  const show = () => {
    if (clerk.user === undefined) return;
    const id = clerk.user?.id ?? null;
    put(name, `Signed in as ${clerk.user?.primaryEmailAddress?.emailAddress ?? "you"}. `);
    if (id === now) return;
    if (typeof now === "string") return leave();
    now = id;
    if (id === null) publicKey.forget();
    // What one user began is never sent in the name of the next.
    else ready(id, async () => (clerk.user?.id === id && (await clerk.session?.getToken())) || null);
    who.replaceChildren(...(id === null
      ? [el("button", { type: "button", class: "primary", click: () => clerk.openSignIn() }, "Sign in")]
      : [name, el("button", { type: "button", click: () => void signOut(clerk) }, "Sign out")]));
  };
  clerk.addListener(show);
  show();
}

async function signOut(clerk: Clerk): Promise<void> {
  clear();
  await clerk.signOut().catch(() => undefined);
  leave();
}

/** The page of one user ends; the next one begins with a page on which nothing was typed or shown. */
function leave(): void {
  clear();
  document.body.hidden = true;
  location.reload();
}

function clear(): void {
  publicKey.keepFor(null);
  for (const field of document.querySelectorAll<HTMLInputElement | HTMLTextAreaElement>("input, textarea")) field.value = "";
}
