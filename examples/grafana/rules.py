"""The recording rules, which the objectives' panels and alerts read, and the alerts."""

from __future__ import annotations

from parts import CALLS, NAMES, PHASES, ROUTE, THROUGH, UPSTREAM, Panel, input_tokens

LATE_AFTER = 2.56
"""s to a stream's first chunk; one of the histogram's bounds."""
BUDGETS = {"first_chunk_late": 0.01, "call_failed": 0.005, "slo_missed": 0.01}
"""Which share of streams, and of calls, the objectives allow to miss."""
WINDOWS = ("5m", "30m", "1h", "6h")
FAST, SLOW = 14.4, 6.0
"""A month's budget burns at such a rate within two days, and within five."""
BY = "job, gen_ai_request_model"


def either(query: str) -> str:
    """``query`` under the conventions' names of v0.1.0, and of v1.41 for programs that keep those."""
    return " or ".join(f"({query.replace('NAMES', names)})" for names in NAMES.values())


def missed(name: str, window: str) -> str:
    """The share of streams or calls that missed the objective. ``slo_missed``: those that the programs' own settings
    (``slo_ttft``, ``slo_itl``, ``slo_total``) name."""
    if name == "slo_missed":
        judged = "llmtrace_slo_calls_total"
        every = f'sum by ({BY}) (rate({judged}{{llmtrace_slo_objective="call"}}[{window}]))'
        late = f'sum by ({BY}) (rate({judged}{{llmtrace_slo_objective="call", llmtrace_slo_met="false"}}[{window}]))'
        return f"({late} or 0 * {every}) / {every}"
    if name == "first_chunk_late":
        metric = "gen_ai_client_NAMES_time_to_first_chunk_seconds"
        in_time = f'sum by ({BY}) (rate({metric}_bucket{{le="{LATE_AFTER}"}}[{window}]))'
        return either(f"1 - {in_time} / sum by ({BY}) (rate({metric}_count[{window}]))")
    calls = "gen_ai_client_NAMES_duration_seconds_count"
    every = f"sum by ({BY}) (rate({calls}[{window}]))"
    failed = f'sum by ({BY}) (rate({calls}{{error_type!=""}}[{window}]))'
    return either(f"({failed} or 0 * {every}) / {every}")


def recorded(name: str, window: str, labels: str = "") -> str:
    """What a recording rule has made of ``missed``."""
    metric = f"job_model:llmtrace_{name}:ratio_rate{window}"
    return f"{metric}{{{labels}}}" if labels else metric


RECORDING = [{"record": recorded(name, window), "expr": missed(name, window)} for name in BUDGETS for window in WINDOWS]


def alert(name: str, expr: str, wait: str, summary: str, what: str) -> Panel:
    """A Prometheus alerting rule."""
    notes = {"summary": summary, "description": what}
    return {"alert": name, "expr": expr, "for": wait, "labels": {"severity": "warning"}, "annotations": notes}


def burns(name: str) -> str:
    """The budget burns so fast that it is worth waking somebody, and still does so."""
    budget = BUDGETS[name]
    pairs = ((FAST, "1h", "5m"), (SLOW, "6h", "30m"))
    return " or ".join(
        f"({recorded(name, long)} > {rate * budget:g} and {recorded(name, short)} > {rate * budget:g})"
        for rate, long, short in pairs
    )


def prefill_per_token(window: str) -> str:
    """Seconds of prefill per prompt token, by route."""
    prefill = f'{PHASES}_sum{{llmtrace_phase="prefill"}}{window}'
    return f"sum by ({ROUTE}) (rate({prefill})) / {input_tokens(by=ROUTE, window=window)}"


def hits(window: str) -> str:
    """Share of a service's calls with a cache hit."""
    hit = f'sum by (service_name) (rate({CALLS}{{span_name="llm.kv_cache_hit"}}{window}))'
    calls = f'{CALLS}{{llmtrace_call_outcome!="", span_kind="SPAN_KIND_CLIENT"}}{window}'
    return f"{hit} / sum by (service_name) (rate({calls}))"


ROUTES = f'{CALLS}{{llmtrace_route_fingerprint!=""}}'

BEHIND = f"sum by (service_name, gen_ai_request_model) (rate({CALLS}{{{THROUGH}}}"


def share(offset: str) -> str:
    """Each upstream's share of a model's calls in a quarter of an hour, as far as a gateway told who answered."""
    by_upstream = UPSTREAM.format(f"rate({CALLS}{{{THROUGH}}}[15m]{offset})")
    return (
        f"sum by (service_name, gen_ai_request_model, upstream) ({by_upstream}) "
        f"/ on (service_name, gen_ai_request_model) group_left () {BEHIND}[15m]{offset}))"
    )


ALERTS = [
    alert(
        "LLMPrefillSurge",
        f"{prefill_per_token('[10m]')} > 2 * {prefill_per_token('[1d] offset 10m')}",
        "10m",
        "Prefill per prompt token has doubled on {{ $labels.gen_ai_request_model }}",
        "Either the cache is cold, or the engine computes prompts more slowly. See 'Calls with a cache hit'.",
    ),
    alert(
        "LLMColdCache",
        f"({hits('[15m]')} < 0.5 * {hits('[1d] offset 15m')}) and ({hits('[1d] offset 15m')} > 0.2)",
        "15m",
        "Half of the usual cache hits are missing in {{ $labels.service_name }}",
        "A prompt's beginning may have changed, or the provider drops prefixes sooner. Look at llmtrace.diagnosis.",
    ),
    alert(
        "LLMRouteChange",
        f"count by (service_name, gen_ai_request_model) ((rate({ROUTES}[15m]) > 0 "
        f"unless on (service_name, gen_ai_request_model, llmtrace_route_fingerprint) {ROUTES} offset 1h) "
        f"and on (service_name, gen_ai_request_model) {ROUTES} offset 1h) > 0",
        "0m",
        "Another version of {{ $labels.gen_ai_request_model }} answers {{ $labels.service_name }}",
        "A fingerprint that an hour ago was not there. Compare before and after: llmtrace compare.",
    ),
    alert(
        "LLMUpstreamChange",
        f"({share('')} - ({share(' offset 1h')} or 0 * {share('')})) > 0.3 "
        f"and on (service_name, gen_ai_request_model) {BEHIND}[15m] offset 1h)) > 0",
        "5m",
        "{{ $labels.upstream }} answers more of {{ $labels.gen_ai_request_model }} for {{ $labels.service_name }}",
        "Its share of the calls behind the gateway rose by 30 points in an hour. See 'Who answers behind a gateway'.",
    ),
    alert(
        "LLMRetryStorm",
        f'sum by (service_name) (rate({CALLS}{{span_name="llm.attempt", status_code="STATUS_CODE_ERROR"}}[5m]))'
        f" > 0.5 * "
        f'sum by (service_name) (rate({CALLS}{{llmtrace_call_outcome!="", span_kind="SPAN_KIND_CLIENT"}}[5m]))',
        "5m",
        "More than one failed attempt for every two calls in {{ $labels.service_name }}",
        "Retries cost more than they save. See 'Attempts beyond the first'.",
    ),
    alert(
        "LLMProbeChange",
        "sum by (server_address, gen_ai_request_model, llmtrace_probe_change) "
        "(increase(llmtrace_probe_changes_total[30m])) > 0",
        "0m",
        "{{ $labels.server_address }} has changed: {{ $labels.llmtrace_probe_change }} of "
        "{{ $labels.gen_ai_request_model }}",
        "llmtrace probe --watch asks the same again and again, and this is another level or another answer.",
    ),
    alert(
        "LLMTracingFails",
        "sum by (llmtrace_where) (increase(llmtrace_errors_total[15m])) > 0",
        "0m",
        "llmtrace failed inside itself: {{ $labels.llmtrace_where }}",
        "The application does not notice, but spans may be missing. Its log has the exception once.",
    ),
    alert(
        "LLMFirstChunkBudget",
        burns("first_chunk_late"),
        "2m",
        "Too many first chunks of {{ $labels.gen_ai_request_model }} come late in {{ $labels.job }}",
        f"More of them than the objective allows took over {LATE_AFTER} s. See 'What the first token waited for'.",
    ),
    alert(
        "LLMFailureBudget",
        burns("call_failed"),
        "2m",
        "Too many calls of {{ $labels.gen_ai_request_model }} fail in {{ $labels.job }}",
        "More of them than the objective allows. See 'Attempts beyond the first' and 'Calls by outcome'.",
    ),
    alert(
        "LLMObjectiveBudget",
        burns("slo_missed"),
        "2m",
        "Too many calls of {{ $labels.gen_ai_request_model }} miss their objectives in {{ $labels.job }}",
        "More than their budget allows. See 'Who spends the objectives' budget', or llmtrace report slo.",
    ),
]
