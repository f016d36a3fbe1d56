// One call under way. Of its methods only `loading` and `fetch` throw, and only what the application's own code throws.

import { attributes, float, randomId, safely } from "./otlp.js";
import { Load } from "./load.js";
import { coldModel, placing, split } from "./phases.js";

const MOST_GAPS = 2048;
const MOST_EVENTS = 32;
const OUTCOMES = { AbortError: "cancelled", TimeoutError: "timed_out" };
const CAUSES = { closed_early: "closed", abandoned: "dropped", cancelled: "task_cancelled", error: "server_error" };
const SCHEMA = { "llmtrace.schema_version": 2 };

const spanOf = (traceId, parentSpanId, name, at, { start, end }, own, more) => ({
  ...{ traceId, spanId: randomId(8), parentSpanId, name, kind: 1, attributes: attributes(own) },
  ...{ startTimeUnixNano: at(start), endTimeUnixNano: at(end), ...more },
});

/** A phase's span and those of its parts. */
function phaseSpans(trace, parent, phase, at, more) {
  const how = { "llmtrace.phase.source": phase.source, "llmtrace.side": "client" };
  const whole = spanOf(trace, parent, `llm.${phase.name}`, at, phase, { ...how, ...phase.own }, more);
  const parts = phase.parts.map((part) =>
    spanOf(trace, whole.spanId, `${whole.name}.${part.name}`, at, part, { ...how, "llmtrace.phase.part": part.name }));
  return [whole, ...parts];
}

/** The spans of a load that belongs to no call. */
export function loadSpans(load, { provider, model }, [, trace = randomId(16), parent] = [], failed) {
  const parts = load.parts(load.end);
  const own = { ...SCHEMA, "llmtrace.phase": "model_load", "gen_ai.provider.name": provider, "gen_ai.request.model": model };
  const phase = { name: "model_load", start: load.start, end: load.end, source: "client", parts };
  const at = placing(load.start, parts.map((part) => part.start), load.end);
  const status = failed && { status: { code: 2, message: failed } };
  return phaseSpans(trace, parent, { ...phase, own: { ...own, "error.type": failed, ...load.told() } }, at, status);
}

export class Call {
  start = performance.now();
  id = randomId(8);
  gaps = [];
  events = [];
  chunks = 0;
  hidden = 0;

  constructor(tracer, request) {
    const [, trace = randomId(16), parent] = tracer.parent ?? [];
    Object.assign(this, { tracer, request, trace, parent, hiddenSince: tracer.hidden ? this.start : undefined });
    tracer.open.add(this);
  }

  get traceparent() {
    return `00-${this.trace}-${this.id}-01`;
  }

  /** Awaits a model inside the call, as one of its phases: `run(progress)`, or the promise of one that loads already. */
  async loading(run) {
    const load = (this.load = new Load());
    try {
      return await (typeof run === "function" ? run(load.progress) : run);
    } finally {
      safely("ending a load", () => load.finish());
    }
  }

  /** fetch, with this call's `traceparent` for the page's own origin and those in `propagateTo`. */
  fetch(url, init) {
    const sent = safely("adding traceparent", () => {
      if (!this.tracer.propagates(url)) return init;
      const headers = new Headers(init?.headers ?? url.headers);
      headers.set("traceparent", this.traceparent);
      return { ...init, headers };
    });
    return fetch(url, sent ?? init);
  }

  /** The prompt is ready and the model begins: its tokens, and how many of them lie in the KV cache. */
  prompt(input, cached = 0) {
    this.prompted ??= performance.now();
    Object.assign(this, { input, cached, uncached: Math.max(0, input - cached) });
  }

  /** A chunk came; `token`: whether it brought any. */
  chunk(token = true) {
    const at = performance.now();
    this.firstChunk ??= at;
    this.chunks += 1;
    if (this.first !== undefined && this.gaps.length < MOST_GAPS) this.gaps.push(at - this.last);
    this.last = at;
    if (token) this.first ??= at;
  }

  /** Takes what the engine tells: `input`, `uncached`, `output` (tokens), `prefill` (ms), `finish`, `response`, `model`. */
  tell(told) {
    Object.assign(this, told);
  }

  event(name, values = {}) {
    if (this.events.length < MOST_EVENTS) this.events.push([name, performance.now(), values]);
  }

  /** The page's tab was hidden, or is seen again. */
  turned(hidden) {
    const at = performance.now();
    this.event(hidden ? "llmtrace.page.hidden" : "llmtrace.page.visible");
    if (!hidden && this.hiddenSince !== undefined) this.hidden += at - this.hiddenSince;
    this.hiddenSince = hidden ? at : undefined;
  }

  /** The call's end. Only the first one counts. */
  end(outcome, error) {
    if (!this.tracer.open.delete(this)) return;
    this.outcome = outcome ?? OUTCOMES[error?.name] ?? "error";
    this.ended = (this.outcome === "completed" && this.last) || performance.now(); // its last chunk's time, not its reader's
    if (this.hiddenSince < this.ended) this.hidden += this.ended - this.hiddenSince;
    if (error?.name === "DeviceLostError") this.lost ??= "unknown"; // WebLLM's
    if (["error", "timed_out"].includes(this.outcome)) this.failed = error?.name ?? "Error";
    const phases = split(this);
    const verdict = coldModel(this);
    const at = placing(this.start, [...phases, ...phases.flatMap(({ parts }) => parts)].map(({ start }) => start), this.ended);
    const event = ([name, moment, values]) => ({ name, timeUnixNano: at(moment), attributes: attributes(values) });
    const own = { ...this.#told(phases.at(-1).name), ...this.#cause(verdict) };
    const status = this.failed && { status: { code: 2, message: this.failed } };
    const more = { spanId: this.id, kind: this.request.local ? 1 : 3, events: this.events.map(event), ...status };
    const name = `${own["gen_ai.operation.name"]} ${this.request.model}`;
    const spans = [spanOf(this.trace, this.parent, name, at, { start: this.start, end: this.ended }, own, more)];
    for (const phase of phases) {
      const guilty = verdict && phase.name === "model_load";
      const events = guilty ? [event(["llmtrace.diagnosis", (phase.start + phase.end) / 2, verdict])] : [];
      spans.push(...phaseSpans(this.trace, this.id, phase, at, { events }));
    }
    this.tracer.exporter.add(spans);
  }

  #cause(verdict) {
    const [cause, sure] = ["llmtrace.diagnosis.cause", "llmtrace.diagnosis.confidence"];
    return verdict && { "llmtrace.diagnosis": [verdict[cause]], [sure]: [verdict[sure]], [cause]: verdict[cause] };
  }

  #told(phase) {
    const { request, outcome, chunks, output } = this;
    const url = request.url && new URL(request.url, globalThis.location?.href);
    const cut = request.stream !== false && outcome !== "completed";
    return {
      "gen_ai.operation.name": request.operation ?? "chat",
      "gen_ai.provider.name": request.provider,
      "gen_ai.request.model": request.model,
      "gen_ai.request.stream": request.stream === false ? null : true,
      "gen_ai.request.max_tokens": request.maxTokens,
      "gen_ai.request.temperature": float(request.temperature),
      "gen_ai.response.id": this.response,
      "gen_ai.response.model": this.model,
      "gen_ai.response.finish_reasons": this.finish,
      "gen_ai.response.time_to_first_chunk": float((this.firstChunk - this.start) / 1000),
      "gen_ai.usage.input_tokens": this.input,
      "gen_ai.usage.output_tokens": output,
      "gen_ai.usage.cache_read.input_tokens": this.cached,
      "server.address": url?.hostname,
      "server.port": url && Number(url.port || (url.protocol === "https:" ? 443 : 80)),
      "error.type": this.failed,
      ...SCHEMA,
      "llmtrace.call.outcome": outcome,
      "llmtrace.call.ttft": float((this.first - this.start) / 1000),
      "llmtrace.stream.chunks": chunks || null,
      "llmtrace.page.hidden_duration": this.hidden ? float(this.hidden / 1000) : null,
      "llmtrace.device.lost": this.lost,
      ...(cut && { "llmtrace.cancellation.phase": phase, "llmtrace.cancellation.cause": CAUSES[outcome] }),
      ...(cut && chunks && { "llmtrace.cancellation.delivered_tokens": output ?? chunks }),
      ...(cut && chunks && { "llmtrace.cancellation.delivered_tokens.basis": output ? "usage" : "chunks" }),
    };
  }
}

// What the application calls between a call's begin and its end must not throw into it.
for (const name of ["prompt", "chunk", "tell", "event", "turned", "end"]) {
  const method = Call.prototype[name];
  Call.prototype[name] = function (...given) {
    return safely(`Call.${name}`, () => method.apply(this, given));
  };
}
