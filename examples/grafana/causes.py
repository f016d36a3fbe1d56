"""The page "causes, cache, cancellations, retries"."""

from __future__ import annotations

from parts import (
    ANSWERED,
    CALLS,
    CHOSEN,
    CUT,
    ENDED,
    KEPT,
    SPANS,
    THROUGH,
    UPSTREAM,
    WINDOW,
    calls_named,
    input_tokens,
    panel,
    promql,
    traceql,
    traces,
)

CAUSES = [
    panel(
        "Causes",
        promql(
            (
                f"sum by (llmtrace_diagnosis_cause) (rate(llmtrace_diagnoses_total{{{CHOSEN}}}{WINDOW}))",
                "{{llmtrace_diagnosis_cause}}",
            )
        ),
        "ops",
        "Calls a second with this cause. A call may have several, a calm one has none.",
        stack=True,
    ),
    panel(
        "Calls by outcome",
        promql(
            (
                f'sum by (llmtrace_call_outcome) (rate({CALLS}{{{SPANS}, llmtrace_call_outcome!="", '
                f'span_kind="SPAN_KIND_CLIENT"}}{WINDOW}))',
                "{{llmtrace_call_outcome}}",
            )
        ),
        "ops",
        "How calls ended.",
        stack=True,
    ),
    panel(
        "Calls with a cache hit",
        promql((f"{calls_named('llm.kv_cache_hit')} / {ENDED}", "share")),
        "percentunit",
        "Share of calls of which some prompt tokens came from the prefix cache, where providers count them.",
    ),
    panel(
        "Prompt tokens, and those of them that were cached",
        promql(
            (input_tokens(CHOSEN), "prompt tokens"),
            (
                f"sum(rate(gen_ai_client_inference_usage_cache_read_input_tokens_total{{{CHOSEN}}}{WINDOW}))",
                "of them cached",
            ),
        ),
        "short",
        "Tokens a second. The lower line over the upper one is the hit rate by tokens, where providers count both. "
        "The older names of metrics have none for cached tokens.",
    ),
    panel(
        "Time saved by cache hits",
        traceql(
            '{ name = "llm.kv_cache_hit" && resource.service.name =~ "$service" }'
            " | sum_over_time(span.llmtrace.kv_cache.time_saved) by (resource.service.name)"
        ),
        "s",
        f"Prefill seconds that hits spared. {KEPT}",
    ),
    panel(
        "Calls cut short, by phase",
        promql(
            (
                f'sum by (llmtrace_cancellation_phase) (rate({CALLS}{{{SPANS}, llmtrace_call_outcome=~"{CUT}", '
                f'span_kind="SPAN_KIND_CLIENT"}}{WINDOW}))',
                "in {{llmtrace_cancellation_phase}}",
            )
        ),
        "ops",
        "In which phase callers gave up.",
        stack=True,
    ),
    panel(
        "Output tokens billed for calls cut short, at least",
        traceql(
            '{ span.llmtrace.cancellation.billed_tokens.lower > 0 && resource.service.name =~ "$service" }'
            " | sum_over_time(span.llmtrace.cancellation.billed_tokens.lower) by (resource.service.name)"
        ),
        "short",
        f"The lower bound. {KEPT} llmtrace report cancellations has both bounds.",
    ),
    panel(
        "Attempts beyond the first",
        promql(
            (
                f'sum by (http_response_status_code, error_type) (rate({CALLS}{{{SPANS}, span_name="llm.attempt", '
                f'status_code="STATUS_CODE_ERROR"}}{WINDOW}))',
                "{{http_response_status_code}} {{error_type}}",
            )
        ),
        "ops",
        "Failed attempts of retried calls, by why.",
        stack=True,
    ),
    panel(
        "Routes answering",
        promql(
            (
                f"sum by (llmtrace_route_fingerprint) "
                f'(rate({CALLS}{{{SPANS}, llmtrace_route_fingerprint!=""}}{WINDOW}))',
                "{{llmtrace_route_fingerprint}}",
            )
        ),
        "ops",
        "Model versions and fingerprints that answered. A change here is a change of the model, not of your code.",
        stack=True,
    ),
    panel(
        "Who answers behind a gateway",
        promql((f"sum by (upstream) ({UPSTREAM.format(ANSWERED)})", "{{upstream}}")),
        "ops",
        "Calls by the upstream that the gateway named. A change here is the gateway's choice, not the engine's queue.",
        stack=True,
    ),
    panel(
        "Causes by upstream",
        promql(
            (
                "sum by (upstream, llmtrace_diagnosis_cause) ("
                + UPSTREAM.format(f'rate({CALLS}{{{SPANS}, {THROUGH}, llmtrace_diagnosis_cause!=""}}{WINDOW})')
                + ")",
                "{{upstream}}: {{llmtrace_diagnosis_cause}}",
            )
        ),
        "ops",
        "Calls with a verdict by its first cause and by who answered behind a gateway: whose queue, whose cold cache.",
        stack=True,
        width=24,
    ),
    traces(
        "Calls with a diagnosis",
        '{ span.llmtrace.diagnosis.cause != nil && resource.service.name =~ "$service" }'
        " | select(span.llmtrace.diagnosis.cause, span.llmtrace.call.ttft, span.gen_ai.request.model)",
        "The latest of them.",
    ),
]
