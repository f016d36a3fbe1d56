// A model's load under way: its parts, by what transformers.js' and WebLLM's progress reports tell.

import { safely } from "./otlp.js";

const PARTS = ["download", "read", "to_device", "compile", "warm_up"];
const SENTENCES = [[/^Loading model from cache/, "to_device"], [/^Loading GPU shader/, "compile"], [/^(Start to f|F)etch/, "download"]];

export class Load {
  start = performance.now();
  marks = [];
  sizes = new Map();
  /** A `progress_callback` of transformers.js, an `initProgressCallback` of WebLLM; or call it with a part's name. */
  progress = (report) => void safely("reading a load's progress", () => this.#read(report));

  #read(report) {
    const sentence = SENTENCES.find(([pattern]) => pattern.test(report?.text));
    if (PARTS.includes(report)) this.#begin(report);
    else if (sentence) this.#begin(sentence[1]);
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

  finish() {
    this.end = performance.now();
    const wired = performance.getEntriesByType("resource").filter((entry) => entry.responseEnd >= this.start);
    const came = (file) => wired.some(({ name, deliveryType }) => name.includes(file) && deliveryType !== "cache");
    const stored = this.sizes.size && ![...this.sizes.keys()].some(came);
    if (stored) for (const mark of this.marks) if (mark[0] === "download") mark[0] = "read"; // out of the browser's cache
  }

  told() {
    return { "llmtrace.model_load.bytes": [...this.sizes.values()].reduce((sum, size) => sum + size, 0) || null };
  }

  parts(end) {
    return this.marks.map(([name, start], at) => ({ name, start, end: this.marks[at + 1]?.[1] ?? end }));
  }
}
