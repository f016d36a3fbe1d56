// Spans as OTLP/JSON, sent by fetch. Nothing in here throws into the page.

const MOST_WAITING = 2048; // spans; those beyond are dropped
const MOST_KEPT_ALIVE = 60_000; // characters that a browser goes on sending when its page is gone: 64 KiB

/** Errors of ours, by the place where they happened. */
export const errors = new Map();

/** What `act` returns; undefined where it throws, which is counted. The very first error is told in the console. */
export function safely(where, act) {
  try {
    return act();
  } catch (error) {
    if (!errors.size) console.warn(`llmtrace-web: ${where}: ${error?.name} (told once; the page goes on)`);
    errors.set(where, (errors.get(where) ?? 0) + 1);
  }
}

/** `bytes` random bytes in hexadecimal. */
export const randomId = (bytes) =>
  Array.from(crypto.getRandomValues(new Uint8Array(bytes)), (byte) => byte.toString(16).padStart(2, "0")).join("");

/** A float, which JSON would not tell from a whole number; null where it is no number. */
export const float = (value) => (Number.isFinite(value) ? { doubleValue: value } : null);
export const seconds = (ms) => float(ms / 1000);

function encoded(value) {
  if (typeof value === "boolean") return { boolValue: value };
  const whole = typeof value === "number" ? Math.round(value) : value;
  if (typeof whole === "bigint" || Number.isSafeInteger(whole)) return { intValue: String(whole) };
  if (Array.isArray(value)) return { arrayValue: { values: value.map(encoded) } };
  return value.doubleValue === undefined ? { stringValue: String(value) } : value; // a page's own value may be anything
}

/** Attributes as OTLP has them, those of an object under its name; what is not known is left out. */
const attributes = (values, prefix = "") =>
  Object.entries(values).flatMap(([name, value]) => {
    if (value == null || (typeof value === "number" && !Number.isFinite(value))) return [];
    if (value.constructor === Object && !("doubleValue" in value)) return attributes(value, `${prefix}${name}.`);
    return { key: prefix + name, value: encoded(value) };
  });

/** Gives moments in ns since 1970. Below a microsecond they fall from start to start, as the span contract wants it. */
function placing(starts, end) {
  const ns = (moment) => BigInt(Math.round((performance.timeOrigin + moment) * 1000)) * 1000n;
  const placed = new Map([[starts[0], ns(starts[0]) - 1n]]).set(end, ns(end));
  for (const start of starts) if (!placed.has(start)) placed.set(start, ns(start) - BigInt(placed.size));
  return (moment) => String(placed.get(moment) ?? ns(moment));
}

/**
 * A span and those beneath it. It has `name`, `start`, `end` (ms of performance.now()), `own` (its attributes), and may
 * have `id`, `kind`, `failed` (an error's type), `events` ([name, moment, attributes]) and `parts` (spans).
 */
export function spansOf(root, traceId = randomId(16), parent = undefined) {
  const nodes = [];
  const collect = ({ id = randomId(8), parts = [], ...node }, parentSpanId) => {
    nodes.push({ spanId: id, parentSpanId, ...node });
    for (const part of parts) collect(part, id);
  };
  collect(root, parent);
  const at = placing(nodes.map(({ start }) => start), root.end);
  const event = ([name, moment, values]) => ({ name, timeUnixNano: at(moment), attributes: attributes(values) });
  return nodes.map(({ start, end, own, events = [], failed, ...named }) => {
    const times = { startTimeUnixNano: at(start), endTimeUnixNano: at(end), events: events.map(event) };
    const status = failed ? { code: 2, message: failed } : {};
    return { traceId, kind: 1, ...named, attributes: attributes(own), status, ...times };
  });
}

/** Collects spans, and sends them a moment later. */
export class Exporter {
  constructor({ endpoint = "http://127.0.0.1:4319", headers, service = "browser", resource, delay = 1000 }) {
    const sdk = { name: "llmtrace-web", language: "webjs" };
    this.resource = { attributes: attributes({ "service.name": service, "telemetry.sdk": sdk, ...resource }) };
    this.headers = { "content-type": "application/json", ...headers };
    Object.assign(this, { url: `${endpoint.replace(/\/+$/, "")}/v1/traces`, delay, waiting: [], dropped: 0 });
  }

  add(spans) {
    this.waiting.push(...spans);
    this.dropped += this.waiting.splice(MOST_WAITING).length;
    this.timer ??= setTimeout(() => this.flush(), this.delay);
  }

  /** Sends what waits; resolves when it was taken, refused or lost. What was refused is not sent again. */
  async flush(keepalive = false) {
    this.timer = clearTimeout(this.timer);
    const spans = this.waiting.splice(0);
    if (!spans.length) return;
    try {
      const resourceSpans = [{ resource: this.resource, scopeSpans: [{ scope: { name: "llmtrace" }, spans }] }];
      const body = JSON.stringify({ resourceSpans }, (_, value) => value?.toWellFormed?.() ?? value); // no half emojis
      const options = { method: "POST", headers: this.headers, body, credentials: "omit" };
      const answer = await fetch(this.url, { ...options, keepalive: keepalive && body.length < MOST_KEPT_ALIVE });
      if (!answer.ok) throw { name: `HTTP ${answer.status}` };
    } catch (error) {
      this.dropped += spans.length;
      safely(`sending spans to ${this.url}`, () => { throw error; });
    }
  }
}
