// One trace as a waterfall: every span of it, ours or not. Spans come in pages, in depth-first order; what is under a
// closed span is skipped by its number of descendants, whether it is loaded or not.
import { get, silent } from "./api.js";
import { href, traceHref } from "./address.js";
import { failed, skeleton } from "./blanks.js";
import { border } from "./columns.js";
import { details } from "./details.js";
import { headline } from "./headline.js";
import { h, later, say } from "./dom.js";
import { Folds } from "./folds.js";
import { count, date, clock, exact, plural, seconds, tick, timeTicks } from "./format.js";
import * as phases from "./phases.js";
import { Rows } from "./rows.js";
import { nameOf, phaseOf, spanRow, under, unsure } from "./span-row.js";
import { list, verdicts } from "./verdicts.js";

const PAGE = 500;
const KEPT = 24; // pages in memory: 12,000 spans
const NEAR = 60; // rows under a call among which its phases are looked for

export function open(main, address, app) {
  return new Trace(main, address, app);
}

class Trace {
  constructor(main, address, app) {
    Object.assign(this, {
      main,
      app,
      id: address.id,
      params: address.params,
      pages: new Map(),
      folds: new Folds(),
      asked: new Set(),
      window: null,
      chosen: null,
    });
    this.stop = new AbortController();
    // Browsers allow only so many changes of the address: an arrow key that is held down makes more.
    this.remember = later(() => this.app.note(`trace/${encodeURIComponent(this.id)}`, this.params), 250);
    main.append(h("div", { class: "wide" }, skeleton(14, "Loading the trace")));
    this.start();
  }

  close() {
    this.stop.abort();
    this.remember.cancel();
    this.rows?.close();
    document.body.classList.remove("with-sheet");
  }

  async start() {
    const span = this.params.get("span");
    const asked = new URLSearchParams({ limit: String(PAGE) });
    if (span) asked.set("around", span);
    let answer;
    try {
      answer = await this.ask(asked).catch((error) => {
        if (error.status !== 404 || !span) throw error;
        asked.delete("around"); // the trace may be there without that span
        return this.ask(asked);
      });
    } catch (error) {
      if (!silent(error)) this.main.replaceChildren(failed(error, () => this.again()));
      return;
    }
    this.about = answer;
    this.store(answer);
    this.build();
    const at = span ? answer.spans.findIndex((one) => one.span_id === span) : -1;
    if (at >= 0) {
      const index = answer.offset + at;
      if (index > 20) this.rows.reveal(this.folds.row(index));
      this.select(index, { focus: false, sheet: false });
      this.rows.focus(this.folds.row(index));
    } else if (span) this.note.append(h("p", { class: "warn" }, `! The span ${span} is not in this trace.`));
  }

  again() {
    if (!this.about) {
      this.main.replaceChildren(h("div", { class: "wide" }, skeleton(14)));
      this.start();
    } else this.need(...this.rows.range());
  }

  ask(params) {
    return get(`traces/${encodeURIComponent(this.id)}`, params, this.stop.signal);
  }

  store(answer) {
    // Pages are kept by their number; an answer that begins elsewhere is cut to whole pages' places.
    answer.spans.forEach((span, at) => {
      const index = answer.offset + at;
      const page = Math.floor(index / PAGE);
      if (!this.pages.has(page)) this.pages.set(page, []);
      this.pages.get(page)[index % PAGE] = span;
    });
  }

  span(index) {
    return this.pages.get(Math.floor(index / PAGE))?.[index % PAGE];
  }

  /** Loads what the rows in sight need, once scrolling pauses. */
  need(from, to) {
    const wanted = new Set();
    for (let row = from; row < to; row++) {
      const index = this.folds.index(row);
      if (index < this.about.total && !this.span(index)) wanted.add(Math.floor(index / PAGE));
    }
    for (const page of wanted) this.fetchPage(page);
  }

  async fetchPage(page) {
    if (this.asked.has(page) || this.asked.size >= 3) return;
    this.asked.add(page);
    try {
      const answer = await this.ask(new URLSearchParams({ offset: String(page * PAGE), limit: String(PAGE) }));
      this.store(answer);
      if (answer.total !== this.about.total) {
        this.about = answer;
        this.rows.count = this.folds.rows(answer.total);
      }
      while (this.pages.size > KEPT) {
        const far = [...this.pages.keys()].sort((one, other) => Math.abs(other - page) - Math.abs(one - page))[0];
        this.pages.delete(far);
      }
      this.rows.redraw();
    } catch (error) {
      if (!silent(error)) say(`Spans could not be loaded: ${error.message}`);
    } finally {
      this.asked.delete(page);
    }
  }

  // --- Closing and opening

  toggle(index, close = !this.folds.isClosed(index)) {
    const span = this.span(index);
    if (!span || !under(span)) return;
    if (close) this.folds.close(index, span.descendants);
    else this.folds.open(index);
    this.reshape(index);
    say(close ? `closed, ${plural(span.descendants, "span")} hidden` : "opened");
  }

  reshape(index = null) {
    this.rows.count = this.folds.rows(this.about.total);
    this.rows.redraw();
    if (index !== null) this.rows.focus(this.folds.row(index));
  }

  /** Closes every loaded call, or opens everything. */
  fold(close) {
    this.folds.openAll();
    if (close) {
      for (const [page, spans] of this.pages) {
        spans.forEach((span, at) => {
          if (span.call && under(span)) this.folds.close(page * PAGE + at, span.descendants);
        });
      }
    }
    this.reshape();
  }

  // --- The page

  build() {
    const { about } = this;
    const root = about.offset === 0 ? about.spans[0] : null;
    const call = about.spans.find((span) => span.call);
    const pick = call
      ? h(
          "a",
          { class: "button quiet", href: href("calls", new URLSearchParams({ a: `${this.id}:${call.span_id}` })) },
          "Compare with …",
        )
      : null;
    const jaeger = this.app.status?.jaeger_url;
    const copy = h("button", { type: "button", class: "id", title: "Copy the trace id" }, this.id);
    copy.addEventListener("click", () =>
      navigator.clipboard?.writeText(this.id).then(
        () => say("The trace id is copied."),
        () => {},
      ),
    );
    this.jaeger = h("span", {}, jaeger ? this.link(jaeger) : null);
    this.axis = h("div", { class: "axis", "aria-hidden": "true" });
    this.place = h("div", { class: "rows", role: "tree", "aria-label": `Spans of the trace, ${count(about.total)}` });
    this.pane = h("aside", { class: "pane card", "aria-label": "Details of the span", tabindex: "-1", hidden: true });
    this.note = h("div", {});
    this.zoomed = h(
      "button",
      { type: "button", class: "quiet", hidden: true, onclick: () => this.zoom(null) },
      "Whole trace",
    );
    this.layoutBox = h(
      "div",
      { class: "trace-body" },
      h(
        "div",
        { class: "fall card" },
        h(
          "div",
          { class: "fall-head" },
          h(
            "div",
            { class: "fall-tools" },
            call
              ? h(
                  "button",
                  {
                    type: "button",
                    class: "quiet",
                    title: "Closes every call that is loaded",
                    onclick: () => this.fold(true),
                  },
                  "Close calls",
                )
              : null,
            h("button", { type: "button", class: "quiet", onclick: () => this.fold(false) }, "Open all"),
            this.zoomed,
          ),
          this.axis,
        ),
        this.place,
      ),
      this.pane,
    );
    const [head] = this.layoutBox.firstChild.children;
    this.axis.before(border("trace", this.layoutBox.firstChild, () => [head.firstChild, this.axis]));
    this.main.replaceChildren(
      h(
        "div",
        { class: "wide trace" },
        h("p", { class: "crumbs" }, h("a", { href: "#/calls" }, "Calls"), " / trace ", copy),
        h(
          "div",
          { class: "title-row" },
          h("h1", {}, root?.name || call?.name || "Trace"),
          h("div", { class: "total num" }, seconds(about.duration_s)),
        ),
        headline(about.headline, (span) => this.goTo(span)),
        h(
          "div",
          { class: "facts" },
          h(
            "span",
            { class: "num", title: exact(about.start_us) },
            `${date(about.start_us)}, ${clock(about.start_us)}`,
          ),
          h("span", { class: "num" }, plural(about.total, "span")),
          h("span", {}, about.services.join(", ")),
          this.jaeger,
          pick,
        ),
        this.note,
        phases.legend(),
        this.layoutBox,
      ),
    );
    if (about.orphans)
      this.note.append(
        h(
          "p",
          { class: "warn" },
          `! ${plural(about.orphans, "span")} whose parent is not here, shown at the top level and marked. They may still be on their way, or were dropped.`,
        ),
      );
    for (const warning of about.clock_warnings ?? []) this.note.append(h("p", { class: "warn" }, `! ${warning}`));
    const settled = later((from, to) => this.need(from, to), 60);
    this.rows = new Rows({
      place: this.place,
      draw: (row) => this.row(row),
      seen: settled,
      head: () => this.head(),
      foot: () => 0,
    });
    this.rows.count = about.total;
    this.drawAxis();
    this.rows.redraw();
    this.place.addEventListener("click", (event) => this.click(event));
  }

  link(jaeger, span_id) {
    const url = `${jaeger.replace(/\/+$/, "")}/trace/${encodeURIComponent(this.id)}${span_id ? `?uiFind=${encodeURIComponent(span_id)}` : ""}`;
    return h(
      "a",
      { href: /^https?:/.test(url) ? url : null, target: "_blank", rel: "noopener noreferrer" },
      "Open in Jaeger ↗",
    );
  }

  status(status) {
    if (this.jaeger && status.jaeger_url && !this.jaeger.firstChild) this.jaeger.append(this.link(status.jaeger_url));
  }

  update(params) {
    this.params = params;
  }

  head() {
    return this.axis ? Math.max(40, this.axis.parentElement.getBoundingClientRect().bottom) : 40;
  }

  span0() {
    return this.window ?? [0, this.about.duration_s || 1e-6];
  }

  drawAxis() {
    const [from, to] = this.span0();
    const length = to - from;
    this.axis.replaceChildren(
      ...timeTicks(length, 6, from).map((at) => {
        const share = (at - from) / length;
        return h(
          "span",
          { class: share > 0.93 ? "last" : share < 0.02 ? "first" : null, vars: { x: `${(100 * share).toFixed(3)}%` } },
          tick(at, to),
        );
      }),
    );
    this.zoomed.hidden = !this.window;
  }

  zoom(index) {
    const span = index === null ? null : this.span(index);
    const same =
      span && this.window && this.window[0] === span.start_s && this.window[1] === span.start_s + span.duration_s;
    this.window = !span || same || !(span.duration_s > 0) ? null : [span.start_s, span.start_s + span.duration_s];
    this.drawAxis();
    this.rows.redraw();
    say(this.window ? `zoomed to ${nameOf(span)}` : "the whole trace");
  }

  row(row) {
    const index = this.folds.index(row);
    const span = this.span(index);
    return spanRow(span, {
      chosen: this.chosen === index,
      open: !this.folds.isClosed(index),
      several: this.about.services.length > 1,
      window: this.span0(),
      parts: span?.call ? this.inside(index, span) : [],
    });
  }

  /** A call's phases, as far as they are loaded: they follow it within a few rows. */
  inside(index, span) {
    const found = [];
    const end = index + Math.min(span.descendants ?? 0, NEAR);
    let parent = span.span_id;
    for (let at = index + 1; at <= end; at++) {
      const child = this.span(at);
      if (!child) break;
      if (child.name === "llm.attempt" && child.parent_id === span.span_id) {
        parent = child.span_id; // the last attempt's phases are the call's
        found.length = 0;
      } else if (child.parent_id === parent && phaseOf(child)) found.push(child);
    }
    return found;
  }

  /** A call's verdicts: those on its own span, and on the phases that are under it and its attempts, as far as loaded. */
  verdicts(index, call) {
    const found = verdicts(call);
    const above = new Set([call.span_id]);
    for (let at = index + 1; at <= index + Math.min(call.descendants ?? 0, NEAR); at++) {
      const span = this.span(at);
      if (!span || !above.has(span.parent_id)) continue;
      if (span.name === "llm.attempt") above.add(span.span_id);
      if (span.name === "llm.attempt" || phaseOf(span)) found.push(...verdicts(span));
    }
    const lead = (span) => {
      const at = this.whereIs(index, span);
      if (at !== null) this.rows.focus(this.folds.row(at));
      if (at !== null) this.select(at);
    };
    return list(found, call, lead);
  }

  /** Chooses a span by its id; one that is not loaded yet through the page's address. */
  goTo(span_id) {
    for (const [page, spans] of this.pages) {
      const at = spans.findIndex((span) => span?.span_id === span_id);
      if (at < 0) continue;
      this.rows.focus(this.folds.row(page * PAGE + at));
      this.select(page * PAGE + at);
      return;
    }
    location.hash = traceHref(this.id, span_id);
    location.reload();
  }

  whereIs(from, span) {
    for (let at = from; at <= from + NEAR; at++) if (this.span(at) === span) return at;
    return null;
  }

  // --- Choosing a span

  click(event) {
    const node = event.target.closest(".span");
    if (!node) return;
    const row = Number(node.dataset.index);
    const index = this.folds.index(row);
    if (event.target.closest(".twist:not(.leaf)")) this.toggle(index);
    else if (!getSelection().toString()) this.select(index, { focus: narrow() });
  }

  select(index, { focus = false, sheet = true } = {}) {
    const span = this.span(index);
    if (!span) return;
    this.chosen = index;
    this.params.set("span", span.span_id);
    this.remember();
    for (const row of [...this.rows.nodes.keys()]) this.rows.update(row);
    if (narrow() && !sheet) return;
    this.pane.hidden = false;
    this.layoutBox.classList.add("with-pane");
    document.body.classList.toggle("with-sheet", narrow());
    const jaeger = this.app.status?.jaeger_url;
    this.pane.replaceChildren(
      h(
        "div",
        { class: "pane-head" },
        h("h2", {}, nameOf(span)),
        h("button", { type: "button", class: "quiet", onclick: () => this.shut() }, "Close"),
      ),
      h(
        "div",
        { class: "pane-tools" },
        span.duration_s > 0
          ? h("button", { type: "button", class: "quiet", onclick: () => this.zoom(index) }, "Zoom to it")
          : null,
        span.call
          ? h(
              "a",
              { class: "button quiet", href: href("calls", new URLSearchParams({ a: `${this.id}:${span.span_id}` })) },
              "Compare with …",
            )
          : null,
        jaeger ? this.link(jaeger, span.span_id) : null,
      ),
      details(span, {
        phase: phaseOf(span),
        off: unsure(span),
        link: traceHref,
        verdicts: span.call ? this.verdicts(index, span) : null,
        graded: (span.call ? this.inside(index, span) : [span]).filter((phase) => phase.blind),
      }),
    );
    this.pane.scrollTop = 0;
    if (focus) this.pane.focus();
  }

  shut() {
    this.pane.hidden = true;
    this.layoutBox.classList.remove("with-pane");
    document.body.classList.remove("with-sheet");
    if (this.chosen !== null) this.rows.focus(this.folds.row(this.chosen));
    this.chosen = null;
    this.params.delete("span");
    this.remember();
    this.rows.redraw();
  }

  key(event) {
    if (!this.rows) return false;
    if (event.key === "Escape" && !this.pane.hidden) {
      this.shut();
      return true;
    }
    if (!this.rows.holds()) return false;
    if (this.rows.key(event)) {
      if (!this.pane.hidden && !narrow()) this.select(this.folds.index(this.rows.at));
      return true;
    }
    const index = this.folds.index(this.rows.at);
    const span = this.span(index);
    if (!span) return false;
    if (event.key === "Enter" || event.key === " ") this.select(index, { focus: true });
    else if (event.key === "ArrowRight") {
      if (under(span) && this.folds.isClosed(index)) this.toggle(index, false);
      else if (under(span)) this.rows.focus(this.rows.at + 1);
    } else if (event.key === "ArrowLeft") {
      if (under(span) && !this.folds.isClosed(index)) this.toggle(index, true);
      else this.toParent(index, span);
    } else if (event.key === "z") this.zoom(index);
    else return false;
    event.preventDefault();
    return true;
  }

  toParent(index, span) {
    for (let at = index - 1; at >= 0; at--) {
      const other = this.span(at);
      if (!other) return;
      if (other.depth < span.depth) {
        this.rows.focus(this.folds.row(at));
        return;
      }
    }
  }
}

const narrow = () => matchMedia("(max-width: 900px)").matches;
