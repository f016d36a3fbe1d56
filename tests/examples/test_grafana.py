"""Every query of the dashboards and alerts, against metrics and spans of real calls.

PromQL is parsed, and each selector in it has to select a series: of the SDK's own, translated by OpenTelemetry's
Prometheus exporter, or of those that the Collector's span metrics make of the same calls' spans by its configuration.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import promql_parser
import pytest
import yaml
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from llmtrace.emit import names
from llmtrace.observe import internal_errors
from llmtrace.phases.model import PHASES
from tests.conftest import Tracing
from tests.support import replay as play
from tests.support.apis import Sync
from tests.support.replay import Replay
from tests.support.spans import Spans, attributes

GRAFANA = Path(__file__).parents[2] / "examples" / "grafana"
SCRAPED = {"job", "instance"}
"""Labels that the Collector's exporter and the scrape add to each series."""


def generated() -> Any:
    """The generator, as a module."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("grafana_generate", GRAFANA / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATED = generated()
TARGETS = [
    (f"{name}: {panel['title']}", target)
    for name, page in GENERATED.PAGES.items()
    for panel in page["panels"]
    for target in panel["targets"]
]
PROMQL = [(title, target["expr"]) for title, target in TARGETS if "expr" in target]
PROMQL += [(rule["alert"], rule["expr"]) for rule in GENERATED.ALERTS]
TRACEQL = [(title, target["query"]) for title, target in TARGETS if "query" in target]


@dataclass(frozen=True)
class Series:
    """One series: its name as Prometheus has it, and its labels."""

    name: str
    labels: dict[str, str]


def of_the_sdk(registry: CollectorRegistry) -> Iterator[Series]:
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            yield Series(sample.name, {k: v for k, v in sample.labels.items() if not k.startswith("otel_scope")})


def of_spans(spans: Spans) -> Iterator[Series]:
    """What the Collector's span metrics make of these spans, as their documentation describes it."""
    settings = yaml.safe_load((GRAFANA / "collector.yaml").read_text())["connectors"]["spanmetrics"]
    prefix = settings["namespace"].replace(".", "_")
    unit = {"s": "seconds", "ms": "milliseconds"}[settings["histogram"]["unit"]]
    for span in spans.finished():
        found = attributes(span)
        labels = {
            "service_name": str(span.resource.attributes["service.name"]),
            "span_name": span.name,
            "span_kind": f"SPAN_KIND_{span.kind.name}",
            "status_code": f"STATUS_CODE_{span.status.status_code.name}",
        }
        for dimension in settings["dimensions"]:
            if dimension["name"] in found:
                labels[dimension["name"].replace(".", "_")] = str(found[dimension["name"]])
        yield Series(f"{prefix}_calls_total", labels)
        yield Series(f"{prefix}_duration_{unit}_bucket", labels | {"le": "+Inf"})


@pytest.fixture
def series(
    replay: Replay, spans: Spans, tracing: Tracing, make_api: Callable[..., Sync], monkeypatch: pytest.MonkeyPatch
) -> list[Series]:
    """Calls of every kind that the pages speak of, and what became of them in Prometheus."""
    monkeypatch.setattr(internal_errors, "counts", {"a place": 1})
    registry = CollectorRegistry()
    provider = MeterProvider(metric_readers=[PrometheusMetricReader(registry=registry)])
    tracing.on(meter_provider=provider)
    api = make_api("sync", max_retries=2)
    timed = play.openai_stream(usage=play.USAGE, itl=0.004, last={"metrics": play.VLLM_METRICS}, ttft=0.03)
    replay.play(timed)
    api.drain(api.stream())
    replay.play(play.too_many(1), play.too_many(1), play.openai_stream(usage=play.USAGE))
    api.drain(api.stream())
    replay.play(play.openai_stream(itl=0.005))
    stream = api.stream()
    api.take(stream, 2)
    api.close(stream)
    replay.play(play.server_error(400))
    with pytest.raises(openai.BadRequestError):
        api.create()
    replay.play(play.json_answer(play.completion(id="gen-1790000000-a", provider="Azure")))
    api.create()
    found = [*of_the_sdk(registry), *of_spans(spans)]
    provider.shutdown()
    return found


def parts(node: Any) -> Iterator[Any]:
    """An expression and everything in it."""
    yield node
    for name in ("expr", "lhs", "rhs", "param", "vector_selector", "args"):
        below = getattr(node, name, None)
        for each in below if isinstance(below, list) else [below]:
            if each is not None:
                yield from parts(each)


def selects(selector: Any, series: Series) -> bool:
    """Whether a selector takes a series. Labels of the scrape are on every one of them."""
    if selector.name != series.name:
        return False
    for matcher in selector.matchers.matchers:
        if matcher.name in SCRAPED:
            continue
        value, op = series.labels.get(matcher.name, ""), str(matcher.op)
        hit = re.fullmatch(matcher.value, value) is not None if "Re" in op else matcher.value == value
        if hit == ("Not" in op):
            return False
    return True


def made(query: str) -> set[str]:
    """The labels that a query makes of others."""
    return set(re.findall(r'"(\w+)", "\$1"', query))


def parse(query: str) -> Any:
    for variable, value in (("$__rate_interval", "5m"), ("$service", ".*"), ("$model", ".*")):
        query = query.replace(variable, value)
    assert "$" not in re.sub(r"\{\{.*?\}\}", "", query.replace('"$1"', ""))
    return promql_parser.parse(query)


def test_every_selector_selects(series: list[Series]) -> None:
    """Names, labels and values, all at once: a query that selects nothing draws nothing."""
    labels = {name for each in series for name in each.labels} | SCRAPED
    for title, query in PROMQL:
        found = [part for part in parts(parse(query)) if isinstance(part, promql_parser.VectorSelector)]
        assert found, title
        for selector in found:
            chosen = [each for each in series if selects(selector, each)]
            assert chosen, (title, selector.prettify())
        for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", query):
            assert set(re.split(r",\s*", group)) <= labels | made(query), (title, group)


def test_groups_are_labels_of_what_they_group(series: list[Series]) -> None:
    """``sum by (x)`` over series without x would put everything into one line."""
    for title, query in PROMQL:
        for part in parts(parse(query)):
            if not isinstance(part, promql_parser.AggregateExpr) or part.modifier is None:
                continue
            for selector in parts(part.expr):
                if isinstance(selector, promql_parser.VectorSelector):
                    chosen = [each for each in series if selects(selector, each)]
                    have = {name for each in chosen for name in each.labels} | SCRAPED | made(query)
                    assert set(part.modifier.labels) <= have, (title, part.prettify())


def test_buckets(series: list[Series]) -> None:
    """Quantiles are asked of histograms only, and those have the buckets that the page tells."""
    asked = {s.name for _, q in PROMQL for s in parts(parse(q)) if isinstance(s, promql_parser.VectorSelector)}
    of_sdk = {name for name in asked if name.endswith("_bucket") and not name.startswith("traces_span")}
    assert of_sdk
    for name in of_sdk:
        bounds = {float(each.labels["le"]) for each in series if each.name == name}
        assert bounds == {*names.SECONDS_BUCKETS, float("inf")}, name


def test_a_wrong_name_is_found(series: list[Series]) -> None:
    """The check can fail: misspelt names, labels and values select nothing."""
    for wrong in (
        'llmtrace_phase_duration_bucket{llmtrace_phase="prefill"}',
        'llmtrace_phase_duration_seconds_sum{phase="prefill"}',
        'llmtrace_phase_duration_seconds_sum{llmtrace_phase="prefil"}',
    ):
        assert not any(selects(promql_parser.parse(wrong), each) for each in series)


def test_traceql_names() -> None:
    """Attributes and span names in TraceQL are llmtrace's."""
    known = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}
    phases = {names.SPAN_PREFIX + phase for phase in PHASES}
    assert TRACEQL
    for title, query in TRACEQL:
        asked = set(re.findall(r"span\.([a-z][\w.]*\w)", query))
        assert asked <= known, (title, asked - known)
        assert set(re.findall(r'name = "([^"]+)"', query)) <= phases | {names.ATTEMPT}, title
        assert query.count("{") == query.count("}")


def test_the_files_are_what_the_generator_writes() -> None:
    """Run ``python examples/grafana/generate.py`` after a change to it."""
    for path, text in GENERATED.files().items():
        assert path.read_text(encoding="utf-8") == text, path.name


def test_panels_can_be_read() -> None:
    """Each says what it shows and in which unit, none lies on another, ids and uids are single."""
    uids = [page["uid"] for page in GENERATED.PAGES.values()]
    assert len(uids) == len(set(uids))
    for page in GENERATED.PAGES.values():
        ids = [panel["id"] for panel in page["panels"]]
        assert len(ids) == len(set(ids))
        taken: set[tuple[int, int]] = set()
        for panel in page["panels"]:
            assert panel["description"]
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert not cells & taken, panel["title"]
            assert max(x for x, _ in cells) < 24
            taken |= cells
            if panel["type"] == "timeseries":
                assert panel["fieldConfig"]["defaults"]["unit"]
    rules = json.loads((GRAFANA / "alerts.yaml").read_text())["groups"][0]["rules"]
    assert all(rule["annotations"]["description"] and rule["for"] for rule in rules)


def test_queries_on_the_page(series: list[Series]) -> None:
    """The page's PromQL selects series, and its TraceQL asks for names that are ours."""
    page = (GRAFANA.parents[1] / "docs" / "read-grafana.md").read_text(encoding="utf-8")
    promql = [query for query in re.findall(r"\| `([^`]+)` \|", page) if "rate(" in query and "{ span" not in query]
    assert len(promql) >= 5
    for query in promql:
        for selector in parts(parse(query)):
            if not isinstance(selector, promql_parser.VectorSelector):
                continue
            estimated = '"estimate"' in selector.prettify()  # it takes more calls than these
            assert estimated or any(selects(selector, each) for each in series), query
    known = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}
    asked = set(re.findall(r"\b(?:span|event)\.(llmtrace[\w.]*\w)", page))
    assert asked
    assert asked <= known, asked - known
