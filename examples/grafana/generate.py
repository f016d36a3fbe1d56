"""Writes the dashboards and the alert rules: ``python examples/grafana/generate.py``.

Every query of Prometheus and Tempo stands here, once. The dashboards are plain JSON as Grafana provisions it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PROMETHEUS = {"type": "prometheus", "uid": "prometheus"}
TEMPO = {"type": "tempo", "uid": "tempo"}
ROUTE = "gen_ai_provider_name, gen_ai_request_model, server_address"
"""What a route is in a metric's labels."""
LEGEND = "{{gen_ai_provider_name}} {{gen_ai_request_model}} {{server_address}}"
CHOSEN = 'job=~"$service", gen_ai_request_model=~"$model"'
SPANS = 'service_name=~"$service"'
"""The metrics made of spans carry no model below the call, so the service alone chooses."""
WINDOW = "[$__rate_interval]"
CALLS = "traces_span_metrics_calls_total"
THROUGH = 'llmtrace_route_fingerprint=~"(.*;)?upstream=.*"'
"""Calls of which a gateway told who answered."""
UPSTREAM = 'label_replace({}, "upstream", "$1", "llmtrace_route_fingerprint", "(?:.*;)?upstream=([^;]*).*")'
"""A rate of such calls, with the upstream as a label of its own."""
ANSWERED = f"rate({CALLS}{{{SPANS}, {THROUGH}}}{WINDOW})"
KEPT = "Counted in the traces that were kept, so read it where calm calls are not sampled away, or as a trend."

Panel = dict[str, Any]


def mean(metric: str, labels: str, by: str, window: str = WINDOW) -> str:
    """A histogram's mean per series, in its unit."""
    parts = [f"sum by ({by}) (rate({metric}_{part}{{{labels}}}{window}))" for part in ("sum", "count")]
    return f"{parts[0]} / {parts[1]}"


def quantile(q: float, metric: str, labels: str, by: str, window: str = WINDOW) -> str:
    """A quantile of a histogram, as exact as its buckets, which double from 10 ms on."""
    return f"histogram_quantile({q:g}, sum by (le, {by}) (rate({metric}_bucket{{{labels}}}{window})))"


def phase(name: str, chosen: str = CHOSEN) -> str:
    """Labels that choose one phase."""
    return f'{chosen}, llmtrace_phase="{name}"'


def promql(*queries: tuple[str, str]) -> list[Panel]:
    """Targets of (expression, legend)."""
    return [
        {"refId": chr(65 + i), "datasource": PROMETHEUS, "expr": expr, "legendFormat": legend, "exemplar": True}
        for i, (expr, legend) in enumerate(queries)
    ]


def traceql(query: str) -> list[Panel]:
    """One TraceQL target: a list of traces, or a series where the query ends in a metrics function."""
    target = {"refId": "A", "datasource": TEMPO, "queryType": "traceql", "query": query}
    return [target if "over_time" in query or "rate()" in query else target | {"tableType": "traces", "limit": 20}]


def panel(title: str, targets: list[Panel], unit: str, about: str, *, stack: bool = False, width: int = 12) -> Panel:
    """A panel over time."""
    custom = {"fillOpacity": 40 if stack else 5, "stacking": {"mode": "normal" if stack else "none"}}
    return {
        "type": "timeseries",
        "title": title,
        "description": about,
        "datasource": targets[0]["datasource"],
        "targets": targets,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0, "custom": custom}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "gridPos": {"w": width, "h": 9},
    }


def traces(title: str, query: str, about: str) -> Panel:
    """A list of traces, each a link into the trace."""
    return {
        "type": "table",
        "title": title,
        "description": about,
        "datasource": TEMPO,
        "targets": traceql(query),
        "fieldConfig": {"defaults": {}, "overrides": []},
        "options": {"showHeader": True},
        "gridPos": {"w": 24, "h": 9},
    }


PHASES = "llmtrace_phase_duration_seconds"
DURATION = "gen_ai_client_inference_duration_seconds"
SPENT = "gen_ai_client_inference_usage"
"""Counters of tokens begin so; each has a series for every modality that the provider tells, else for `unknown`."""
GENERATING = f'{CHOSEN}, gen_ai_operation_name=~"chat|generate_content|text_completion"'
"""Of metrics that embeddings have as well: the calls that inference's own metrics are of."""
PER_CALL = f"scalar(sum(rate({DURATION}_count{{{CHOSEN}}}{WINDOW})))"
PREFILL = f"sum by ({ROUTE}) (rate({PHASES}_sum{{{phase('prefill')}}}{WINDOW}))"
INPUT = f"sum by ({ROUTE}) (rate({SPENT}_input_tokens_total{{{CHOSEN}}}{WINDOW}))"


def calls_named(name: str, more: str = "") -> str:
    """Spans of one name, a second."""
    return f'sum(rate({CALLS}{{{SPANS}, span_name="{name}"{more}}}{WINDOW}))'


ENDED = f'sum(rate({CALLS}{{{SPANS}, llmtrace_call_outcome!="", span_kind="SPAN_KIND_CLIENT"}}{WINDOW}))'
CUT = "closed_early|abandoned|never_consumed|cancelled|timed_out"

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
                    quantile(q, "gen_ai_client_inference_time_to_first_chunk_seconds", CHOSEN, ROUTE),
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
        promql((f"{PREFILL} / {INPUT}", LEGEND)),
        "s",
        "Seconds of prefill by all prompt tokens, cached ones too: it falls when the cache hits.",
    ),
    panel(
        "Prefill per uncached token, median",
        traceql(
            '{ span.llmtrace.phase = "prefill" && resource.service.name =~ "$service" }'
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
                    quantile(q, "gen_ai_client_inference_time_per_output_chunk_seconds", CHOSEN, ROUTE),
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
        promql((mean("gen_ai_client_inference_time_per_output_chunk_seconds", CHOSEN, ROUTE), LEGEND)),
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
]

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
            (f"sum(rate({SPENT}_input_tokens_total{{{CHOSEN}}}{WINDOW}))", "prompt tokens"),
            (f"sum(rate({SPENT}_cache_read_input_tokens_total{{{CHOSEN}}}{WINDOW}))", "of them cached"),
        ),
        "short",
        "Tokens a second. The lower line over the upper one is the hit rate by tokens, where providers count both.",
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
    traces(
        "Calls with a diagnosis",
        '{ span.llmtrace.diagnosis != nil && resource.service.name =~ "$service" }'
        " | select(span.llmtrace.diagnosis, span.llmtrace.call.ttft, span.gen_ai.request.model)",
        "The latest of them.",
    ),
]


def variable(name: str, query: str) -> Panel:
    """A choice at the top of the page, everything by default."""
    return {
        "name": name,
        "type": "query",
        "datasource": PROMETHEUS,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


def dashboard(uid: str, title: str, panels: list[Panel]) -> Panel:
    """A page; panels are laid out two to a row unless they are wider."""
    x = y = 0
    for i, each in enumerate(panels, 1):
        if x + each["gridPos"]["w"] > 24:
            x, y = 0, y + 9
        each["id"] = i
        each["gridPos"] |= {"x": x, "y": y}
        x += each["gridPos"]["w"]
    return {
        "uid": uid,
        "title": title,
        "tags": ["llmtrace"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                variable("service", f"label_values({DURATION}_count, job)"),
                variable("model", f"label_values({DURATION}_count, gen_ai_request_model)"),
            ]
        },
        "panels": panels,
    }


def alert(name: str, expr: str, wait: str, summary: str, what: str) -> Panel:
    """A Prometheus alerting rule."""
    notes = {"summary": summary, "description": what}
    return {"alert": name, "expr": expr, "for": wait, "labels": {"severity": "warning"}, "annotations": notes}


def prefill_per_token(window: str) -> str:
    """Seconds of prefill per prompt token, by route."""
    tokens = f"{SPENT}_input_tokens_total{window}"
    prefill = f'{PHASES}_sum{{llmtrace_phase="prefill"}}{window}'
    return f"sum by ({ROUTE}) (rate({prefill})) / sum by ({ROUTE}) (rate({tokens}))"


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
        "LLMTracingFails",
        "sum by (llmtrace_where) (increase(llmtrace_errors_total[15m])) > 0",
        "0m",
        "llmtrace failed inside itself: {{ $labels.llmtrace_where }}",
        "The application does not notice, but spans may be missing. Its log has the exception once.",
    ),
]

PAGES = {
    "latency": dashboard("llmtrace-latency", "LLM calls: where the time goes", LATENCY),
    "causes": dashboard("llmtrace-causes", "LLM calls: causes, cache, cancellations, retries", CAUSES),
}
RULES = {"groups": [{"name": "llmtrace", "interval": "1m", "rules": ALERTS}]}


def files() -> dict[Path, str]:
    """What is written where. JSON is YAML, so the rules need no library."""
    pages = {HERE / "dashboards" / f"{name}.json": page for name, page in PAGES.items()}
    return {path: json.dumps(body, indent=1) + "\n" for path, body in {**pages, HERE / "alerts.yaml": RULES}.items()}


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(HERE))
