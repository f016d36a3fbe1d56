// Why a call was slow or odd: its verdicts, each with its evidence. That lies in an event of the guilty phase's span;
// spans of the contract's first version have it on the call's own.
import { h } from "./dom.js";
import { percent, seconds, value } from "./format.js";
import * as phases from "./phases.js";

const EVENT = "llmtrace.diagnosis";
const of = (event, name) => event.attributes?.[`${EVENT}.${name}`];

/** The verdicts that a span's events hold: each its cause and its evidence in words. */
export function verdicts(span) {
  return (span.events ?? [])
    .filter((event) => event.name === EVENT && of(event, "cause"))
    .map((event) => ({ cause: String(of(event, "cause")), evidence: evidence(event), span }));
}

function evidence(event) {
  const [observed, expected, excess] = ["observed", "expected", "excess"].map((name) => of(event, name));
  const [rate, reason, confidence] = ["time_per_token", "reason", "confidence"].map((name) => of(event, name));
  return [
    typeof observed === "string" && typeof expected === "string" ? `${observed} instead of ${expected}` : null,
    excess > 0 ? `${seconds(excess)} more than usual` : null,
    rate > 0 ? `${seconds(rate)} per token` : null,
    reason ? value(reason) : null,
    confidence > 0 ? `${percent(confidence, 1)} sure` : null,
  ].filter(Boolean);
}

/** A call's verdicts as a list; `lead(span)` goes to the span of a guilty phase. */
export function list(found, call, lead) {
  if (!found.length) return null;
  return h(
    "section",
    { class: "verdicts" },
    h("h3", {}, found.length > 1 ? "Verdicts" : "Verdict"),
    h(
      "ul",
      {},
      found.map((one) =>
        h(
          "li",
          {},
          phases.cause(one.cause),
          " ",
          one.evidence.join(", "),
          one.span === call
            ? null
            : h(
                "button",
                { type: "button", class: "link", onclick: () => lead(one.span) },
                ` in ${phases.label(one.span.phase ?? one.span.name)}`,
              ),
        ),
      ),
    ),
  );
}
