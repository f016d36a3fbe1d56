"""Both versions of the span contract in the terminal and on the page, and calls that others tell of too."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from llmtrace.analyze import otlp
from llmtrace.analyze.book import Book
from llmtrace.analyze.load import load
from llmtrace.analyze.otlp import Event, Span
from llmtrace.view import about, calls, html, text, tree
from tests.support import shared_calls
from tests.support.recorder import Recorder, demo_calls
from tests.view.test_html import parse
from tests.view.test_terminal import shown

RECORDED = Path(__file__).parent.parent / "analyze" / "recorded"
V1 = ("client", "demo", "shapes")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    return shared_calls.shared_calls(Recorder(2)).save(tmp_path / "shared.jsonl")


def words(page: str) -> str:
    return " ".join("".join(parse(page).text).replace("\N{NO-BREAK SPACE}", " ").split())


@pytest.mark.parametrize("name", [*V1, "version 2", "shared"])
def test_the_same_calls_as_in_the_reports(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMTRACE_CACHE", str(tmp_path / "cache"))
    file = RECORDED / f"v1-{name}.otlp.jsonl.gz"
    if name not in V1:
        make = demo_calls if name == "version 2" else shared_calls.shared_calls
        file = make(Recorder(2)).save(tmp_path / "t.jsonl")
    traces = tree.build(otlp.read(file).spans)
    found = [(call.span.span_id, calls.facts(call)) for trace in traces for call in calls.calls(trace.roots)]
    with load([str(file)]) as opened:
        book = Book(opened)
        columns = ("span_id", "outcome", "input_tokens", "cached_tokens", "output_tokens", "duration", "s_queue")
        expected = {row[0]: row[1:] for row in book.rows(book.calls.select(*columns))}
    assert len(found) == len(expected)
    for span_id, facts in found:
        outcome, into, cached, out, duration, _ = expected[span_id]
        assert (facts.outcome, facts.input_tokens, facts.cached_tokens, facts.output_tokens) == (
            outcome,
            into,
            cached,
            out,
        )
        assert facts.duration == pytest.approx(duration)


@pytest.mark.parametrize("version", [1, 2])
def test_a_verdict_is_found_on_the_call_and_on_the_guilty_phase(version: int, tmp_path: Path) -> None:
    file = demo_calls(Recorder(version)).save(tmp_path / "t.jsonl")
    told = "prefill_surge: 1.09 s more than usual, 1.14 ms per token (97% sure)"
    assert f"diagnosis: {told}" in shown(file)
    assert f"Diagnosis: {told}" in words(html.render(tree.build(otlp.read(file).spans), "x"))


def test_recorded_verdicts_of_version_1() -> None:
    assert "queueing: 193 ms more than usual" in " ".join(shown(RECORDED / "v1-demo.otlp.jsonl.gz", 200).split())
    assert "the whole stream came at once" in shown(RECORDED / "v1-client.otlp.jsonl.gz", 200)


def test_a_verdict_beneath_an_attempt_is_found() -> None:
    def span(name: str, own: str, parent: str | None, start: int, end: int, **attributes: Any) -> Span:
        return Span("a" * 32, own, parent, name, "internal", start, end, attributes)

    evidence = {"llmtrace.diagnosis.cause": "queueing", "llmtrace.diagnosis.excess": 2.0}
    queue = Span(
        "a" * 32, "3", "2", "llm.queue", "internal", 10, 20, {}, events=(Event("llmtrace.diagnosis", 15, evidence),)
    )  # fmt: skip
    causes = {"gen_ai.operation.name": "chat", "llmtrace.diagnosis": ("queueing",)}
    (trace,) = tree.build([span("chat m", "1", None, 0, 30, **causes), span("llm.attempt", "2", "1", 5, 30), queue])
    (call,) = calls.calls(trace.roots)
    assert calls.facts(call).diagnosis == "queueing: 2.00 s more than usual"


def test_why_phases_are_merged(tmp_path: Path) -> None:
    file = demo_calls(Recorder(2)).save(tmp_path / "t.jsonl")
    told = "12 of 30 calls on this route; 18 more, or a saved baseline, would help (few_calls)"
    assert f"not told apart: {told}" in " ".join(shown(file, 120).split())
    page = words(html.render(tree.build(otlp.read(file).spans), "x"))
    assert page.count(f"Not told apart: {told}") == 4, "for each of two calls, and among the details of its phase"


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (
            {"llmtrace.phase.merged_because": "buffered"},
            "the stream was held back and came at once; a way that does not buffer would help, or server timings "
            "(buffered)",
        ),
        (
            {"llmtrace.phase.merged_because": ("no_usage", "new_one")},
            "nobody told how many tokens there were; ask for usage with stream_options (include_usage, or the setting "
            "request_usage) (no_usage, new_one)",
        ),
        ({"llmtrace.phase.merged_because": "new_one"}, "new_one"),
        ({"llmtrace.phase.merged_because": "ambiguous", "llmtrace.phase.merged_because.detail": "b"}, "b (ambiguous)"),
        ({}, None),
        ({"llmtrace.phase.merged_because": 5}, None),
    ],
)  # fmt: skip
def test_reasons_in_words(told: dict[str, Any], expected: str | None) -> None:
    assert about.merged_because(Span("a" * 32, "1", None, "llm.opaque", "internal", 0, 1, told)) == expected


@pytest.mark.parametrize("width", [80, 120])
def test_calls_that_others_tell_of_too(shared: Path, width: int) -> None:
    out = shown(shared, width)
    assert all(cell_len(line) <= width for line in out.splitlines())
    flat = " ".join(out.split())
    assert "1.66 s in the call itself" in flat
    assert out.count("diagnosis: queueing: 830 ms more than usual") == 2
    assert "smol-135m-v2 · TTFT 961 ms · 56 tokens in (0 cached) · 48 out" in flat
    assert out.count("56 tokens in") == 3, "a span over two calls has told its tokens once"
    assert "estimate -40.0/+130 ms" in out
    assert "├─ gateway" in out
    assert "└─ call" in out
    legend = out.splitlines()[-2:]
    assert all(not line.rstrip().endswith("■") for line in legend), "a colour stands beside its name"


def test_the_page_of_calls_that_others_tell_of_too(shared: Path) -> None:
    page = html.render(tree.build(otlp.read(shared).spans), "Shared")
    flat = words(page)
    assert "5 calls" in flat
    assert "the call itself took 1.66 s; this span is another instrumentation's" in flat
    assert "840 ms -40.0/+130 ms" in flat
    places = re.findall(r"--x:([\d.e+-]+)%;--w:([\d.e+-]+)%", page)
    for left, width in places:
        assert 0 <= float(left) <= 100
        assert float(left) + float(width) <= 100.01
    assert 'class="dot of-unattributed"' in page
    assert 'class="dot of-gateway"' in page


def test_what_version_1_moved_off_the_span_is_told() -> None:
    moved = Event("llmtrace.call.details", 9, {"gen_ai.response.time_to_first_chunk": 0.25})
    span = Span(
        "a" * 32, "1", None, "chat m", "client", 0, 10, {"llmtrace.call.outcome": "completed"}, events=(moved,)
    )  # fmt: skip
    (trace,) = tree.build([span])
    facts = calls.facts(trace.roots[0])
    assert (facts.ttft, facts.ttft_is_chunk) == (0.25, True)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.092, 0.092, "±92.0 ms"),
        (0.04, 0.13, "-40.0/+130 ms"),
        (0.0004, 0.13, "-0.40/+130 ms"),
        (0.0, 0.13, "+130 ms"),
        (0.04, 0.0, "-40.0 ms"),
        (2e-6, 0.13, "-2.00 µs/+130 ms"),
        (1.2, 0.0013, "-1.20 s/+1.30 ms"),
        (90.0, 100.0, "-1 min 30 s/+1 min 40 s"),
    ],
)
def test_uneven_intervals(low: float, high: float, expected: str) -> None:
    assert text.give_or_take(low, high) == expected
