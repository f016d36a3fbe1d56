// A model's load under way: its parts, by what transformers.js' and WebLLM's progress reports tell.

import { safely } from "./otlp.js";

const PARTS = ["download", "read", "to_device", "compile", "warm_up"];
const SENTENCES = [[/^Loading model from cache/, "to_device"], [/^Loading GPU/, "compile"], [/etch/, "download"]];
const MOST_ENTRIES = 250; // of a page's requests: a browser keeps no more
const HOW = { "llmtrace.phase.source": "client", "llmtrace.side": "client" };

export class Load {
  start = performance.now();
  marks = [];
  sizes = new Map();
  /** A `progress_callback` of transformers.js, an `initProgressCallback` of WebLLM; or call it with a part's name. */
  progress = (report) => safely("reading a load's progress", () => this.#read(report));

  /** What `run(progress)` loads, or the promise of what loads already. */
  async of(run) {
    try {
      return await (typeof run === "function" ? run(this.progress) : run);
    } catch (error) {
      this.failed = error?.name ?? "Error";
      throw error;
    } finally {
      safely("ending a load", () => this.#finish());
    }
  }

  #read(report) {
    const [, part = PARTS.find((name) => name === report)] = SENTENCES.find(([text]) => text.test(report?.text)) ?? [];
    if (part) this.#begin(part);
    else if (report?.status === "done") this.#begin("compile"); // as far as no other file follows
    else if (["initiate", "download", "progress"].includes(report?.status)) {
      if (this.marks.at(-1)?.[0] === "compile") this.marks.pop();
      this.#begin("download");
      if (report.total > 0) this.sizes.set(report.file, report.total);
    }
  }

  #begin(part) {
    if (this.marks.at(-1)?.[0] !== part) this.marks.push([part, this.marks.length ? performance.now() : this.start]);
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
    const parts = marks.map(([part, start], at) => ({
      ...{ name: `llm.model_load.${part}`, start, end: marks[at + 1]?.[1] ?? end },
      own: { ...HOW, "llmtrace.phase.part": part },
    }));
    return { name: "llm.model_load", start, end, own, parts };
  }
}
