// What a trace's page begins with: the verdict in a sentence, the call in brief, and why something is not told apart.
import { h } from "./dom.js";
import { count, dollars, plural, seconds } from "./format.js";
import * as phases from "./phases.js";

/** `brief` is the trace's headline, `lead(span_id)` goes to a span of it. */
export function headline(brief, lead) {
  if (!brief) return null;
  const one = brief.calls === 1;
  return h(
    "section",
    { class: "headline", "aria-label": "In brief" },
    brief.verdicts.map((verdict) => sentence(verdict, lead)),
    h("p", { class: "brief num" }, ...between(one ? facts(brief) : [to(brief.name, brief.span_id, lead), ...facts(brief)])),
    one ? null : h("p", { class: "brief num soft" }, ...between(sums(brief))),
    brief.merged.map(({ phase, because }) =>
      h("p", { class: "soft" }, `${phases.label(phase)}: not told apart, ${because}`),
    ),
  );
}

const to = (words, span_id, lead) =>
  h("button", { type: "button", class: "link", onclick: () => lead(span_id) }, words);

function sentence({ cause, why, span_id, phase }, lead) {
  return h(
    "p",
    { class: "verdict" },
    phases.cause(cause),
    why ? ` ${why}` : null,
    phase ? [" ", to(`in ${phases.label(phase)}`, span_id, lead)] : null,
  );
}

function facts(brief) {
  return [
    phases.outcome(brief.outcome, brief.status),
    brief.error_type,
    brief.calls === 1 ? null : seconds(brief.duration_s),
    brief.ttft_s === null ? null : `TTFT ${seconds(brief.ttft_s)}`,
    brief.input_tokens === null ? null : `${count(brief.input_tokens)} tokens in${brief.cached_tokens ? ` (${count(brief.cached_tokens)} cached)` : ""}`,
    brief.output_tokens === null ? null : `${count(brief.output_tokens)} out`,
    brief.tokens_per_s === null ? null : `${brief.tokens_per_s.toPrecision(3)} tokens/s`,
    brief.cost_usd === null ? null : dollars(brief.cost_usd),
  ];
}

const sums = (brief) => [
  `all ${plural(brief.calls, "call")}`,
  brief.failed ? `${count(brief.failed)} not completed` : null,
  brief.all_input_tokens === null ? null : `${count(brief.all_input_tokens)} tokens in`,
  brief.all_output_tokens === null ? null : `${count(brief.all_output_tokens)} out`,
  brief.all_cost_usd === null ? null : dollars(brief.all_cost_usd),
];

const between = (parts) => parts.filter(Boolean).flatMap((part, at) => (at ? [" · ", part] : [part]));
