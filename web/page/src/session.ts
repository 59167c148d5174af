/** Who is using the page: the local developer, or whoever Clerk says. */
import { el } from "./dom.js";

interface Clerk {
  load(): Promise<void>;
  user: { primaryEmailAddress?: { emailAddress: string } | null } | null | undefined;
  session: { getToken(): Promise<string | null> } | null | undefined;
  openSignIn(): void;
  signOut(): Promise<void>;
  addListener(listener: () => void): void;
}
declare global { interface Window { Clerk?: Clerk } }

interface Settings { apiUrl?: string; missing?: string; clerk?: { publishableKey: string; frontendApi: string } }

export const settings: Settings = {
  // A build for another host says where the API and Clerk are; the server that has the page inside says so itself.
  apiUrl: (import.meta.env["VITE_API_URL"] as string | undefined) ?? "",
  ...(import.meta.env["VITE_CLERK_PUBLISHABLE_KEY"] ? { clerk: { publishableKey: import.meta.env["VITE_CLERK_PUBLISHABLE_KEY"] as string, frontendApi: import.meta.env["VITE_CLERK_FRONTEND_API"] as string } } : {}),
  ...(JSON.parse(document.getElementById("settings")?.textContent || "{}") as Settings),
};

/** Clerk's own browser library, from the instance itself, as Clerk wants it. */
async function loadClerk(clerk: NonNullable<Settings["clerk"]>): Promise<Clerk> {
  await new Promise<void>((resolve, reject) => {
    const script = el("script", { src: `${clerk.frontendApi}/npm/@clerk/clerk-js@5/dist/clerk.browser.js`, "data-clerk-publishable-key": clerk.publishableKey, crossorigin: "anonymous" });
    script.addEventListener("load", () => resolve());
    script.addEventListener("error", () => reject(new Error("The sign-in service cannot be reached. Check the connection and load the page again.")));
    document.head.append(script);
  });
  const loaded = window.Clerk;
  if (!loaded) throw new Error("The sign-in service did not start. Load the page again.");
  await loaded.load();
  return loaded;
}

/** Signs in where Clerk is configured; `ready` each time somebody is there, with where their token comes from. */
export async function begin(who: HTMLElement, ready: (token: () => Promise<string | null>) => void): Promise<void> {
  if (settings.missing) throw new Error(`People sign in here, and the page does not know where: set ${settings.missing}.`);
  if (!settings.clerk) {
    who.textContent = "Local mode: these are the developer's own keys.";
    return ready(async () => null);
  }
  const clerk = await loadClerk(settings.clerk);
  let before: unknown = null;
  const show = () => {
    const user = clerk.user;
    who.replaceChildren(user
      ? el("span", {}, `Signed in as ${user.primaryEmailAddress?.emailAddress ?? "you"}. `, el("button", { type: "button", click: () => void clerk.signOut().then(() => location.reload()) }, "Sign out"))
      : el("button", { type: "button", class: "primary", click: () => clerk.openSignIn() }, "Sign in"));
    if (user && user !== before) ready(async () => (await clerk.session?.getToken()) ?? null);
    before = user;
  };
  clerk.addListener(show);
  show();
}
