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
   * @param {object} options `endpoint`: where `llmtrace view` (or any OTLP/HTTP receiver) listens. `service`, `resource`:
   *   who sends. `parent`: a traceparent; by default that of the page's `<meta name="traceparent">`. `propagateTo`:
   *   origins, beside the page's own, that are sent `traceparent`. `headers`: for the receiver. `delay`: ms to collect.
   */
  constructor({ parent, propagateTo = [], ...rest } = {}) {
    safely("starting", () => {
      this.exporter = new Exporter({ endpoint: "http://127.0.0.1:4319", ...rest });
      this.parent = TRACEPARENT.exec(parent ?? globalThis.document?.querySelector("meta[name=traceparent]")?.content);
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
    });
  }

  propagates(url) {
    return this.origins.has(new URL(url.url ?? url, globalThis.location?.href).origin);
  }

  /**
   * Begins a call. `request`: `provider`, `model`, `local` (it runs in this page), `url` (of a server), `operation`,
   * `stream: false`, `maxTokens`, `temperature`. Whoever begins it tells its `chunk`s and its `end`.
   */
  begin(request) {
    return new Call(this, request);
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
    let failed;
    try {
      return await run(load.progress);
    } catch (error) {
      failed = error?.name ?? "Error";
      throw error;
    } finally {
      safely("ending a load", () => {
        load.finish();
        const own = { "llmtrace.schema_version": 2, "gen_ai.provider.name": provider, "gen_ai.request.model": model };
        const span = load.span(load.end, { ...own, "error.type": failed });
        this.exporter.add(spansOf({ ...span, failed }, ...(this.parent?.slice(1) ?? [])));
      });
    }
  }

  /** Marks the calls of this page's models that are under way when a GPUDevice is lost. */
  watch(device) {
    device.lost.then(({ reason }) => {
      for (const call of this.open) {
        if (!call.request.local) continue;
        call.event("llmtrace.device.lost", { "llmtrace.device.lost": reason });
        call.tell({ lost: reason });
      }
    });
  }

  /** Sends what waits. */
  flush() {
    return this.exporter.flush();
  }
}
