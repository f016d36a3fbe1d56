// Phase-level spans of the language models that a page runs or asks.

import { Call } from "./call.js";
import { Load } from "./load.js";
import { errors, Exporter, safely, spansOf } from "./otlp.js";

const TRACEPARENT = /^00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}$/;
const isHidden = () => globalThis.document?.visibilityState === "hidden";

export class LlmTrace {
  open = new Set();
  hidden = isHidden();
  /** Errors of ours, by place: none of them reached the page. */
  errors = errors;
  /**
   * Begins a call. `request`: `provider`, `model`, `local` (it runs in this page), `url` (of a server), `operation`,
   * `stream: false`, `maxTokens`, `temperature`. Whoever begins it tells its `chunk`s and its `end`.
   */
  begin = (request) => new Call(this, request);
  /** Sends what waits. */
  flush = () => this.exporter.flush();

  /**
   * `endpoint`: where `llmtrace view` (or any OTLP/HTTP receiver) listens; `headers` for it. `service`, `resource`: who
   * sends. `parent`: a traceparent; by default that of the page's `<meta name="traceparent">`. `propagateTo`: origins,
   * beside the page's own, that are sent `traceparent`. `delay`: ms to collect. `ended(call, phases)`: is told of each
   * call that ended, and its phases (`name`, `start`, `end` in ms).
   */
  constructor({ parent, propagateTo = [], ended, ...rest } = {}) {
    this.ended = ended;
    this.exporter = new Exporter(rest);
    const given = parent ?? globalThis.document?.querySelector("meta[name=traceparent]")?.content;
    this.parent = TRACEPARENT.exec(given)?.slice(1) ?? [];
    this.origins = new Set([globalThis.location?.origin, ...propagateTo.map((url) => new URL(url).origin)]);
    globalThis.document?.addEventListener("visibilitychange", () => {
      this.hidden = isHidden();
      for (const call of this.open) call.turned(this.hidden);
      if (this.hidden) this.exporter.flush(true); // a phone may end the page now
    });
    globalThis.addEventListener?.("pagehide", ({ persisted }) => {
      if (!persisted) for (const call of this.open) call.end(call.chunks ? "abandoned" : "never_consumed");
      this.exporter.flush(true);
    });
  }

  /**
   * The items of an async iterator, or of what `source(call)` gives, as they are; the call ends with them.
   * `read(chunk)` may tell what a chunk holds: `token: false` where it has no text, and what `Call.tell` takes.
   */
  async *stream(request, source, read) {
    const call = this.begin(request);
    try {
      for await (const chunk of typeof source === "function" ? await source(call) : source) {
        call.chunk(safely("reading a chunk", () => read?.(chunk)));
        yield chunk;
      }
      call.end("completed");
    } catch (error) {
      call.end(undefined, error);
      throw error;
    } finally {
      call.end("closed_early"); // only where nothing has ended it: its reader left
    }
  }

  /** Loads a model outside of any call: `run(progress)`'s value, and a span `llm.model_load` of its own. */
  async load({ provider, model }, run) {
    const load = new Load();
    try {
      return await load.of(run);
    } finally {
      safely("writing a load", () => {
        const known = { "llmtrace.schema_version": 2, "gen_ai.provider.name": provider, "gen_ai.request.model": model };
        const span = load.span(load.end, { ...known, "error.type": load.failed });
        this.exporter.add(spansOf({ ...span, failed: load.failed }, ...this.parent));
      });
    }
  }

  /** Marks the calls of this page's models that are under way when a GPUDevice is lost. */
  async watch(device) {
    const { reason } = await device.lost;
    for (const call of this.open) {
      if (!call.request.local) continue;
      call.event("llmtrace.device.lost", { "llmtrace.device.lost": reason });
      call.tell({ lost: reason });
    }
  }
}
