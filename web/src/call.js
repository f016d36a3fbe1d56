// One call under way. Of its methods only `loading` and `fetch` throw, and only what the application's own code throws.

import { Load } from "./load.js";
import { float, randomId, safely, seconds, spansOf } from "./otlp.js";
import { judge, split } from "./phases.js";

const MOST_GAPS = 2048;
const MOST_EVENTS = 32;
const OUTCOMES = { AbortError: "cancelled", TimeoutError: "timed_out" };
const CAUSES = { closed_early: "closed", abandoned: "dropped", cancelled: "task_cancelled", error: "server_error" };

export class Call {
  constructor(tracer, request) {
    const [trace = randomId(16), parent] = tracer.parent;
    const [id, start] = [randomId(8), performance.now()];
    Object.assign(this, { tracer, request, id, trace, parent, traceparent: `00-${trace}-${id}-01`, start });
    Object.assign(this, { chunks: 0, gaps: [], events: [], hidden: 0, hiddenSince: tracer.hidden ? start : undefined });
    tracer.open.add(this);
  }

  /** Awaits a model inside the call, `run(progress)`, as one of the call's phases where it takes any time. */
  loading(run) {
    const load = new Load();
    if (!this.chunks) this.load ??= load;
    return load.of(run);
  }

  /** fetch, with this call's `traceparent` for the page's own origin and those in `propagateTo`. */
  async fetch(url, init) {
    const headers = new Headers(init?.headers ?? url.headers);
    const { origin } = new URL(url.url ?? url, globalThis.location?.href);
    if (this.tracer.origins.has(origin)) headers.set("traceparent", this.traceparent);
    return fetch(url, { ...init, headers });
  }

  /** The prompt is ready and the model begins: its tokens, and how many of them lie in the KV cache. */
  prompt(input, cached = 0) {
    this.prompted ??= performance.now();
    this.tell({ input, cached, uncached: Math.max(0, input - cached) });
  }

  /** A chunk came. `token`: whether it brought any; with it what `tell` takes. */
  chunk(held) {
    const at = performance.now();
    const { token = true, ...told } = held ?? {};
    this.firstChunk ??= at;
    this.chunks += 1;
    if (this.first !== undefined && this.gaps.length < MOST_GAPS) this.gaps.push(at - this.last);
    this.last = at;
    if (token) this.first ??= at;
    this.tell(told);
  }

  /**
   * Takes what the engine tells: `input`, `cached`, `uncached`, `output` (tokens), `prefill` (ms), `finish` (reasons),
   * `response` (its id), `model`, `tokenEach` (each chunk is one token).
   */
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
    if (this.tracer.open.delete(this)) safely("ending a call", () => this.#end(outcome, error));
  }

  #end(outcome, error) {
    this.outcome = outcome ?? OUTCOMES[error?.name] ?? "error";
    this.ended = (this.outcome === "completed" && this.last) || performance.now(); // not when its reader came for it
    if (this.hiddenSince < this.ended) this.hidden += this.ended - this.hiddenSince;
    if (error?.name === "DeviceLostError") this.lost ??= "unknown"; // WebLLM's
    if (["error", "timed_out"].includes(this.outcome)) this.failed = error?.name ?? "Error";
    const parts = split(this);
    const loaded = parts.find(({ name }) => name === "llm.model_load");
    const own = { ...this.#told(parts.at(-1).own["llmtrace.phase"]), ...(loaded && judge(this, loaded)) };
    const { start, ended: end, events, failed, id, request } = this;
    const name = `${request.operation ?? "chat"} ${request.model}`;
    const span = { name, id, kind: request.local ? 1 : 3, start, end, own, events, failed, parts };
    this.tracer.exporter.add(spansOf(span, this.trace, this.parent));
    this.tracer.ended?.(this, parts);
  }

  #told(phase) {
    const { request, outcome, chunks, output, start } = this;
    const url = request.url && new URL(request.url, globalThis.location?.href);
    const port = url && Number(url.port || { "http:": 80, "https:": 443 }[url.protocol]);
    const streams = request.stream !== false || null;
    const basis = output ? "usage" : "chunks";
    const delivered = chunks && { delivered_tokens: output ?? chunks, "delivered_tokens.basis": basis };
    const cut = streams && outcome !== "completed" && { phase, cause: CAUSES[outcome], ...delivered };
    const page = { "page.hidden_duration": this.hidden ? seconds(this.hidden) : null, "device.lost": this.lost };
    return {
      gen_ai: { "operation.name": request.operation ?? "chat", "provider.name": request.provider },
      "gen_ai.request": { model: request.model, stream: streams, max_tokens: request.maxTokens },
      "gen_ai.request.temperature": float(request.temperature),
      "gen_ai.response": { id: this.response, model: this.model, finish_reasons: this.finish },
      "gen_ai.response.time_to_first_chunk": streams && seconds(this.firstChunk - start),
      "gen_ai.usage": { input_tokens: this.input, output_tokens: output, "cache_read.input_tokens": this.cached },
      server: { address: url?.hostname, port },
      "error.type": this.failed,
      llmtrace: { schema_version: 2, "call.outcome": outcome, "call.ttft": seconds(this.first - start), ...page },
      "llmtrace.stream.chunks": chunks || null,
      "llmtrace.cancellation": cut || null,
    };
  }
}
