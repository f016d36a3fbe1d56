"""The page "where the time goes"."""

from __future__ import annotations

from parts import (
    CALLS,
    CHOSEN,
    CHUNK_GAP,
    ENDED,
    FIRST_CHUNK,
    GENERATING,
    KEPT,
    LEGEND,
    PER_CALL,
    PHASES,
    ROUTE,
    SPANS,
    WINDOW,
    input_tokens,
    mean,
    panel,
    phase,
    promql,
    quantile,
    row,
    traceql,
)
from rules import BUDGETS, LATE_AFTER, recorded

PREFILL = f"sum by ({ROUTE}) (rate({PHASES}_sum{{{phase('prefill')}}}{WINDOW}))"
ERRORS = "llmtrace_estimate_error_seconds"

LATENCY = [
    panel(
        "Phases of a mean call",
        promql(
            (f"sum by (llmtrace_phase) (rate({PHASES}_sum{{{GENERATING}}}{WINDOW})) / {PER_CALL}", "{{llmtrace_phase}}")
        ),
        "s",
        "Seconds of each phase per call, stacked: together they are the mean call. Choose one model to see one route.",
        stack=True,
        width=24,
    ),
    panel(
        "Time to the first chunk",
        promql(
            *(
                (
                    quantile(q, FIRST_CHUNK, CHOSEN, ROUTE),
                    f"p{q * 100:g} {LEGEND}",
                )
                for q in (0.5, 0.99)
            )
        ),
        "s",
        "Streams only. The buckets double, so a quantile is within a factor of 2.",
    ),
    panel(
        "What the first token waited for",
        promql(
            (
                f'sum by (llmtrace_phase) (rate({PHASES}_sum{{{GENERATING}, llmtrace_phase!~"decode|opaque"}}{WINDOW}))'
                f" / {PER_CALL}",
                "{{llmtrace_phase}}",
            )
        ),
        "s",
        "Network, queue, cache hit and prefill per call. queue_prefill is both where nobody can split them.",
        stack=True,
    ),
    panel(
        "Prefill per prompt token",
        promql((f"{PREFILL} / {input_tokens(CHOSEN, ROUTE)}", LEGEND)),
        "s",
        "Seconds of prefill by all prompt tokens, cached ones too: it falls when the cache hits.",
    ),
    panel(
        "Prefill per uncached token, median",
        traceql(
            '{ name = "llm.prefill" && span.llmtrace.side = "client" && resource.service.name =~ "$service" }'
            " | quantile_over_time(span.llmtrace.phase.time_per_token, .5) by (resource.service.name)"
        ),
        "s",
        KEPT,
    ),
    panel(
        "Time between chunks (ITL)",
        promql(
            *(
                (
                    quantile(q, CHUNK_GAP, CHOSEN, ROUTE),
                    f"p{q * 100:g} {LEGEND}",
                )
                for q in (0.5, 0.99)
            )
        ),
        "s",
        "Gaps that the application made are left out. Gaps under 10 ms lie in the first bucket: use the mean beside.",
    ),
    panel(
        "Time between chunks, mean",
        promql((mean(CHUNK_GAP, CHOSEN, ROUTE), LEGEND)),
        "s",
        "The mean is exact whatever the buckets.",
    ),
    panel(
        "Floor and excess",
        promql(
            (quantile(0.05, PHASES, CHOSEN, "llmtrace_phase", "[1d]"), "floor of {{llmtrace_phase}}"),
            (
                f"{mean(PHASES, CHOSEN, 'llmtrace_phase')}"
                f" - {quantile(0.05, PHASES, CHOSEN, 'llmtrace_phase', '[1d]')}",
                "excess of {{llmtrace_phase}}",
            ),
        ),
        "s",
        "Floor: the 5th percentile of the last day, as coarse as the buckets. Excess: the mean now above it. "
        "llmtrace report floor tells it per token from traces.",
    ),
    panel(
        "Duration by phase, p99, with exemplars",
        promql(
            (
                quantile(
                    0.99, "traces_span_metrics_duration_seconds", f'{SPANS}, llmtrace_phase!=""', "llmtrace_phase"
                ),
                "{{llmtrace_phase}}",
            )
        ),
        "s",
        "Made of spans by the Collector. A dot is a call: follow it to its trace.",
    ),
    row("What is known, and how well"),
    panel(
        "How far estimates are off",
        promql(
            (mean(ERRORS, CHOSEN, "llmtrace_phase"), "mean of {{llmtrace_phase}}"),
            (quantile(0.9, ERRORS, CHOSEN, "llmtrace_phase"), "p90 of {{llmtrace_phase}}"),
        ),
        "s",
        "Where an engine tells its queue and prefill, the estimate is made all the same and compared with that. Routes "
        "whose engine tells nothing have estimates of the same make, and nothing to compare them with.",
    ),
    panel(
        "Share of time that is measured, estimated, merged",
        promql(
            (
                f'sum (rate({PHASES}_sum{{{GENERATING}, llmtrace_phase!~"queue_prefill|opaque"}}{WINDOW}))'
                f" / scalar(sum(rate({PHASES}_sum{{{GENERATING}}}{WINDOW})))",
                "told apart",
            ),
            (
                f'sum (rate({PHASES}_sum{{{GENERATING}, llmtrace_phase_source="estimate"}}{WINDOW}))'
                f" / scalar(sum(rate({PHASES}_sum{{{GENERATING}}}{WINDOW})))",
                "of it by estimate",
            ),
            (
                f'sum by (llmtrace_phase) (rate({PHASES}_sum{{{GENERATING}, llmtrace_phase=~"queue_prefill|opaque"}}'
                f"{WINDOW})) / scalar(sum(rate({PHASES}_sum{{{GENERATING}}}{WINDOW})))",
                "merged: {{llmtrace_phase}}",
            ),
        ),
        "percentunit",
        "Merged is what nobody can tell apart: queue_prefill the wait for the first token, opaque a whole call.",
    ),
    panel(
        "Calls that are not split, and why",
        promql(
            (
                f"sum by (llmtrace_phase_merged_because) "
                f'(rate({CALLS}{{{SPANS}, llmtrace_phase_merged_because!=""}}{WINDOW})) / scalar({ENDED})',
                "{{llmtrace_phase_merged_because}}",
            )
        ),
        "percentunit",
        "Share of calls with a merged phase, by the reason. What helps is in the span reference under merged spans.",
        stack=True,
        width=24,
    ),
    row("Objectives"),
    panel(
        f"Streams whose first chunk came after {LATE_AFTER} s",
        promql((recorded("first_chunk_late", "1h", CHOSEN), "{{job}} {{gen_ai_request_model}}")),
        "percentunit",
        f"Share within the last hour. The objective allows {BUDGETS['first_chunk_late']:.1%}.",
    ),
    panel(
        "Calls that failed",
        promql((recorded("call_failed", "1h", CHOSEN), "{{job}} {{gen_ai_request_model}}")),
        "percentunit",
        f"Share within the last hour, retries that came through not counted. The objective allows "
        f"{BUDGETS['call_failed']:.1%}.",
    ),
    panel(
        "Who spends the objectives' budget",
        promql(
            (
                "sum by (llmtrace_phase, llmtrace_diagnosis_cause) "
                f"(rate(llmtrace_slo_excess_seconds_total{{{CHOSEN}}}[$__rate_interval]))",
                "{{llmtrace_phase}}, {{llmtrace_diagnosis_cause}}",
            )
        ),
        "s",
        "Seconds beyond the targets of slo_ttft, slo_itl and slo_total, per second, charged to the phases that took "
        "longer than their floor, by the cause that the diagnosis named.",
        width=24,
    ),
    panel(
        "How fast the budgets burn",
        promql(
            *(
                (
                    f"{recorded(name, window, CHOSEN)} / {budget:g}",
                    f"{name} {window} {{{{job}}}} {{{{gen_ai_request_model}}}}",
                )
                for name, budget in BUDGETS.items()
                for window in ("1h", "6h")
            )
        ),
        "short",
        "At 1 the month's budget lasts exactly a month. The alerts wake at 14.4 within an hour, or 6 within six hours.",
        width=24,
    ),
]
