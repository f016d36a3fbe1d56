"""What dashboards and rules are made of: metric names, pieces of queries, panels as Grafana's plain dictionaries."""

from __future__ import annotations

from typing import Any

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
WHO = ("upstream", "deployment", "upstream_model")
"""What of a fingerprint says who answered behind a gateway: the first that is there."""
THROUGH = f'llmtrace_route_fingerprint=~"(.*;)?({"|".join(WHO)})=.*"'
"""Calls of which a gateway told who answered."""
UPSTREAM = "{}"
"""A rate of such calls, with the upstream as a label of its own: what is first in ``WHO`` is put in last."""
for _who in reversed(WHO):
    UPSTREAM = f'label_replace({UPSTREAM}, "upstream", "$1", "llmtrace_route_fingerprint", "(?:.*;)?{_who}=([^;]*).*")'
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


def row(title: str) -> Panel:
    """A heading, under which the panels that follow lie."""
    return {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": {"w": 24, "h": 1}}


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
NAMED = "gen_ai_client_${names}"
"""How the conventions' metrics begin: `inference` by v0.1.0, `operation` by v1.41. Grafana puts in what is chosen."""
NAMES = {"v0.1.0": "inference", "v1.41": "operation"}
DURATION = f"{NAMED}_duration_seconds"
FIRST_CHUNK = f"{NAMED}_time_to_first_chunk_seconds"
CHUNK_GAP = f"{NAMED}_time_per_output_chunk_seconds"
GENERATING = f'{CHOSEN}, gen_ai_operation_name=~"chat|generate_content|text_completion"'
"""Of metrics that embeddings have as well: the calls that generate."""
PER_CALL = f"scalar(sum(rate({DURATION}_count{{{GENERATING}}}{WINDOW})))"


def input_tokens(labels: str = "", by: str = "", window: str = WINDOW) -> str:
    """Prompt tokens a second: v0.1.0's counter (a series for every modality), or else v1.41's histogram."""
    new = f"gen_ai_client_inference_usage_input_tokens_total{{{labels}}}"
    narrowed = f", {labels}" if labels else ""
    old = f'gen_ai_client_token_usage_sum{{gen_ai_token_type="input"{narrowed}}}'
    total = f"sum by ({by})" if by else "sum"
    return f"({total} (rate({new}{window})) or {total} (rate({old}{window})))"


def calls_named(name: str, more: str = "") -> str:
    """Spans of one name, a second."""
    return f'sum(rate({CALLS}{{{SPANS}, span_name="{name}"{more}}}{WINDOW}))'


ENDED = f'sum(rate({CALLS}{{{SPANS}, llmtrace_call_outcome!="", span_kind="SPAN_KIND_CLIENT"}}{WINDOW}))'
CUT = "closed_early|abandoned|never_consumed|cancelled|timed_out"


def names_variable() -> Panel:
    """Which names the conventions' metrics have: what the setting `semconv` of the programs says."""
    options = [{"text": text, "value": value, "selected": value == "inference"} for text, value in NAMES.items()]
    return {
        "name": "names",
        "label": "metric names",
        "description": "What LLMTRACE_SEMCONV says in the chosen services; v0.1.0 where it says nothing.",
        "type": "custom",
        "query": ", ".join(f"{text} : {value}" for text, value in NAMES.items()),
        "options": options,
        "current": {"text": "v0.1.0", "value": "inference"},
        "includeAll": False,
        "multi": False,
    }


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
