// All that one span says, for the pane beside the waterfall.
import { h } from "./dom.js";
import { count, giveOrTake, seconds, value } from "./format.js";
import * as phases from "./phases.js";

/**
 * The pane's content. `off` is by how much the span may have been shorter and longer, `link(trace_id, span_id)` gives the
 * address of a linked span, `verdicts` are a call's, as an element, `graded` are the phases under it (or the span itself)
 * that an engine told and the blind estimate was made of too.
 */
export function details(span, { phase, off, link, verdicts, graded }) {
  const source = span.source ?? span.attributes?.["llmtrace.phase.source"];
  const own = span.attributes?.["llmtrace.call.duration"];
  const error = [span.attributes?.["error.type"], span.status_message].filter(Boolean);
  return h(
    "div",
    {},
    h(
      "p",
      { class: "plainly num" },
      h("b", {}, seconds(span.duration_s)),
      off ? ` ${giveOrTake(...off)}` : null,
      `, starts at ${seconds(span.start_s)}`,
    ),
    source
      ? h(
          "p",
          { class: "plainly" },
          phases.source(source),
          h("span", { class: "soft" }, phases.SOURCES[source] ?? "a source that this page does not know"),
        )
      : null,
    off
      ? h(
          "p",
          { class: "soft" },
          off[0] === off[1]
            ? "± is half the width of the interval that holds the true length nine times in ten."
            : "The interval from so much less to so much more holds the true length nine times in ten.",
        )
      : null,
    span.because ? h("p", {}, `Not told apart: ${span.because}`) : null,
    span.lost ? h("p", {}, `${span.lost}.`) : null,
    graded.map((phase) => h("p", {}, `${span.call ? `${phases.label(phase.phase)}: ` : ""}${phase.blind}.`)),
    span.call && Math.abs(own - span.duration_s) > 0.005 * own
      ? h("p", {}, `The call itself took ${seconds(own)}; this span is another instrumentation's.`)
      : null,
    verdicts,
    span.status === "error" ? h("p", { class: "bad" }, `✕ ${[...new Set(error)].join(": ") || "error"}`) : null,
    span.orphan ? h("p", { class: "warn" }, `! Its parent ${span.parent_id} is not among the spans that came.`) : null,
    section("Attributes", span.attributes, true),
    (span.events ?? []).map((event) =>
      section(
        `Event ${event.name} at ${seconds(event.at_s - (span.start_s ?? 0))}`,
        event.attributes,
        true,
        "no attributes",
      ),
    ),
    (span.links ?? []).length
      ? h(
          "section",
          {},
          h("h3", {}, "Links"),
          h(
            "ul",
            {},
            span.links.map((one) =>
              h(
                "li",
                {},
                h(
                  "a",
                  { href: link(one.trace_id, one.span_id) },
                  `span ${one.span_id} of trace ${one.trace_id.slice(0, 16)}`,
                ),
                pairs(one.attributes),
              ),
            ),
          ),
        )
      : null,
    section(
      "Span",
      {
        name: span.name,
        service: span.service,
        ...(phase ? { phase } : {}),
        kind: span.kind,
        status: span.status,
        "span id": span.span_id,
        "parent id": span.parent_id ?? "none",
        ...(span.scope ? { "made by": scope(span.scope) } : {}),
        ...(span.descendants ? { "spans under it": count(span.descendants) } : {}),
      },
      true,
    ),
    section("Resource", span.resource, false),
  );
}

const scope = (one) => (typeof one === "string" ? one : `${one.name ?? ""} ${one.version ?? ""}`.trim());

function section(title, items, open, without = null) {
  const entries = Object.entries(items ?? {});
  if (!entries.length && without === null) return null;
  return h(
    "details",
    { open },
    h(
      "summary",
      {},
      h("h3", {}, title),
      entries.length > 8 ? h("small", { class: "soft num" }, ` ${count(entries.length)}`) : null,
    ),
    entries.length ? pairs(items) : h("p", { class: "soft" }, without),
  );
}

function pairs(items) {
  const entries = Object.entries(items ?? {});
  return entries.length
    ? h(
        "dl",
        { class: "pairs" },
        entries.map(([key, item]) => h("div", {}, h("dt", {}, key), h("dd", {}, value(item)))),
      )
    : null;
}
