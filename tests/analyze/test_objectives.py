"""Objectives in reports: goodput, who spent the budget, and how much less of a phase would restore them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmtrace.analyze import reports, restore
from llmtrace.analyze.book import Book
from llmtrace.analyze.load import load
from llmtrace.analyze.report import Report
from llmtrace.analyze.reports import slo
from llmtrace.errors import LlmtraceError
from llmtrace.phases.objectives import Patterns, parse_objective
from tests.analyze.writing import Writer

CALM = [("network", 10), ("queue", 20), ("prefill", 100), ("decode", 400)]
QUEUED = [("network", 10), ("queue", 520), ("prefill", 100), ("decode", 400)]
TTFT = {"ttft": parse_objective(0.2)}


def first_token(phases: list[tuple[str, int]]) -> dict[str, Any]:
    return {"llmtrace.call.ttft": sum(ms for name, ms in phases if name != "decode") / 1e3}


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Book]:
    """25 calm calls, 5 that queued (one of them called queueing), one that failed, one that a user left in time, and
    two of a model without a floor."""
    writer = Writer()
    for number in range(25):
        writer.call(number * 1000, CALM, marks=first_token(CALM))
    for number in range(25, 30):
        named = {"llmtrace.diagnosis.cause": "queueing"} if number == 25 else {}
        writer.call(number * 1000, QUEUED, marks=first_token(QUEUED) | named)
    writer.call(30_000, [("network", 10)], outcome="error")
    writer.call(
        31_000, CALM, outcome="closed_early", marks=first_token(CALM) | {"llmtrace.cancellation.phase": "decode"}
    )
    for number in range(32, 34):
        writer.call(number * 1000, QUEUED, model="new", marks=first_token(QUEUED) | {"llmtrace.slo.total": 0.93})
    folder = tmp_path_factory.mktemp("objectives")
    with load([str(writer.save(folder / "t.jsonl"))], cache=False) as traces:
        yield Book(traces)


def report(book: Book, objectives: dict[str, Patterns], share: float = 0.9) -> Report:
    return reports.make("slo", book, reports.Options(objectives=objectives, slo=share))


def rows(made: Report, number: int) -> list[dict[str, Any]]:
    section = made.sections[number]
    return [dict(zip((column.title for column in section.columns), row, strict=True)) for row in section.rows]


def test_goodput_and_the_phase_that_spent_the_budget(book: Book) -> None:
    made = report(book, {"ttft": parse_objective("gpt-4o*=0.2")})
    route, _ = rows(made, 0)
    assert (route["calls"], route["late TTFT"], route["failed"]) == (32, 5, 1)
    assert route["goodput"] == pytest.approx(26 / 32)
    assert route["budget spent"] == pytest.approx(6 / 32 / 0.1)
    spent = {row["phase"]: row["beyond the targets"] for row in rows(made, 1)}
    # The five waited 0.63 s: 0.43 beyond the target. The two of the other route have a target of their own, no floor.
    assert spent == {"queue": pytest.approx(5 * 0.43), "unknown": pytest.approx(2 * 0.1)}
    causes = {row["cause"]: row["beyond the targets"] for row in rows(made, 2)}
    assert causes == {"none named": pytest.approx(4 * 0.43 + 2 * 0.1), "queueing": pytest.approx(0.43)}
    assert "goodput 76.5% of 34 calls" in made.headline
    assert "91% of the time beyond the targets by queue" in made.headline


def test_a_target_below_the_floor_is_charged_to_it(book: Book) -> None:
    made = report(book, {"ttft": parse_objective("gpt-4o*=0.05")})
    spent = {row["phase"]: row["beyond the targets"] for row in rows(made, 1)}
    calm, queued = 0.13 - 0.05, 0.63 - 0.05
    assert spent["queue"] == pytest.approx(26 * 0.02 + 5 * 0.52)
    assert spent["floor"] == pytest.approx(26 * (calm - 0.02) + 5 * (queued - 0.52))
    assert any("below what the routes have shown" in note for note in made.notes)


def test_what_must_shrink_is_exact(book: Book) -> None:
    made = restore.make(book, {"ttft": parse_objective("gpt-4o*=0.2")}, 0.9)
    queue = next(row for row in rows(made, 0) if row["phase"] == "queue")
    # 26 of 34 meet theirs. The two of the other route need 0.1 of their 0.52 s, the five 0.43 of 0.52: 31 are enough.
    assert queue["must shrink by"] == pytest.approx(0.43 / 0.52)
    assert queue["without it within"] == pytest.approx(33 / 34)
    assert "90" in made.title
    assert "83% less queue" in made.headline
    assert any("would still fail" in note for note in made.notes)


def test_no_phase_alone_may_be_enough(book: Book) -> None:
    made = restore.make(book, {"ttft": parse_objective(0.2)}, 0.99)
    assert all(row["must shrink by"] is None for row in rows(made, 0))
    assert "no single phase restores" in made.headline


def test_objectives_that_no_call_can_be_judged_by_are_told(book: Book) -> None:
    unmatched = {"ttft": parse_objective("no such model=1")}
    book.__dict__["calls"], kept = book.calls.filter(book.calls.request_model != "new"), book.calls
    try:
        with pytest.raises(LlmtraceError, match="patterns match"):
            report(book, unmatched)
        with pytest.raises(LlmtraceError, match="patterns match"):
            restore.make(book, unmatched, 0.99)
    finally:
        book.__dict__["calls"] = kept


def test_no_call_that_missed_is_rounded_away() -> None:
    assert [slo.share_met(share) for share in (1.0, 0.9996, 0.985)] == ["100.0%", "99.96%", "98.5%"]


def test_without_an_objective_it_says_what_to_do(book: Book) -> None:
    old_ones = book.calls.filter(book.calls.request_model != "new")
    book.__dict__["calls"], kept = old_ones, book.calls
    try:
        with pytest.raises(LlmtraceError, match="--slo-ttft 2"):
            report(book, {})
        with pytest.raises(LlmtraceError, match="--slo-ttft 2"):
            restore.make(book, {}, 0.99)
    finally:
        book.__dict__["calls"] = kept


def test_tokens_that_no_stream_showed_make_none_faster(tmp_path: Path) -> None:
    """400 ms for 41 tokens are 10 ms each, however much was thought before the first."""
    writer = Writer()
    for number in range(3):
        writer.call(number * 1000, CALM, marks=first_token(CALM), tokens=(1000, 0, 1041), shown=41)
    with load([str(writer.save(tmp_path / "t.jsonl"))], cache=False) as traces:
        for target, goodput in ((0.009, 0.0), (0.011, 1.0)):
            (route,) = rows(report(Book(traces), {"itl": parse_objective(target)}), 0)
            assert route["goodput"] == goodput
