// A model's load under way: its parts, by what transformers.js' and WebLLM's progress reports tell.

import { safely } from "./otlp.js";

/** Parts by the beginnings of WebLLM's sentences, by transformers.js' states, and by their own names. */
const PARTS = [
  [/etch|^(initiate|download|progress)$/, "download"],
  [/^read$/, "read"],
  [/^Loading model from cache|^to_device$/, "to_device"],
  [/^Loading GPU|^(done|compile)$/, "compile"], // "done", as far as no other file follows
  [/^warm_up$/, "warm_up"],
];
const MOST_ENTRIES = 250; // of a page's requests: a browser keeps no more
const HOW = { "llmtrace.phase.source": "client", "llmtrace.side": "client" };

export class Load {
  start = performance.now();
  marks = [];
  sizes = new Map();
  /** A `progress_callback` of transformers.js, an `initProgressCallback` of WebLLM; or call it with a part's name. */
  progress = (report) => safely("reading a load's progress", () => this.#read(report));

  /** What `run(progress)` loads. */
  async of(run) {
    try {
      return await run(this.progress);
    } catch (error) {
      this.failed = error?.name ?? "Error";
      throw error;
    } finally {
      safely("ending a load", () => this.#finish());
    }
  }

  #read(report) {
    const [, part] = PARTS.find(([pattern]) => pattern.test(report.text ?? report.status ?? report)) ?? [];
    const last = this.marks.at(-1)?.[0];
    if (report.status && part === "download" && last === "compile") this.marks.pop();
    else if (part && part !== last) this.marks.push([part, last ? performance.now() : this.start]);
    if (report.status && report.total > 0) this.sizes.set(report.file, report.total);
  }

  #finish() {
    this.end = performance.now();
    const entries = performance.getEntriesByType("resource");
    const wired = entries.filter((entry) => entry.responseEnd >= this.start && entry.deliveryType !== "cache");
    const came = [...this.sizes.keys()].some((file) => wired.some(({ name }) => name.includes(file)));
    if (came || !this.sizes.size || entries.length >= MOST_ENTRIES) return;
    for (const mark of this.marks) if (mark[0] === "download") mark[0] = "read"; // out of the browser's cache
  }

  /** Its span and its parts', up to `end`. */
  span(end, more) {
    const { start, marks, sizes } = this;
    const bytes = [...sizes.values()].reduce((sum, size) => sum + size, 0) || null;
    const own = { ...HOW, "llmtrace.phase": "model_load", "llmtrace.model_load.bytes": bytes, ...more };
    const parts = marks.map(([part, begun], at) => {
      const named = { name: `llm.model_load.${part}`, own: { ...HOW, "llmtrace.phase.part": part } };
      return { ...named, start: begun, end: marks[at + 1]?.[1] ?? end };
    });
    return { name: "llm.model_load", start, end, own, parts };
  }
}
