// The filters over a list: what is chosen is in the address, what there is to choose comes from the server's facets.
import { get, silent } from "./api.js";
import { FACETS, filters, query } from "./address.js";
import { h, later } from "./dom.js";
import { count, words } from "./format.js";

const SPANS = [
  ["", "Any time"],
  ["900", "Last 15 minutes"],
  ["3600", "Last hour"],
  ["21600", "Last 6 hours"],
  ["86400", "Last day"],
  ["604800", "Last week"],
];

export class Filters {
  /** `change(params, {replace})` is called with the filters as they were chosen. */
  constructor(params, change) {
    this.params = filters(params);
    this.change = change;
    this.search = h("input", {
      type: "search",
      placeholder: "Search name, model, task, id",
      "aria-label": "Search name, model, task, trace or span id",
      spellcheck: "false",
      autocomplete: "off",
    });
    this.typed = later(() => this.apply(new URLSearchParams(this.params), true), 250);
    this.search.addEventListener("input", this.typed);
    this.menus = [...FACETS.map((name) => this.facet(name)), this.time()];
    this.chips = h("div", { class: "chips" });
    this.more = h(
      "button",
      { type: "button", class: "quiet more-filters", "aria-expanded": "false", onclick: () => this.unfold() },
      "Filters",
    );
    this.panel = h(
      "div",
      { class: "menus" },
      this.menus.map((menu) => menu.element),
    );
    this.element = h(
      "section",
      { class: "filters", "aria-label": "Filters" },
      h("div", { class: "filter-row" }, this.search, this.more, this.panel),
      this.chips,
    );
    this.outside = (event) => {
      if (!event.target.closest(".menu")) this.shut();
    };
    document.addEventListener("pointerdown", this.outside);
    this.update(params);
  }

  close() {
    this.typed.cancel();
    document.removeEventListener("pointerdown", this.outside);
  }

  unfold() {
    const open = this.element.classList.toggle("open");
    this.more.setAttribute("aria-expanded", String(open));
  }

  /** Takes the filters from the address. */
  update(params) {
    this.params = filters(params);
    if (document.activeElement !== this.search) this.search.value = this.params.get("q") ?? "";
    for (const menu of this.menus) menu.mark();
    const chips = [];
    for (const [key, value] of this.params) {
      if (key === "q") continue;
      const said = this.chip(key, value);
      chips.push(
        h(
          "button",
          {
            type: "button",
            class: "chip",
            "aria-label": `Remove the filter ${said}`,
            onclick: () => this.remove(key, value),
          },
          said,
          h("span", { "aria-hidden": "true" }, " ×"),
        ),
      );
    }
    const any = [...this.params].length;
    if (any) chips.push(h("button", { type: "button", class: "link", onclick: () => this.clear() }, "Clear filters"));
    this.chips.replaceChildren(...chips);
    this.more.textContent = chips.length > 1 ? `Filters (${chips.length - 1})` : "Filters";
  }

  chip(key, value) {
    if (key === "last") return (SPANS.find(([seconds]) => seconds === value)?.[1] ?? `last ${value} s`).toLowerCase();
    if (key === "slower_s") return `slower than ${value} s`;
    if (key === "since_us" || key === "until_us")
      return `${key === "since_us" ? "from" : "until"} ${new Date(Number(value) / 1000).toLocaleString("en-GB")}`;
    return `${key}: ${key === "cause" || key === "outcome" ? words(value) : value}`;
  }

  /** What stands in the search field counts always, be it typed a moment ago. */
  apply(params, replace = false) {
    this.typed.cancel();
    const text = this.search.value.trim();
    if (text) params.set("q", text);
    else params.delete("q");
    this.params = params;
    this.change(params, { replace });
  }

  remove(key, value) {
    const kept = new URLSearchParams();
    for (const [name, item] of this.params) if (name !== key || item !== value) kept.append(name, item);
    this.apply(kept);
    (this.chips.querySelector("button") ?? this.search).focus();
  }

  clear() {
    this.search.value = "";
    this.apply(new URLSearchParams());
    this.search.focus();
  }

  shut(but = null) {
    for (const menu of this.menus) if (menu !== but) menu.shut();
  }

  /** A button with a panel below it. `fill(panel)` is called when it opens. */
  menu(title, fill, mark) {
    const panel = h("div", { class: "panel", role: "group", "aria-label": title, hidden: true });
    const button = h(
      "button",
      { type: "button", class: "quiet", "aria-expanded": "false", "aria-haspopup": "true" },
      title,
    );
    const menu = {
      element: h("div", { class: "menu" }, button, panel),
      mark: () => {
        const number = mark();
        button.textContent = number ? `${title} (${number})` : title;
        button.classList.toggle("set", number > 0);
      },
      shut: () => {
        panel.hidden = true;
        button.setAttribute("aria-expanded", "false");
      },
    };
    button.addEventListener("click", () => {
      const opens = panel.hidden;
      this.shut(menu);
      panel.hidden = !opens;
      button.setAttribute("aria-expanded", String(opens));
      if (opens) fill(panel);
    });
    menu.element.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || panel.hidden) return;
      event.preventDefault();
      menu.shut();
      button.focus();
    });
    menu.element.addEventListener("focusout", (event) => {
      if (event.relatedTarget && !menu.element.contains(event.relatedTarget)) menu.shut();
    });
    return menu;
  }

  facet(name) {
    const fill = async (panel) => {
      panel.replaceChildren(h("p", { class: "soft" }, "Counting …"));
      let found;
      try {
        found = (await get("facets", query(this.params)))[name] ?? [];
      } catch (error) {
        panel.replaceChildren(h("p", { class: "soft" }, silent(error) ? "The server does not answer." : error.message));
        return;
      }
      const chosen = new Set(this.params.getAll(name));
      const missing = [...chosen]
        .filter((value) => !found.some((one) => one.value === value))
        .map((value) => ({ value, count: 0 }));
      const options = [...missing, ...found].map((one) => {
        const box = h("input", { type: "checkbox", checked: chosen.has(one.value) });
        box.addEventListener("change", () => {
          if (box.checked) chosen.add(one.value);
          else chosen.delete(one.value);
          const params = new URLSearchParams(this.params);
          params.delete(name);
          for (const value of chosen) params.append(name, value);
          this.apply(params);
        });
        return h(
          "label",
          { class: "choice" },
          box,
          h(
            "span",
            { class: "value", title: one.value },
            name === "cause" || name === "outcome" ? words(one.value) : one.value,
          ),
          h("span", { class: "soft num" }, count(one.count)),
        );
      });
      panel.replaceChildren(...(options.length ? options : [h("p", { class: "soft" }, `No call names a ${name}.`)]));
      if (found.length >= 50) panel.append(h("p", { class: "soft" }, "The 50 most frequent. Search finds the others."));
    };
    return this.menu(name[0].toUpperCase() + name.slice(1), fill, () => this.params.getAll(name).length);
  }

  time() {
    const set = (changes) => {
      const params = new URLSearchParams(this.params);
      for (const [key, value] of Object.entries(changes)) {
        if (value) params.set(key, value);
        else params.delete(key);
      }
      this.apply(params);
    };
    const fill = (panel) => {
      const exact = this.params.has("since_us") || this.params.has("until_us");
      const last = this.params.get("last") ?? "";
      const from = h("input", { type: "datetime-local", step: "1", value: local(this.params.get("since_us")) });
      const to = h("input", { type: "datetime-local", step: "1", value: local(this.params.get("until_us")) });
      const slower = h("input", {
        type: "number",
        min: "0",
        step: "any",
        inputmode: "decimal",
        placeholder: "0",
        value: this.params.get("slower_s") ?? "",
      });
      const range = () => set({ last: null, since_us: micros(from.value), until_us: micros(to.value) });
      from.addEventListener("change", range);
      to.addEventListener("change", range);
      slower.addEventListener("change", () => set({ slower_s: Number(slower.value) > 0 ? slower.value : null }));
      panel.replaceChildren(
        ...SPANS.map(([seconds, title]) =>
          h(
            "label",
            { class: "choice" },
            h("input", {
              type: "radio",
              name: "last",
              checked: !exact && last === seconds,
              onchange: () => set({ last: seconds, since_us: null, until_us: null }),
            }),
            h("span", { class: "value" }, title),
          ),
        ),
        h("label", { class: "field" }, "From", from),
        h("label", { class: "field" }, "Until", to),
        h("label", { class: "field" }, "Slower than, seconds", slower),
      );
    };
    return this.menu(
      "Time",
      fill,
      () => ["last", "since_us", "until_us", "slower_s"].filter((key) => this.params.has(key)).length,
    );
  }
}

/** Microseconds since the epoch as `datetime-local` wants them: local time. */
function local(us) {
  if (!us) return null;
  const at = new Date(Number(us) / 1000);
  if (Number.isNaN(at.getTime())) return null;
  return new Date(at.getTime() - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}

function micros(text) {
  const at = text ? new Date(text).getTime() : NaN;
  return Number.isNaN(at) ? null : String(at * 1000);
}
