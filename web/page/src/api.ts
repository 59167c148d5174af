/** The API, in the name of whoever is signed in. */
import { ApiFailure, createClient, type components } from "user-api-keys-client";
import { by } from "./dom.js";
import { settings } from "./session.js";

type Schemas = components["schemas"];
export type Provider = Schemas["Provider"];
export type KeyRecord = Schemas["KeyRecord"];
export type About = Schemas["OnboardingProvider"];
export type { Schemas };

let token: () => Promise<string | null> = async () => null;
export const api = createClient({ baseUrl: settings.apiUrl || location.origin, getToken: () => token() });

export function inTheNameOf(from: () => Promise<string | null>): void {
  token = from;
}

export function words(error: unknown): string {
  return error instanceof ApiFailure ? error.message : "The answer was lost on the way. Try again.";
}

/** The one line that a screen reader speaks; it never takes the focus. */
export function say(text: string, wrong = false): void {
  const status = by("status");
  status.textContent = text;
  status.className = wrong ? "wrong" : "";
}
