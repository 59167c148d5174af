/** Clerk's own browser library, from the instance itself, as Clerk wants it: one exact version, whose bytes are known. */
import { el } from "./dom.js";

export interface Clerk {
  load(): Promise<void>;
  /** `undefined` while it changes from one session to another. */
  user: { id: string; primaryEmailAddress?: { emailAddress: string } | null } | null | undefined;
  session: { getToken(): Promise<string | null> } | null | undefined;
  openSignIn(): void;
  signOut(): Promise<void>;
  addListener(listener: () => void): void;
}
declare global { interface Window { Clerk?: Clerk } }

// To renew: put the new version of the npm package @clerk/clerk-js here (5.x: from 6 on its sign-in form is a
// package of its own) and run `node web/page/test/clerk.mjs`, which prints the integrity of that version's
// dist/clerk.browser.js and, as part of scripts/page, fails while the two lines do not belong together.
const VERSION = "5.128.0";
const INTEGRITY = "sha384-LHRDhAkzuUtCC23BjnUfCyHTnckclkFVsJ+6INMm96oc9tB1RXrraLiG7QlTWgGa";

/** Loads it from `frontendApi`; a file with other bytes is not run. */
export async function loadClerk({ publishableKey, frontendApi }: { publishableKey: string; frontendApi: string }): Promise<Clerk> {
  await new Promise<void>((resolve, reject) => {
    const script = el("script", {
      src: `${frontendApi}/npm/@clerk/clerk-js@${VERSION}/dist/clerk.browser.js`,
      integrity: INTEGRITY,
      crossorigin: "anonymous",
      "data-clerk-publishable-key": publishableKey,
    });
    script.addEventListener("load", () => resolve());
    script.addEventListener("error", () => reject(new Error("The sign-in service cannot be reached. Check the connection and load the page again.")));
    document.head.append(script);
  });
  const loaded = window.Clerk;
  if (!loaded) throw new Error("The sign-in service did not start. Load the page again.");
  await loaded.load();
  return loaded;
}
