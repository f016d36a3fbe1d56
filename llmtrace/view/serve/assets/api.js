// The server's API, and what to do when it does not answer.

/** The server answered with an error. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** No answer came. */
export class Unreachable extends Error {}

const LONGEST_MS = 60_000;
let onSilence = () => {};

/** `run` is called whenever a request got no answer. */
export function whenSilent(run) {
  onSilence = run;
}

/** An answer of the API. `signal` gives the request up: its error is an AbortError, which callers let pass. */
export async function get(path, params, signal) {
  const query = String(params ?? "");
  const stop = new AbortController();
  const timer = setTimeout(() => stop.abort(new Unreachable("no answer within a minute")), LONGEST_MS);
  signal?.addEventListener("abort", () => stop.abort(signal.reason), { once: true });
  if (signal?.aborted) stop.abort(signal.reason);
  try {
    const response = await fetch(`/api/${path}${query ? `?${query}` : ""}`, { signal: stop.signal, cache: "no-store" });
    const body = await response.json().catch((error) => {
      if (stop.signal.aborted) throw error;
      return null;
    });
    if (!response.ok) throw new ApiError(response.status, body?.error ?? `the server answered ${response.status}`);
    if (body === null) throw new ApiError(response.status, "the server's answer is not JSON");
    return body;
  } catch (error) {
    if (error instanceof ApiError || signal?.aborted) throw error;
    onSilence();
    throw new Unreachable("the server does not answer");
  } finally {
    clearTimeout(timer);
  }
}

/** Whether an error needs no words: the request was given up, or the page's own notice tells that nobody answers. */
export function silent(error) {
  return error?.name === "AbortError" || error instanceof Unreachable;
}

/** What is new, as it comes: `run({spans, calls, newest_us})`. Returns a function that stops it. */
export function live(run) {
  const source = new EventSource("/api/live");
  source.addEventListener("spans", (event) => {
    try {
      run(JSON.parse(event.data));
    } catch {
      /* half a line: the next one tells the same */
    }
  });
  source.addEventListener("error", () => {
    get("status").catch(() => {}); // the browser asks again by itself; the page is to know that nobody answers
  });
  return () => source.close();
}
