// A model's load under way: its parts, by what transformers.js' and WebLLM's progress reports tell.

import { safely } from "./otlp.js";

const PARTS = ["download", "read", "to_device", "compile", "warm_up"];
const SENTENCES = { "Loading model from cache": "to_device", "Loading GPU": "compile", "Start to fetch": "download", "Fetch": "download" };
const MOST_ENTRIES = 250; // of a page's requests: a browser keeps no more
const HOW = { "llmtrace.phase.source": "client", "llmtrace.side": "client" };

export class Load {
  start = performance.now();
  marks = [];
  sizes = new Map();
  /** A `progress_callback` of transformers.js, an `initProgressCallback` of WebLLM; or call it with a part's name. */
  progress = (report) => void safely("reading a load's progress", () => this.#read(report));

  #read(report) {
    const sentence = Object.keys(SENTENCES).find((begin) => report?.text?.startsWith(begin));
    if (PARTS.includes(report)) this.#begin(report);
    else if (sentence) this.#begin(SENTENCES[sentence]);
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
    const entries = performance.getEntriesByType("resource");
    const wired = entries.filter((entry) => entry.responseEnd >= this.start && entry.deliveryType !== "cache");
    const came = [...this.sizes.keys()].some((file) => wired.some(({ name }) => name.includes(file)));
    if (came || !this.sizes.size || entries.length >= MOST_ENTRIES) return;
    for (const mark of this.marks) if (mark[0] === "download") mark[0] = "read"; // out of the browser's cache
  }

  /** Its span and its parts', up to `end`. */
  span(end, more) {
    const bytes = [...this.sizes.values()].reduce((sum, size) => sum + size, 0) || null;
    const parts = this.marks.map(([part, start], at) => {
      const own = { ...HOW, "llmtrace.phase.part": part };
      return { name: `llm.model_load.${part}`, start, end: this.marks[at + 1]?.[1] ?? end, own };
    });
    const own = { ...HOW, "llmtrace.phase": "model_load", "llmtrace.model_load.bytes": bytes, ...more };
    return { name: "llm.model_load", start: this.start, end, own, parts };
  }
}
