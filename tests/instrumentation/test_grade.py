"""Wherever an engine tells its phases, the blind estimate is made too and graded: spans, metric, report, viewer."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from rich.console import Console

from llmtrace.analyze import reports
from llmtrace.analyze.book import Book
from llmtrace.analyze.load import load
from llmtrace.calls import tracer
from llmtrace.emit.metrics import Meters
from llmtrace.emit.otlp_json import OtlpJsonFileExporter
from llmtrace.observe import transport
from llmtrace.view import html, terminal, tree
from tests.support import replay as play
from tests.support.clock import Clock
from tests.support.paced import pace
from tests.support.replay import Replay
from tests.support.spans import Metrics, Spans, attributes, seconds
from tests.support.waiting import wait_for

CALLS = 24
LEAST = 8
WORDS = [f"word{number} " for number in range(6)]
GRADED = ("queue", "prefill")


@pytest.fixture
def traffic(tracing: Any, make_api: Any, replay: Replay, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Streams of prompts of many lengths on vLLM, whose prefill takes 0.1 ms a token; with the settings given."""
    monkeypatch.setattr(transport, "_TCP_INFO", None)
    services: list[Any] = []
    original = tracer.Services

    def kept(*args: Any, **kwargs: Any) -> Any:
        services.append(original(*args, **kwargs))
        return services[-1]

    monkeypatch.setattr(tracer, "Services", kept)

    def make(usage: bool = True, **settings: Any) -> None:
        tracing.on(min_calls=LEAST, min_spread=2.0, **settings)
        api = make_api("sync")
        for number in range(CALLS):
            tokens = 40 * (1 + number * 7 % 11)
            told = {"queue_time_ms": 1.0, "time_to_first_token_ms": 13 + 0.1 * tokens, "generation_time_ms": 20.0}
            counted = {"prompt_tokens": tokens, "completion_tokens": 6, "total_tokens": tokens + 6}
            pace(api, clock, [0.01 + 1e-4 * tokens, *[0.004] * 9])
            replay.play(play.openai_stream(WORDS, counted if usage else None, last={"metrics": told}))
            api.drain(api.stream())
            for each in services:
                each.baselines.settle()

    return make


def graded(spans: Spans) -> list[tuple[str, float, dict[str, Any]]]:
    """Name, length and attributes of each phase that was graded."""
    found: list[tuple[str, float, dict[str, Any]]] = []
    for call in spans.parents():
        for name, phase in spans.phases(call).items():
            if "llmtrace.estimate.error" in attributes(phase):
                found.append((name, seconds(phase), attributes(phase)))
    return found


def test_what_the_engine_told_stands_and_the_estimate_beside_it(traffic: Any, spans: Spans, metrics: Metrics) -> None:
    traffic()
    spans.check_all()
    found = graded(spans)
    assert len(found) == 2 * (CALLS - LEAST), "queue and prefill of each call that had enough before it"
    for name, length, told in found:
        assert name in GRADED
        assert told["llmtrace.phase.source"] == "server"
        assert "llmtrace.phase.uncertainty" not in told, "what the engine said is no estimate"
        said, error, half = (told[f"llmtrace.estimate.{word}"] for word in ("duration", "error", "uncertainty"))
        assert said - error == pytest.approx(length, abs=2e-6)
        assert half >= 0
        low, high = (told.get(f"llmtrace.estimate.uncertainty.{side}") for side in ("low", "high"))
        assert (low is None) == (high is None)
        assert low is None or (low <= said and max(low, high) == half)
    prefill = [abs(told["llmtrace.estimate.error"]) for name, _, told in found if name == "prefill"]
    assert median(prefill) < 0.005, "what the engine told is what the client sees, so the estimate is near"
    points = {point.attributes["llmtrace.phase"]: point for point in metrics.points("llmtrace.estimate.error")}
    assert set(points) == set(GRADED)
    for name, point in points.items():
        errors = [abs(told["llmtrace.estimate.error"]) for phase, _, told in found if phase == name]
        assert point.count == len(errors)
        assert point.sum == pytest.approx(sum(errors))
        assert dict(point.attributes) == {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": play.MODEL,
            "gen_ai.response.model": play.MODEL,
            "llmtrace.phase": name,
            "llmtrace.phase.source": "server",
            "server.address": "127.0.0.1",
            "server.port": point.attributes["server.port"],
        }
    assert metrics.collect()["llmtrace.estimate.error"].unit == "s"


def test_the_application_does_not_wait_for_its_metrics(
    traffic: Any, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[str] = set()
    record = Meters.record

    def noted(self: Meters, measurements: Any) -> None:
        threads.add(threading.current_thread().name)
        record(self, measurements)

    monkeypatch.setattr(Meters, "record", noted)
    traffic()
    # Once the values are gathered; a flush does here what still waits.
    wait_for(lambda: threads)
    assert threads == {"llmtrace-metrics"}
    assert metrics.provider.force_flush()
    assert sum(point.count for point in metrics.points("llmtrace.estimate.error")) == 2 * (CALLS - LEAST)


@pytest.mark.parametrize(
    "settings",
    [{"server_timings": False}, {"usage": False}, {"metrics": False}],
    ids=["blind", "no usage", "no metrics"],
)
def test_settings(traffic: Any, spans: Spans, metrics: Metrics, settings: dict[str, Any]) -> None:
    traffic(**settings)
    assert metrics.points("llmtrace.estimate.error") == []
    assert len(graded(spans)) == (2 * (CALLS - LEAST) if "metrics" in settings else 0)


def test_report_page_and_terminal_tell_of_it(traffic: Any, spans: Spans, tmp_path: Path) -> None:
    traffic()
    file = tmp_path / "t.jsonl"
    OtlpJsonFileExporter(file).export(spans.exporter.get_finished_spans())
    found = graded(spans)
    with load([str(file)]) as traces:
        report = reports.make("accuracy", Book(traces))
    (section,) = report.sections
    titles = [column.title for column in section.columns]
    rows = {row[1]: dict(zip(titles, row, strict=True)) for row in section.rows}
    assert list(rows) == list(GRADED)
    for name, row in rows.items():
        phases = [(length, told) for phase, length, told in found if phase == name]
        errors = [abs(told["llmtrace.estimate.error"]) for _, told in phases]
        assert (row["told"], row["graded"]) == (CALLS, CALLS - LEAST)
        assert row["median error"] == pytest.approx(median(errors))
        assert row["bias"] == pytest.approx(median(told["llmtrace.estimate.error"] for _, told in phases))
        assert row["of itself, median"] == pytest.approx(
            median(error / length for error, (length, _) in zip(errors, phases, strict=True)), rel=0.01
        )
        assert row["of itself, mean"] == pytest.approx(sum(errors) / sum(length for length, _ in phases), rel=0.01)
        inside = [
            told["llmtrace.estimate.error"] <= told.get("llmtrace.estimate.uncertainty.low", half) + 2e-6
            and -told["llmtrace.estimate.error"] <= told.get("llmtrace.estimate.uncertainty.high", half) + 2e-6
            for _, told in phases
            for half in [told["llmtrace.estimate.uncertainty"]]
        ]
        assert row["interval holds"] == pytest.approx(sum(inside) / len(inside))
    assert report.headline.startswith(f"{len(found)} estimates graded: queue is off by ")
    assert "16 of 48 phases" in report.notes[0]
    out = io.StringIO()
    terminal.show(file, Console(file=out, width=160, no_color=True), limit=1)
    shown = " ".join(out.getvalue().split())
    assert "prefill: the blind estimate said " in shown
    assert ", the server " in shown
    from llmtrace.analyze import otlp

    page = html.render(tree.build(otlp.read(file).spans), "x")
    assert page.count("Queue: the blind estimate said ") == CALLS - LEAST


def test_without_an_engine_that_tells_there_is_nothing_to_grade(traffic: Any, spans: Spans, tmp_path: Path) -> None:
    traffic(server_timings=False)
    file = tmp_path / "t.jsonl"
    OtlpJsonFileExporter(file).export(spans.exporter.get_finished_spans())
    with load([str(file)]) as traces:
        report = reports.make("accuracy", Book(traces))
    assert report.headline == "no estimate could be graded"
    assert "no engine told its queue or its prefill" in report.notes[0]
    assert report.sections[0].rows == []
