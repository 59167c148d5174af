/**
 * Client of user-api-keys for browsers (and Node 20).
 *
 * `createClient({ baseUrl, getToken })` gives every route of the API with its types, and `generate`, whose
 * words come as an async iterator. Whatever fails throws an {@link ApiFailure}.
 */
import createFetchClient, { type Client as FetchClient, type Middleware } from "openapi-fetch";
import type { components, paths } from "./api.js";
import { events } from "./events.js";

export type { components, paths } from "./api.js";

type Schemas = components["schemas"];
/** A failure as the API describes it (RFC 9457). */
export type Problem = Schemas["Problem"];
/** The API's stable codes, and two of this client's own. */
export type FailureCode = Problem["code"] | "unreachable" | "cut_off";

/** Where the API is, and who is calling. */
export interface ClientOptions {
  /** Its address, such as the stack's output `ApiUrl`. */
  baseUrl: string;
  /** The session token, asked for each attempt since it lives a minute: Clerk's `getToken`. */
  getToken?: () => Promise<string | null> | string | null;
  /** How often a request that was answered 429 or 503 is sent again. */
  retries?: number;
  /** The longest wait that is worth it, in seconds; a longer `retry_after` is thrown. */
  maxWaitSeconds?: number;
  /** For tests. */
  fetch?: (request: Request) => Promise<Response>;
  /** For tests: waits so many milliseconds. */
  sleep?: (ms: number, signal?: AbortSignal) => Promise<void>;
}

/** What went wrong. `message` says what to do and can be shown to people. */
export class ApiFailure extends Error {
  override readonly name = "ApiFailure";
  constructor(
    readonly code: FailureCode,
    message: string,
    /** HTTP status; 0 where there was no answer. */
    readonly status: number,
    /** Names the request in the service's log. */
    readonly requestId: string | null = null,
    /** Seconds after which it is worth trying again. */
    readonly retryAfter: number | null = null,
  ) {
    super(message);
  }

  static of(problem: Problem): ApiFailure {
    return new ApiFailure(problem.code, problem.detail, problem.status, problem.request_id, problem.retry_after ?? null);
  }
}

/** One event of a streamed answer. A failure is thrown in place of `error`. */
export type GenerateEvent =
  | { type: "start"; provider: string; model: string; credential: Schemas["Credential"]; research_credential?: Schemas["Credential"]; warnings?: string[] }
  | { type: "sources"; sources: Schemas["Source"][] }
  | { type: "delta"; text: string }
  | { type: "done"; finish_reason: string; usage: Schemas["Usage"] };

/** Every route with its types, and streamed text. */
export interface Client extends FetchClient<paths, `${string}/${string}`> {
  /** Text from the caller's own provider, as the words come; ends after `done`, or throws. */
  generate(body: Omit<Schemas["GenerateRequest"], "stream">, options?: { signal?: AbortSignal }): AsyncGenerator<GenerateEvent, void, undefined>;
}

/** A client of the API at `baseUrl`. */
export function createClient(options: ClientOptions): Client {
  const send = sender(options);
  const client = createFetchClient<paths, `${string}/${string}`>({ baseUrl: options.baseUrl, fetch: send });
  const failures: Middleware = {
    async onResponse({ response }) {
      if (!response.ok) throw await failure(response);
    },
  };
  client.use(failures);
  return Object.assign(client, { generate: (body: object, more: { signal?: AbortSignal } = {}) => generate(send, options.baseUrl, body, more.signal) });
}

/** Sends with a token, and again where the service says when. */
function sender(options: ClientOptions): (request: Request) => Promise<Response> {
  const { retries = 2, maxWaitSeconds = 10, sleep = wait } = options;
  const go = options.fetch ?? ((request: Request) => fetch(request));
  return async (request) => {
    for (let attempt = 0; ; attempt++) {
      const token = await options.getToken?.();
      const copy = new Request(request.clone(), { credentials: "omit", cache: "no-store" });
      if (token) copy.headers.set("authorization", `Bearer ${token}`);
      let response: Response;
      try {
        response = await go(copy);
      } catch (error) {
        if (request.signal.aborted) throw error;
        throw new ApiFailure("unreachable", "The service cannot be reached. Check the connection and try again.", 0);
      }
      const seconds = Number(response.headers.get("retry-after") ?? Number.NaN);
      // After 429 nothing was done; after 503 something may have been, so only what can be repeated is.
      const again = response.status === 429 || (response.status === 503 && ["GET", "DELETE"].includes(request.method));
      if (!again || attempt >= retries || !(seconds <= maxWaitSeconds)) return response;
      await response.body?.cancel();
      await sleep(seconds * 1000, request.signal);
    }
  };
}

function wait(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason as Error); }, { once: true });
  });
}

async function failure(response: Response): Promise<ApiFailure> {
  try {
    const problem = (await response.json()) as Partial<Problem>;
    if (typeof problem.detail === "string" && typeof problem.code === "string") return ApiFailure.of(problem as Problem);
  } catch {
    // Not the service's own words: something in between answered.
  }
  return new ApiFailure("unreachable", "The service did not answer as it should. Try again in a moment.", response.status);
}

async function* generate(
  send: (request: Request) => Promise<Response>, baseUrl: string, body: object, signal: AbortSignal | undefined,
): AsyncGenerator<GenerateEvent, void, undefined> {
  const request = new Request(`${baseUrl.replace(/\/$/, "")}/api/generate`, {
    method: "POST",
    headers: { "content-type": "application/json", accept: "text/event-stream" },
    body: JSON.stringify({ ...body, stream: true }),
    ...(signal ? { signal } : {}),
  });
  const response = await send(request);
  if (!response.ok || !response.body) throw await failure(response);
  for await (const { event, data } of events(response.body)) {
    const value = JSON.parse(data) as Record<string, unknown>;
    if (event === "error") throw ApiFailure.of(value as unknown as Problem);
    yield { type: event, ...value } as GenerateEvent;
    if (event === "done") return;
  }
  throw new ApiFailure("cut_off", "The text was cut off. Try again.", response.status);
}
