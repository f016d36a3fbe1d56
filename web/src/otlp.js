// Spans as OTLP/JSON, sent by fetch. Nothing in here throws into the page.

const MOST_WAITING = 2048; // spans; those beyond are dropped
const MOST_KEPT_ALIVE = 60_000; // characters that a browser goes on sending when its page is gone: 64 KiB

/** Errors of ours, by the place where they happened. */
export const errors = new Map();

/** Counts an error of ours; the very first is told in the console. */
export function note(where, error) {
  if (!errors.size) console.warn(`llmtrace-web: ${where}: ${error?.name} (told once; the page goes on)`);
  errors.set(where, (errors.get(where) ?? 0) + 1);
}

/** What `act` returns; undefined where it throws, which is noted. */
export function safely(where, act) {
  try {
    return act();
  } catch (error) {
    return note(where, error);
  }
}

/** `bytes` random bytes in hexadecimal. */
export const randomId = (bytes) =>
  Array.from(crypto.getRandomValues(new Uint8Array(bytes)), (byte) => byte.toString(16).padStart(2, "0")).join("");

/** A float, which JSON would not tell from a whole number; null where it is no number. */
export const float = (value) => (Number.isFinite(value) ? { doubleValue: value } : null);

function encoded(value) {
  if (typeof value === "string") return { stringValue: value };
  if (typeof value === "boolean") return { boolValue: value };
  if (typeof value === "number") return { intValue: String(Math.round(value)) };
  return Array.isArray(value) ? { arrayValue: { values: value.map(encoded) } } : value;
}

/** Attributes as OTLP has them; what is not known is left out. */
export function attributes(values) {
  const known = Object.entries(values).filter(([, value]) => value != null && !Number.isNaN(value));
  return known.map(([key, value]) => ({ key, value: encoded(value) }));
}

/** Collects spans, and sends them a moment later. */
export class Exporter {
  constructor({ endpoint, headers = {}, service = "browser", resource = {}, delay = 1000 }) {
    this.url = `${String(endpoint).replace(/\/+$/, "")}/v1/traces`;
    this.headers = { "content-type": "application/json", ...headers };
    const sdk = { "telemetry.sdk.name": "llmtrace-web", "telemetry.sdk.language": "webjs" };
    this.resource = { attributes: attributes({ "service.name": service, ...sdk, ...resource }) };
    Object.assign(this, { delay, waiting: [], dropped: 0 });
  }

  add(spans) {
    this.waiting.push(...spans);
    this.dropped += this.waiting.splice(MOST_WAITING).length;
    this.timer ??= setTimeout(() => this.flush(), this.delay);
  }

  /** Sends what waits; resolves when it was taken, refused or lost. What was refused is not sent again. */
  async flush(keepalive = false) {
    clearTimeout(this.timer);
    this.timer = undefined;
    const spans = this.waiting.splice(0);
    if (!spans.length) return;
    try {
      const sent = { resourceSpans: [{ resource: this.resource, scopeSpans: [{ scope: { name: "llmtrace" }, spans }] }] };
      const body = JSON.stringify(sent);
      const options = { method: "POST", headers: this.headers, body, credentials: "omit" };
      const answer = await fetch(this.url, { ...options, keepalive: keepalive && body.length < MOST_KEPT_ALIVE });
      if (!answer.ok) throw { name: `HTTP ${answer.status}` };
    } catch (error) {
      this.dropped += spans.length;
      note(`sending spans to ${this.url}`, error);
    }
  }
}
