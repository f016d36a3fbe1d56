// The list of calls: phases as bars, filters, order, live tail, and the choice of two to compare.
import { get, silent } from "./api.js";
import { filters, href, query, traceHref } from "./address.js";
import { empty, failed, nothing, reading, skeleton } from "./blanks.js";
import { ORDERS, callRow, headings, key } from "./call-row.js";
import { border } from "./columns.js";
import { h, say } from "./dom.js";
import { Filters } from "./filters.js";
import { count, plural, roundUp, seconds } from "./format.js";
import * as phases from "./phases.js";
import { Rows } from "./rows.js";

const PAGE = 100;
/** The list as it was left, for the way back to it. */
let left = null;

export function open(main, address, app) {
  return new Calls(main, address.params, app);
}

class Calls {
  constructor(main, params, app) {
    Object.assign(this, {
      app,
      params,
      list: [],
      next: null,
      total: null,
      scale: 1,
      busy: null,
      pending: false,
      lastTick: 0,
    });
    this.own = params.get("scale") === "own";
    this.filters = new Filters(params, (chosen, { replace }) => this.navigate(chosen, replace));
    this.heading = h("h1", {}, "Calls");
    this.news = h("button", { type: "button", class: "news", hidden: true, onclick: () => this.toTop() });
    this.scaleButton = h(
      "button",
      {
        type: "button",
        class: "quiet",
        "aria-pressed": String(this.own),
        title: "Draw each bar over its full width, to see shares rather than lengths",
        onclick: () => this.toggleScale(),
      },
      "Each to full width",
    );
    this.columns = h("div", { class: "call columns", role: "row" });
    this.place = h("div", { class: "rows", role: "rowgroup" });
    this.grid = h(
      "div",
      { class: "grid", role: "grid", "aria-label": "Calls", "aria-multiselectable": "true" },
      h("div", { role: "rowgroup", class: "head" }, this.columns),
      this.place,
    );
    this.border = border("calls", this.grid, () =>
      ["what", "drawn"].map((name) => this.columns.querySelector(`.${name}`)),
    );
    this.body = h("div", {});
    this.tray = h("div", { class: "tray", role: "region", "aria-label": "Chosen for comparison", hidden: true });
    this.tools = h("div", { class: "list-tools" }, phases.legend());
    main.append(
      h(
        "div",
        { class: "wide list" },
        h("div", { class: "title-row" }, this.heading, this.scaleButton, this.order()),
        this.filters.element,
        this.tools,
        this.news,
        this.body,
      ),
      this.tray,
    );
    this.body.append(this.grid);
    this.rows = new Rows({
      place: this.place,
      draw: (index) => this.row(index),
      head: () => this.head(),
      foot: () => (this.tray.hidden ? 0 : this.tray.offsetHeight),
      seen: (_, to) => {
        if (to > this.list.length - 40) this.more();
      },
    });
    this.place.addEventListener("click", (event) => this.click(event));
    this.reading = () => scrollY > 4 || this.grid.matches(":hover") || this.grid.contains(document.activeElement);
    this.onScroll = () => {
      if (scrollY < 4) this.news.hidden = true;
    };
    addEventListener("scroll", this.onScroll, { passive: true });
    if (left?.asked === this.asked()) this.restore();
    else this.load();
  }

  /** What decides which calls are listed, and in which order. */
  asked() {
    return `${filters(this.params)}&${this.orderName()}`;
  }

  restore() {
    Object.assign(this, { list: left.list, next: left.next, total: left.total, scale: left.scale });
    this.draw();
    scrollTo({ top: left.scroll, behavior: "instant" });
    this.rows.layout();
    if (left.focused) this.rows.focus(left.at, { scroll: false });
    this.merge();
  }

  close() {
    left = this.list.length
      ? {
          asked: this.asked(),
          list: this.list,
          next: this.next,
          total: this.total,
          scale: this.scale,
          scroll: scrollY,
          at: this.rows.at,
          focused: this.rows.holds(),
        }
      : null;
    this.gone = true;
    this.busy?.abort();
    this.rows.close();
    this.filters.close();
    removeEventListener("scroll", this.onScroll);
  }

  head() {
    const columns = this.columns.getBoundingClientRect();
    return getComputedStyle(this.columns.parentElement).position === "sticky"
      ? Math.max(columns.height, columns.bottom)
      : 60;
  }

  // --- The address

  address(chosen = filters(this.params)) {
    const params = new URLSearchParams(chosen);
    for (const name of ["order", "scale", "live", "a", "b"])
      if (this.params.has(name)) params.set(name, this.params.get(name));
    return params;
  }

  navigate(chosen, replace = false) {
    this.app.go("calls", this.address(chosen), { replace });
  }

  update(params) {
    const before = this.asked();
    this.params = params;
    this.own = params.get("scale") === "own";
    this.filters.update(params);
    this.select.value = this.orderName();
    if (this.asked() !== before) this.load();
    else this.rows.redraw();
    this.drawTray();
  }

  orderName() {
    const name = this.params.get("order");
    return name in ORDERS ? name : "newest";
  }

  order() {
    this.select = h(
      "select",
      { "aria-label": "Order" },
      Object.entries(ORDERS).map(([name, title]) =>
        h("option", { value: name, selected: name === this.orderName() }, title),
      ),
    );
    this.select.addEventListener("change", () => this.sort(this.select.value));
    return h("label", { class: "order" }, h("span", { class: "soft" }, "Order"), this.select);
  }

  sort(name) {
    if (name === "newest") this.params.delete("order");
    else this.params.set("order", name);
    this.app.go("calls", this.address());
    this.load();
  }

  toggleScale() {
    this.own = !this.own;
    if (this.own) this.params.set("scale", "own");
    else this.params.delete("scale");
    this.app.note("calls", this.address());
    this.scaleButton.setAttribute("aria-pressed", String(this.own));
    this.drawColumns();
    this.rows.redraw();
  }

  // --- Loading

  ask(after, signal) {
    const asked = query(this.params);
    asked.set("order", this.orderName());
    asked.set("limit", String(PAGE));
    if (after) asked.set("after", after);
    return get("calls", asked, signal);
  }

  async load() {
    this.busy?.abort();
    const busy = (this.busy = new AbortController());
    this.news.hidden = true;
    if (!this.list.length) this.body.replaceChildren(skeleton(12, "Loading calls"));
    else this.grid.setAttribute("aria-busy", "true");
    try {
      const answer = await this.ask(null, busy.signal);
      this.take(answer);
    } catch (error) {
      if (!silent(error)) this.body.replaceChildren(failed(error, () => this.load()));
    } finally {
      if (this.busy === busy) {
        this.busy = null;
        this.grid.removeAttribute("aria-busy");
      }
    }
  }

  take(answer) {
    this.list = answer.calls;
    this.next = answer.next;
    this.total = answer.total;
    // The scale suits nineteen calls in twenty: one slow call must not flatten all others. It stays while one scrolls.
    const lengths = answer.calls.map((call) => call.duration_s).sort((one, other) => one - other);
    this.scale = roundUp(lengths[Math.min(lengths.length - 1, Math.floor(lengths.length * 0.95))] ?? 1);
    this.rows.at = 0;
    this.draw();
    if (scrollY > 0 && !this.filters.element.contains(document.activeElement))
      scrollTo({ top: 0, behavior: "instant" });
  }

  draw() {
    this.title();
    if (!this.list.length) {
      this.drawBlank();
      return;
    }
    this.blank = null;
    this.tools.hidden = this.scaleButton.hidden = this.filters.element.hidden = false;
    if (!this.grid.isConnected) this.body.replaceChildren(this.grid);
    this.grid.setAttribute("aria-rowcount", String(this.next ? -1 : this.list.length + 1));
    this.drawColumns();
    this.rows.set(this.list.length);
    this.drawTray();
  }

  /** Why there is nothing: drawn anew only where the reason is another one, for the keyboard may be in it. */
  drawBlank() {
    const status = this.app.status;
    const filtered = [...filters(this.params)].length > 0;
    const why = status?.loading ? "reading" : filtered ? "filters" : status?.spans ? "no calls" : "empty";
    this.tools.hidden = this.scaleButton.hidden = true;
    this.filters.element.hidden = why === "empty" || why === "reading";
    if (why === this.blank && why !== "reading" && !this.body.querySelector(".skeleton")) return;
    this.blank = why;
    this.body.replaceChildren(
      {
        reading: () => reading(status.loading),
        filters: () =>
          nothing(
            "No call fits these filters",
            "Take one away, or look further back in time.",
            h("button", { type: "button", onclick: () => this.filters.clear() }, "Clear filters"),
          ),
        "no calls": () =>
          nothing(
            "Spans, but no LLM call among them",
            "A call is a span with gen_ai.operation.name, or with phases under it. There may be some as further spans come.",
          ),
        empty: () => empty(status),
      }[why](),
    );
  }

  title() {
    this.heading.replaceChildren(
      "Calls",
      this.total === null ? "" : h("small", { class: "num" }, ` ${count(this.total)}`),
    );
  }

  async more() {
    if (!this.next || this.busy) return;
    const busy = (this.busy = new AbortController());
    try {
      const answer = await this.ask(this.next, busy.signal);
      const known = new Set(this.list.map(key));
      this.list.push(...answer.calls.filter((call) => !known.has(key(call))));
      this.next = answer.next;
      this.busy = null;
      this.grid.setAttribute("aria-rowcount", String(this.next ? -1 : this.list.length + 1));
      this.rows.count = this.list.length;
      this.place.style.height = `${this.list.length * this.rows.height}px`;
      this.rows.layout();
    } catch (error) {
      if (!silent(error)) {
        this.next = null;
        say(`No further calls: ${error.message}`);
      }
    } finally {
      if (this.busy === busy) this.busy = null;
    }
  }

  // --- Live tail

  /** Something new came. One request at a time, one a second at most. */
  tick() {
    if (this.pending) return;
    this.pending = true;
    setTimeout(
      () => {
        this.pending = false;
        if (this.gone) return;
        if (!this.busy) this.merge();
        else if (this.app.live) this.tick();
      },
      Math.max(0, this.lastTick + 1000 - performance.now()),
    );
  }

  again() {
    if (this.list.length) this.merge();
    else this.load();
  }

  async merge() {
    this.lastTick = performance.now();
    const busy = (this.busy = new AbortController());
    let answer;
    try {
      answer = await this.ask(null, busy.signal);
    } catch (error) {
      if (!silent(error)) say(error.message);
      return;
    } finally {
      if (this.busy === busy) this.busy = null;
    }
    if (!this.list.length) {
      this.take(answer);
      return;
    }
    const fresh = new Set(answer.calls.map(key));
    const known = new Set(this.list.map(key));
    const added = answer.calls.filter((call) => !known.has(key(call)));
    const grown = answer.total - this.total;
    this.total = answer.total;
    this.title();
    if (!this.list.some((call) => fresh.has(key(call)))) {
      // More came than a page holds: what lies between is not known, so that the list has to begin anew.
      if (this.reading()) this.tell(Math.max(grown, added.length), true);
      else this.take(answer);
      return;
    }
    const reading = this.reading();
    const anchor = reading ? this.list[this.rows.holds() ? this.rows.at : this.rows.first()] : null;
    const before = anchor ? this.list.indexOf(anchor) : 0;
    this.list = [...answer.calls, ...this.list.filter((call) => !fresh.has(key(call)))];
    if (answer.next === null) this.next = null;
    const after = anchor ? this.list.findIndex((call) => key(call) === key(anchor)) : 0;
    if (anchor) this.rows.at += after - before;
    this.shift(after - before);
    if (!reading) this.flash(added);
    else if (after > before) this.tell(after - before, false);
    if (added.length && !reading) say(plural(added.length, "new call"));
  }

  /** Redraws with `by` more rows above the reader, who sees the same rows at the same place. */
  shift(by) {
    const focused = this.rows.holds();
    this.rows.count = this.list.length;
    this.place.style.height = `${this.list.length * this.rows.height}px`;
    if (by) scrollBy({ top: by * this.rows.height, behavior: "instant" });
    for (const node of this.rows.nodes.values()) node.remove();
    this.rows.nodes.clear();
    this.rows.layout();
    if (focused) this.rows.focus(this.rows.at, { scroll: false });
  }

  tell(number, afresh) {
    this.newsNumber = (this.news.hidden ? 0 : (this.newsNumber ?? 0)) + number;
    this.newsAfresh = afresh;
    this.news.textContent = `↑ ${plural(this.newsNumber, "new call")}`;
    this.news.hidden = false;
  }

  toTop() {
    this.news.hidden = true;
    document.activeElement?.blur?.();
    scrollTo({ top: 0, behavior: "instant" });
    if (this.newsAfresh) this.load();
  }

  flash(added) {
    const marked = new Set(added.map(key));
    for (const [index, node] of this.rows.nodes) if (marked.has(key(this.list[index]))) node.classList.add("fresh");
  }

  status(status) {
    if (this.busy) return;
    if (status.loading && this.list.length) this.tick();
    else if (!this.list.length && status.calls && this.blank !== "filters") this.load();
    else if (!this.list.length && this.total !== null) this.drawBlank();
  }

  // --- Rows

  drawColumns() {
    const order = this.orderName();
    const moving = this.border.matches(":focus");
    this.columns.replaceChildren(
      ...headings({
        scale: this.own ? null : this.scale,
        order,
        sort: (name) => this.sort(name),
        border: this.border,
      }),
    );
    if (moving) this.border.focus({ preventScroll: true });
    this.scaleButton.setAttribute("aria-pressed", String(this.own));
  }

  chosen() {
    return [this.params.get("a"), this.params.get("b")];
  }

  row(index) {
    const call = this.list[index];
    const mine = key(call);
    const [a, b] = this.chosen();
    const mark = mine === a ? "A" : mine === b ? "B" : "";
    return callRow(call, { index, mark, scale: this.own ? call.duration_s || 1 : this.scale, tip: this.app.tip });
  }

  click(event) {
    const row = event.target.closest(".call");
    if (!row || event.target.closest("a")) return;
    const index = Number(row.dataset.index);
    if (event.target.closest(".pick")) this.choose(index);
    else if (!getSelection().toString()) this.enter(index);
  }

  enter(index) {
    const call = this.list[index];
    if (call) location.hash = traceHref(call.trace_id, call.span_id);
  }

  key(event) {
    if (!this.rows.holds()) {
      if (event.key === "c") return this.compare();
      if (
        (event.key === "ArrowDown" || event.key === "j") &&
        this.list.length &&
        document.activeElement === document.body
      ) {
        event.preventDefault();
        this.rows.focus(this.rows.first());
        return true;
      }
      return false;
    }
    if (this.rows.key(event)) return true;
    if (event.key === "Enter" && !event.target.closest("button, a")) this.enter(this.rows.at);
    else if (event.key === "x") this.choose(this.rows.at);
    else if (event.key === " " && !event.target.closest("button, a")) this.choose(this.rows.at);
    else if (event.key === "c") return this.compare();
    else return false;
    event.preventDefault();
    return true;
  }

  // --- Comparing

  choose(index) {
    const mine = key(this.list[index]);
    const [a, b] = this.chosen();
    if (mine === a) this.params.delete("a");
    else if (mine === b) this.params.delete("b");
    else this.params.set(a ? "b" : "a", mine);
    this.app.note("calls", this.address());
    for (const at of [...this.rows.nodes.keys()]) this.rows.update(at);
    this.drawTray();
    const [first, second] = this.chosen();
    say(
      first && second
        ? "A and B are chosen. Press c to compare."
        : first || second
          ? "One is chosen. Choose another."
          : "None is chosen.",
    );
  }

  drawTray() {
    const [a, b] = this.chosen();
    this.tray.hidden = !a && !b;
    document.body.classList.toggle("with-tray", !this.tray.hidden);
    if (this.tray.hidden) return;
    const said = (letter, id) => {
      const call = this.list.find((one) => key(one) === id);
      return h(
        "span",
        { class: "side" },
        h("b", { class: `letter ${letter}` }, letter.toUpperCase()),
        id
          ? call
            ? `${call.name || call.model}, ${seconds(call.duration_s)}`
            : id.slice(0, 12)
          : h("span", { class: "soft" }, "choose another call"),
      );
    };
    this.tray.replaceChildren(
      said("a", a),
      said("b", b),
      h("button", { type: "button", class: "main", disabled: !(a && b), onclick: () => this.compare() }, "Compare"),
      h("button", { type: "button", class: "quiet", onclick: () => this.clearChoice() }, "Clear"),
    );
  }

  clearChoice() {
    this.params.delete("a");
    this.params.delete("b");
    this.app.note("calls", this.address());
    this.rows.redraw();
    this.drawTray();
  }

  compare() {
    const [a, b] = this.chosen();
    if (!a || !b) {
      say("Choose two calls first, with x.");
      return true;
    }
    location.hash = href("compare", new URLSearchParams({ a, b }));
    return true;
  }
}
