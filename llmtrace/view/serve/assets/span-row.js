// A span as a row of the waterfall.
import { h } from "./dom.js";
import { count, giveOrTake, seconds } from "./format.js";
import * as phases from "./phases.js";
import { verdicts } from "./verdicts.js";

const DEEPEST = 10; // levels that are indented

/** A span's phase, by its own attribute or name. */
export const phaseOf = (span) =>
  span.phase ?? (span.name.startsWith("llm.") && span.name.slice(4) in phases.LABELS ? span.name.slice(4) : null);
const UNSURE = "llmtrace.phase.uncertainty";
/** By how much it may have been shorter and longer, in seconds; null where that is not told. */
export const unsure = ({ uncertainty_s, attributes }) =>
  phases.unsure({
    uncertainty_s: uncertainty_s ?? attributes?.[UNSURE],
    shorter_s: attributes?.[`${UNSURE}.low`],
    longer_s: attributes?.[`${UNSURE}.high`],
  });

export function nameOf(span) {
  const phase = phaseOf(span);
  if (phase && span.name.startsWith("llm.")) return phases.label(phase);
  if (span.name === "llm.attempt") {
    const status = span.attributes?.["http.response.status_code"] ?? span.attributes?.["error.type"];
    return status ? `attempt · ${status}` : "attempt";
  }
  return span.name === "llm.call" ? phases.label("call") : span.name || "(no name)";
}

/** Whether something lies under a span, so that it can be closed. */
export const under = (span) => Boolean(span.has_children && span.descendants > 0);

/**
 * A span as a row; undefined is one that is not loaded. `window` are the axis's ends in seconds, `parts` a call's phases,
 * `several` whether the trace has more than one service.
 */
export function spanRow(span, { chosen, open, several, window, parts }) {
  if (!span) return h("div", { class: "span waiting", role: "treeitem", "aria-label": "loading" }, h("i", {}));
  const phase = phaseOf(span);
  const source = span.source ?? span.attributes?.["llmtrace.phase.source"];
  const error = span.status === "error";
  const named = nameOf(span);
  const off = unsure(span);
  const causes = phase ? verdicts(span).map((verdict) => verdict.cause.replaceAll("_", " ")) : [];
  return h(
    "div",
    {
      class: `span${span.call ? " top" : ""}${error ? " failed" : ""}${chosen ? " chosen" : ""}`,
      role: "treeitem",
      "aria-level": String(span.depth + 1),
      "aria-expanded": under(span) ? String(open) : null,
      "aria-selected": String(chosen),
      // What is seen, in its order, and what only colours and places tell.
      "aria-label":
        [
          named,
          span.orphan && "no parent",
          several && span.service,
          !open && `+${count(span.descendants)}`,
          seconds(span.duration_s),
          source,
          off && giveOrTake(...off),
          causes.length && `verdict ${causes.join(", ")}`,
        ]
          .filter(Boolean)
          .join(" ") + `${error ? ", error" : ""}, starts at ${seconds(span.start_s)}`,
      vars: { depth: String(Math.min(span.depth, DEEPEST)) },
    },
    h(
      "span",
      { class: "name", title: span.name },
      h(
        "span",
        { class: `twist${under(span) ? "" : " leaf"}`, "aria-hidden": "true" },
        under(span) ? (open ? "▾" : "▸") : "",
      ),
      span.call ? null : phases.dot(phase ?? "other", span.name === "llm.attempt"),
      h("span", { class: "said" }, named),
      " ",
      error ? h("b", { class: "mark-bad", "aria-hidden": "true" }, "✕") : null,
      causes.length ? h("b", { class: "mark-warn", "aria-hidden": "true", title: causes.join(", ") }, "!") : null,
      span.orphan ? h("small", { class: "pill warn" }, "no parent") : null,
      " ",
      several ? h("small", { class: "service" }, span.service) : null,
      " ",
      !open ? h("small", { class: "soft num" }, `+${count(span.descendants)}`) : null,
    ),
    h("span", { class: "track", "aria-hidden": "true" }, bar(span, { window, parts, phase, source, off })),
    " ",
    h("span", { class: "dur num" }, seconds(span.duration_s)),
    " ",
    phases.source(source, off),
  );
}

function bar(span, { window, parts, phase, source, off }) {
  const [from, to] = window;
  const length = to - from;
  const place = (start, end) => {
    const left = Math.max(0, (start - from) / length);
    const right = Math.min(1, (end - from) / length);
    return right < 0 || left > 1
      ? null
      : { x: `${(100 * left).toFixed(3)}%`, w: `${(100 * Math.max(0, right - left)).toFixed(3)}%` };
  };
  const end = span.start_s + span.duration_s;
  const whole = place(span.start_s, end);
  if (!whole) return h("i", { class: "beyond" }, span.start_s >= to ? "→" : "←");
  const kind = span.name === "llm.attempt" ? "of-attempt hollow" : phase ? phases.css(phase) : "of-other";
  const late = (span.start_s - from) / length > 0.99 ? " tail" : "";
  const drawn = [h("i", { class: `seg ${kind}${source === "estimate" ? " estimate" : ""}${late}`, vars: whole })];
  for (const part of parts) {
    const at = place(part.start_s, part.start_s + part.duration_s);
    if (at)
      drawn.push(
        h("i", {
          class: `seg piece ${phases.css(phaseOf(part))}${part.source === "estimate" ? " estimate" : ""}`,
          vars: at,
        }),
      );
  }
  const [shorter, longer] = off ?? [0, 0];
  if ((shorter + longer) / length > 0.008) {
    const at = place(end - shorter, Math.min(end + longer, to));
    if (at) drawn.push(h("i", { class: "whisker", vars: at }));
  }
  return drawn;
}
