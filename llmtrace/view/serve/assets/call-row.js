// A call as a row of the list, and the headings above.
import { traceHref } from "./address.js";
import { h } from "./dom.js";
import { clock, count, date, dollars, exact, plural, seconds, tick, timeTicks, today } from "./format.js";
import * as phases from "./phases.js";

export const ORDERS = {
  newest: "newest first",
  slowest: "slowest first",
  ttft: "longest time to first token first",
  tokens: "most tokens first",
  cost: "most expensive first",
};

export const key = (call) => `${call.trace_id}:${call.span_id}`;

/**
 * The headings of the columns; `scale` is null where each bar has its own. `sort(name)` changes the order, `border` is
 * what the bars' column begins with.
 */
export function headings({ scale, order, sort, border }) {
  const axis = h(
    "span",
    { class: "axis", "aria-hidden": "true" },
    scale === null
      ? h("span", { class: "whole" }, "each call over its own length")
      : timeTicks(scale, 5).map((at) =>
          h(
            "span",
            {
              class: at / scale > 0.97 ? "last" : null,
              vars: { x: `${((100 * at) / scale).toFixed(2)}%` },
            },
            tick(at, scale),
          ),
        ),
  );
  const sorted = (name, title, by, extra = "") =>
    h(
      "span",
      {
        role: "columnheader",
        class: `${name} ${extra}`,
        "aria-sort": order === by ? "descending" : "none",
      },
      h(
        "button",
        { type: "button", class: "sort", title: ORDERS[by], onclick: () => sort(by) },
        title,
        order === by ? h("span", { class: "arrow", "aria-hidden": "true" }, "↓") : null,
      ),
    );
  return [
    h("span", { role: "columnheader", class: "pick" }, h("span", { class: "unseen" }, "Compare")),
    sorted("when", "Started", "newest"),
    h("span", { role: "columnheader", class: "what" }, "Call"),
    h("span", { role: "columnheader", class: "drawn" }, h("span", { class: "unseen" }, "Phases"), border, axis),
    sorted("ttft", "TTFT", "ttft", "num"),
    sorted("total", "Total", "slowest", "num"),
    sorted("tok", "Tokens", "tokens", "num"),
    h("span", { role: "columnheader", class: "how" }, "Outcome, causes"),
  ];
}

/**
 * A call as a row. `mark` is A or B where it is chosen, `scale` the seconds that the bar's whole width stands for, and
 * `tip(element, make)` shows more on hovering.
 */
export function callRow(call, { index, mark, scale, tip }) {
  const model = call.answered_model || call.model;
  const about = [
    call.task ?? (call.root !== call.name ? call.root : null),
    call.model && !call.name?.includes(call.model) ? call.model : null,
    call.service,
    call.provider !== call.service ? call.provider : null,
    call.answered_model && call.answered_model !== call.model ? `answered by ${call.answered_model}` : null,
    call.upstream ? `via ${call.upstream}` : null,
  ].filter(Boolean);
  const causes = call.causes ?? [];
  const confidences = Array.isArray(call.confidence) ? call.confidence : [call.confidence];
  const picture = phases.bar(call, scale);
  const node = h(
    "div",
    {
      class: `call${mark ? " chosen" : ""}`,
      role: "row",
      "aria-rowindex": String(index + 2),
      "aria-selected": String(Boolean(mark)),
      "aria-label": `${call.name || model || "call"}, ${seconds(call.duration_s)}${call.outcome ? `, ${call.outcome.replaceAll("_", " ")}` : ""}${causes.length ? `, ${causes.join(", ").replaceAll("_", " ")}` : ""}. ${phases.spoken(call)}`,
    },
    h(
      "span",
      { class: "pick", role: "gridcell" },
      h(
        "button",
        {
          type: "button",
          class: "choose",
          tabindex: "-1",
          "aria-pressed": String(Boolean(mark)),
          title: "Choose for comparison (x)",
          "aria-label": mark ? `Chosen as ${mark}` : "Choose for comparison",
        },
        mark,
      ),
    ),
    h(
      "span",
      { class: "when num", role: "gridcell", title: exact(call.start_us) },
      clock(call.start_us),
      today(call.start_us) ? null : h("small", {}, date(call.start_us)),
    ),
    h(
      "span",
      { class: "what", role: "gridcell" },
      h(
        "a",
        { href: traceHref(call.trace_id, call.span_id), tabindex: "-1", title: call.name },
        call.name || model || "(no name)",
      ),
      h("small", { title: about.join(" · ") }, about.join(" · ")),
    ),
    h("span", { class: "drawn", role: "gridcell" }, picture),
    h("span", { class: "ttft num", role: "gridcell" }, h("span", { class: "tag" }, "TTFT "), seconds(call.ttft_s)),
    h("span", { class: "total num", role: "gridcell" }, seconds(call.duration_s)),
    h(
      "span",
      {
        class: "tok num",
        role: "gridcell",
        title: call.cached_tokens ? `${count(call.cached_tokens)} from the cache` : null,
      },
      phases.tokens(call),
      h("span", { class: "tag" }, " tok"),
      call.cost_usd > 0
        ? h("small", {}, dollars(call.cost_usd))
        : call.cached_tokens
          ? h("small", {}, `${count(call.cached_tokens)} cached`)
          : null,
    ),
    h(
      "span",
      { class: "how", role: "gridcell" },
      phases.outcome(call.outcome, call.status),
      causes.slice(0, 3).map((cause, at) => phases.cause(cause, confidences[at])),
      causes.length > 3 ? h("small", { title: causes.slice(3).join(", ") }, `+${causes.length - 3}`) : null,
      call.attempts > 1 ? h("small", {}, plural(call.attempts, "attempt")) : null,
      call.error_type ? h("small", { class: "bad", title: call.error_type }, call.error_type) : null,
    ),
  );
  tip(picture, () =>
    h("div", {}, h("p", { class: "soft" }, `${call.name ?? "call"}, ${seconds(call.duration_s)}`), phases.table(call)),
  );
  return node;
}
