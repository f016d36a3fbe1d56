"""Every query of the dashboards and alerts, against metrics and spans of real calls.

PromQL is parsed, and each selector in it has to select a series: of the SDK's own, translated by OpenTelemetry's
Prometheus exporter, or of those that the Collector's span metrics make of the same calls' spans by its configuration.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import promql_parser
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from llmtrace.analyze import contract
from llmtrace.emit import names
from llmtrace.phases.model import PHASES
from tests.examples.served import Served
from tests.examples.traffic import GRAFANA, Traffic, generator

SCRAPED = {"job", "instance"}
"""Labels that the Collector's exporter and the scrape add to each series."""


GENERATED = generator()
TARGETS = [
    (f"{name}: {panel['title']}", target)
    for name, page in GENERATED.PAGES.items()
    for panel in page["panels"]
    for target in panel.get("targets", [])
]
PROMQL = [(title, target["expr"]) for title, target in TARGETS if "expr" in target]
PROMQL += [(rule["alert"], rule["expr"]) for rule in GENERATED.ALERTS]
PROMQL += [(rule["record"], rule["expr"]) for rule in GENERATED.RECORDING]
RECORDED = {rule["record"] for rule in GENERATED.RECORDING}
CHOICES = {"$__rate_interval": "5m", "$service": ".*", "$model": ".*", "$instance": ".*"}
"""What Grafana puts in for the variables of a page, but for the metrics' names."""
TRACEQL = [(title, target["query"]) for title, target in TARGETS if "query" in target]


@dataclass(frozen=True)
class Series:
    """One series: its name as Prometheus has it, and its labels."""

    name: str
    labels: dict[str, str]


@pytest.fixture(scope="module")
def of_the_server(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the reference server tells Prometheus."""
    served = Served(tmp_path_factory.mktemp("served"))
    served.play()
    served.end()
    return served.text()


@pytest.fixture
def series(traffic: Traffic, of_the_server: str) -> list[Series]:
    """Calls of every kind that the pages speak of, under both conventions, and what became of them in Prometheus."""
    for semconv in names.SEMCONVS:
        traffic.play(semconv)
    exposed = [
        family
        for text in (generate_latest(traffic.registry).decode(), of_the_server)
        for family in text_string_to_metric_families(text)
    ]
    return [
        Series(sample.name, {k: v for k, v in sample.labels.items() if v and not k.startswith("otel_scope")})
        for family in exposed
        for sample in family.samples
    ]


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
    for variable, value in CHOICES.items():
        query = query.replace(variable, value)
    assert "$" not in re.sub(r"\{\{.*?\}\}", "", query.replace('"$1"', ""))
    return promql_parser.parse(query)


def both_names(queries: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Each query as it is under either choice of metric names, once where that makes no difference."""
    values = [option["value"] for option in GENERATED.names_variable()["options"]]
    assert values == ["inference", "operation"]
    return [*dict.fromkeys((title, query.replace("${names}", value)) for title, query in queries for value in values)]


def test_every_selector_selects(series: list[Series]) -> None:
    """Names, labels and values, all at once: a query that selects nothing draws nothing."""
    labels = {name for each in series for name in each.labels} | SCRAPED
    for title, query in both_names(PROMQL):
        found = [part for part in parts(parse(query)) if isinstance(part, promql_parser.VectorSelector)]
        assert found, title
        for selector in found:
            chosen = [each for each in series if selects(selector, each)]
            assert chosen or selector.name in RECORDED, (title, selector.prettify())
        for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", query):
            assert set(re.split(r",\s*", group)) <= labels | made(query), (title, group)


def test_groups_are_labels_of_what_they_group(series: list[Series]) -> None:
    """``sum by (x)`` over series without x would put everything into one line."""
    for title, query in both_names(PROMQL):
        for part in parts(parse(query)):
            if not isinstance(part, promql_parser.AggregateExpr) or part.modifier is None:
                continue
            for selector in parts(part.expr):
                if isinstance(selector, promql_parser.VectorSelector) and selector.name not in RECORDED:
                    chosen = [each for each in series if selects(selector, each)]
                    have = {name for each in chosen for name in each.labels} | SCRAPED | made(query)
                    assert set(part.modifier.labels) <= have, (title, part.prettify())


def test_buckets(series: list[Series]) -> None:
    """Quantiles are asked of histograms only, and those have the buckets that the page tells."""
    queries = both_names(PROMQL)
    asked = {s.name for _, q in queries for s in parts(parse(q)) if isinstance(s, promql_parser.VectorSelector)}
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


def test_who_answered_is_what_the_reports_take() -> None:
    assert importlib.import_module("parts").WHO == contract.WHO


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
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert not cells & taken, panel["title"]
            assert max(x for x, _ in cells) < 24
            taken |= cells
            assert panel["type"] == "row" or panel["description"], panel["title"]
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
            assert any(selects(selector, each) for each in series), query
    known = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}
    asked = set(re.findall(r"\b(?:span|event)\.(llmtrace[\w.]*\w)", page))
    assert asked
    assert asked <= known, asked - known
