// Percentiles of the calls that fit the filters: by phase, and over time.
import { get, silent } from "./api.js";
import { filters, href, query } from "./address.js";
import { empty, failed, nothing, skeleton } from "./blanks.js";
import { bars, lines } from "./charts.js";
import { h } from "./dom.js";
import { Filters } from "./filters.js";
import { DASH, count, percent, plural, seconds } from "./format.js";
import * as phases from "./phases.js";

export function open(main, address, app) {
  return new Percentiles(main, address.params, app);
}

class Percentiles {
  constructor(main, params, app) {
    Object.assign(this, { app, params, answer: null, busy: null, last: 0, timer: 0 });
    this.filters = new Filters(params, (chosen, { replace }) =>
      this.app.go("percentiles", this.address(chosen), { replace }),
    );
    this.heading = h("h1", {}, "Percentiles");
    this.body = h("div", {});
    main.append(
      h(
        "div",
        { class: "wide percentiles" },
        h("div", { class: "title-row" }, this.heading),
        this.filters.element,
        this.body,
      ),
    );
    this.charts = [];
    this.load();
  }

  close() {
    clearTimeout(this.timer);
    this.busy?.abort();
    this.filters.close();
    this.forget();
  }

  forget() {
    for (const chart of this.charts) chart.close();
    this.charts = [];
  }

  address(chosen) {
    const params = new URLSearchParams(chosen);
    if (this.params.has("live")) params.set("live", this.params.get("live"));
    return params;
  }

  update(params) {
    this.params = params;
    this.filters.update(params);
    this.load();
  }

  again() {
    this.load();
  }

  /** Something new came: percentiles move slowly, so that once in five seconds is enough. */
  tick() {
    clearTimeout(this.timer);
    this.timer = setTimeout(
      () => {
        const held = this.body.contains(document.activeElement) || this.body.querySelector(".chart:hover");
        if (!held && this.app.live) this.load();
      },
      Math.max(300, this.last + 5000 - performance.now()),
    );
  }

  status(status) {
    if (this.answer && !this.answer.count && !status.spans) this.draw();
  }

  async load() {
    this.busy?.abort();
    const busy = (this.busy = new AbortController());
    this.last = performance.now();
    if (!this.answer) this.body.replaceChildren(skeleton(10, "Counting"));
    try {
      const asked = query(this.params);
      asked.set("buckets", "60");
      this.answer = await get("percentiles", asked, busy.signal);
      this.draw();
    } catch (error) {
      if (!silent(error)) this.body.replaceChildren(failed(error, () => this.load()));
    }
  }

  draw() {
    const { answer } = this;
    this.heading.replaceChildren("Percentiles", h("small", { class: "num" }, ` of ${plural(answer.count, "call")}`));
    this.forget();
    if (!answer.count) {
      const filtered = [...filters(this.params)].length > 0;
      if (!filtered && !this.app.status?.spans) this.body.replaceChildren(empty(this.app.status));
      else
        this.body.replaceChildren(
          nothing(
            "No call fits these filters",
            "Take one away, or look further back in time.",
            filtered ? h("button", { type: "button", onclick: () => this.filters.clear() }, "Clear filters") : null,
          ),
        );
      return;
    }
    const tile = (name, one) =>
      h(
        "div",
        { class: "card tile" },
        h("h2", {}, name),
        h("p", { class: "big num" }, seconds(one?.p50), h("small", {}, " median")),
        h("p", { class: "soft num" }, spread(one)),
      );
    const summed = answer.phases.reduce((sum, phase) => sum + (phase.sum_s ?? 0), 0);
    const sourced = answer.phases.some((phase) => phase.sources);
    this.body.replaceChildren(
      h("div", { class: "tiles" }, tile("Total", answer.duration), tile("Time to first token", answer.ttft)),
      h(
        "section",
        { class: "card" },
        h("h2", {}, "By phase"),
        h(
          "div",
          { class: "share", "aria-hidden": "true" },
          answer.phases
            .filter((phase) => phase.sum_s > 0)
            .map((phase) =>
              h(
                "i",
                {
                  class: `seg ${phases.css(phase.name)}`,
                  title: `${phases.label(phase.name)} ${percent(phase.sum_s, summed)}`,
                  vars: { grow: String(phase.sum_s) },
                },
                h("span", {}, phases.label(phase.name)),
              ),
            ),
        ),
        h(
          "div",
          { class: "scroll", tabindex: "0", role: "region", "aria-label": "Percentiles by phase" },
          h(
            "table",
            {},
            h(
              "thead",
              {},
              h(
                "tr",
                {},
                h("th", { scope: "col", class: "text" }, "phase"),
                ["calls", "p50", "p90", "p95", "p99", "in all", "share"].map((name) => h("th", { scope: "col" }, name)),
                sourced ? h("th", { scope: "col", class: "text" }, "known by") : null,
              ),
            ),
            h(
              "tbody",
              {},
              answer.phases.map((phase) =>
                h(
                  "tr",
                  {},
                  h("th", { scope: "row", class: "text" }, phases.dot(phase.name), phases.label(phase.name)),
                  h("td", {}, count(phase.count)),
                  ["p50", "p90", "p95", "p99"].map((name) => h("td", {}, seconds(phase[name]))),
                  h("td", {}, seconds(phase.sum_s)),
                  h("td", {}, percent(phase.sum_s, summed)),
                  sourced ? h("td", { class: "text" }, this.sources(phase)) : null,
                ),
              ),
            ),
          ),
        ),
        h(
          "p",
          { class: "note" },
          "A phase's percentiles are over the calls that have it; p90 is told from 30 calls on, p95 from 60, p99 from 300. An estimate is fitted from earlier calls; how sure it is shows in each call.",
        ),
        answer.note ? h("p", { class: "note" }, `${answer.note[0].toUpperCase()}${answer.note.slice(1)}.`) : null,
      ),
      this.overTime(),
    );
  }

  sources(phase) {
    const all = Object.values(phase.sources ?? {}).reduce((sum, number) => sum + number, 0);
    const found = Object.entries(phase.sources ?? {})
      .filter(([, number]) => number > 0)
      .sort((one, other) => other[1] - one[1]);
    if (!found.length) return DASH;
    return h(
      "span",
      { class: "sources" },
      found.map(([name, number]) =>
        h(
          "span",
          {},
          phases.source(name),
          found.length > 1 ? h("small", { class: "soft num" }, ` ${percent(number, all)}`) : null,
        ),
      ),
      phase.uncertainty_s > 0 ? h("small", { class: "soft num" }, `±${seconds(phase.uncertainty_s)}`) : null,
    );
  }

  overTime() {
    const buckets = everyBucket(this.answer.over_time ?? []);
    if (buckets.length < 2) return h("p", { class: "note" }, "Too short a time for a plot.");
    const names = [phases.OVERHEAD, ...phases.PHASES].filter((name) => buckets.some((bucket) => bucket.phases?.[name] > 0));
    const jump = (bucket) => {
      const params = new URLSearchParams(filters(this.params));
      params.delete("last");
      params.set("since_us", String(Math.floor(bucket.start_us)));
      params.set("until_us", String(Math.ceil(bucket.start_us + bucket.width_us)));
      return href("calls", params);
    };
    const ttft = lines({
      title: "Time to first token",
      buckets,
      unit: seconds,
      jump,
      series: [
        { name: "median", css: "line-main", of: (bucket) => bucket.ttft?.p50 },
        { name: "p95", css: "line-high", of: (bucket) => bucket.ttft?.p95 },
      ],
    });
    const stack = bars({
      title: "Phases, each one's median",
      buckets,
      unit: seconds,
      jump,
      series: names.map((name) => ({
        name: phases.label(name),
        css: phases.css(name),
        of: (bucket) => bucket.phases?.[name] ?? 0,
      })),
    });
    const number = bars({
      title: "Calls",
      buckets,
      unit: count,
      jump,
      whole: true,
      series: [
        { name: "without error", css: "calls-good", of: (bucket) => bucket.count - (bucket.errors ?? 0) },
        { name: "errors", css: "calls-bad", of: (bucket) => bucket.errors ?? 0 },
      ],
    });
    this.charts = [ttft, stack, number];
    return h(
      "section",
      { "aria-label": "Over time" },
      h("h2", { class: "over-time" }, "Over time"),
      this.charts.map((chart) => chart.element),
    );
  }
}

/** The percentiles that there are calls enough for. */
function spread(one) {
  const told = ["p90", "p95", "p99"].filter((name) => one?.[name] != null);
  return told.length ? told.map((name) => `${name} ${seconds(one[name])}`).join(" · ") : "too few calls for percentiles";
}

/** The answer leaves out moments without calls: here they are, so that they show as gaps. */
function everyBucket(told) {
  const found = [];
  for (const bucket of told) {
    for (
      let last = found.at(-1);
      last && bucket.start_us - last.start_us > 1.5 * last.width_us && found.length < 1000;
      last = found.at(-1)
    ) {
      found.push({ start_us: last.start_us + last.width_us, width_us: last.width_us, count: 0, errors: 0, phases: {} });
    }
    found.push(bucket);
  }
  return found;
}
