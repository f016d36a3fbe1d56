"""What requests are made of, and whether a gain in one part was lost again: agents' requests of which all is known."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from typer.testing import CliRunner

from llmtrace.analyze import compare, components, quality, reports, whatif
from llmtrace.analyze.book import Book
from llmtrace.analyze.load import Traces, load
from llmtrace.analyze.report import Report
from llmtrace.cli import build_app
from tests.analyze.writing import Writer
from tests.support.agents import Truth, before_and_after

Sides = list[tuple[Book, list[Truth]]]


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    folder = tmp_path_factory.mktemp("agents")
    with ExitStack() as stack:
        yield [
            (Book(stack.enter_context(load([str(path)], extra=("tool.price",), cache=False))), truths)
            for path, truths in before_and_after(folder)
        ]


def table(report: Report, title: str) -> dict[str, dict[str, Any]]:
    """The rows of a section by their first cell."""
    (section,) = (section for section in report.sections if section.title == title)
    names = [column.title for column in section.columns]
    return {row[0]: dict(zip(names, row, strict=True)) for row in section.rows}


@contextmanager
def read(writer: Writer, folder: Path, *extra: str) -> Iterator[Traces]:
    with load([str(writer.save(folder / "traces.jsonl"))], extra=extra, cache=False) as traces:
        yield traces


def mean(truths: list[Truth], value: Callable[[Truth], float]) -> float:
    return fmean(map(value, truths))


def test_a_trap_is_told_in_one_sentence_and_every_figure_is_so(sides: Sides) -> None:
    (before, old), (after, new) = sides
    report = compare.make(before, after)
    waited = table(report, "What a mean request waits for")
    assert {name for name in waited if name != "whole request"} == {name for each in old + new for name in each.waited}
    for name, row in waited.items():
        for column, truths in (("before", old), ("after", new)):
            of_all = mean(truths, lambda each: each.waited.get(name, 0.0) if name != "whole request" else each.whole)  # noqa: B023
            assert row[column] == pytest.approx(of_all, abs=1e-6), (name, column)
    did = table(report, "What components do in a trace")
    repaired, failed = mean(new, lambda each: each.repaired), mean(new, lambda each: each.failed)
    assert did["repairs of model/write answer"]["after"] == pytest.approx(repaired)
    assert did["retries of tool/search"]["after"] == did["errors of tool/search"]["after"] == pytest.approx(failed)
    assert did["runs of tool/search"]["after"] == pytest.approx(1 + failed)
    assert "runs of model/planner" not in did, "as many as before"
    assert table(report, "Retries, cost and quality")["quality (relevance)"]["change"] == pytest.approx(-0.1, abs=0.01)
    change = waited["whole request"]["relative"]
    assert f"A trap: rerank got 80% faster, the whole request did not ({change:+.0%})" in report.headline
    assert ": repair/write answer takes " in report.headline
    assert f"repairs of model/write answer (0 → {repaired:.3g} a request" in report.headline


def test_no_trap_where_nothing_changed(sides: Sides) -> None:
    (book, _), _ = sides
    report = compare.make(book, book)
    assert "trap" not in report.headline
    assert "comes with" not in report.headline
    assert "What components do in a trace" not in {section.title for section in report.sections}, "all as before"


def test_a_resolved_task_by_component(sides: Sides) -> None:
    _, (book, truths) = sides
    report = reports.make("cost", book, reports.Options(usd="tool.price"))
    rows = table(report, "By component: answer")
    resolved = sum(not each.failed for each in truths)
    usd = {name: sum(each.usd[name] for each in truths) for name in truths[0].usd}
    for name, cost in usd.items():
        lost = sum(each.usd[name] for each in truths if each.failed)
        assert rows[name]["cost"] == pytest.approx(cost), name
        assert rows[name]["per resolved"] == pytest.approx(cost / resolved), name
        assert rows[name]["of it unresolved"] == pytest.approx(lost / resolved), name
    for name, row in rows.items():
        # A task's request is without the server's span above it.
        expected = mean(truths, lambda each: each.waited.get(name, 0.0) if name != "POST /answer" else 0.0)  # noqa: B023
        assert row["waited for"] == pytest.approx(expected, abs=1e-6), name
    task = table(report, "By task")["answer"]
    assert task["per resolved"] == pytest.approx(sum(usd.values()) / resolved)
    assert task["quality (relevance)"] == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize(
    ("factors", "saved"),
    [
        ({"rerank": 0.0}, lambda t: max(t.guard, t.retrieval + t.rerank) - max(t.guard, t.retrieval)),
        ({"rerank": 0.5}, lambda t: max(t.guard, t.retrieval + t.rerank) - max(t.guard, t.retrieval + t.rerank / 2)),
        ({"guardrail": 0.0}, lambda t: max(t.guard, t.retrieval + t.rerank) - t.retrieval - t.rerank),
        (
            {"search": 0.5, "repair": 0.0},
            lambda t: t.waited["tool/search"] / 2 + t.waited.get("repair/write answer", 0.0),
        ),
        ({"model": 0.5}, lambda t: sum(s for name, s in t.waited.items() if name.startswith("model")) / 2),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "saved",
)  # fmt: skip
def test_what_a_part_would_gain(sides: Sides, factors: dict[str, float], saved: Callable[[Truth], float]) -> None:
    for book, truths in sides:
        if "repair" in factors and not any(each.repaired for each in truths):
            continue
        row = table(whatif.make(book, factors), "End to end")["mean"]
        assert row["now"] == pytest.approx(mean(truths, lambda each: each.whole), abs=1e-6)
        assert -row["change"] == pytest.approx(mean(truths, saved), abs=1e-6)


def test_what_each_span_says_of_itself(tmp_path: Path) -> None:
    kinds: list[tuple[str, dict[str, Any], str]] = [
        ("execute_tool search 17", {"gen_ai.operation.name": "execute_tool"}, "tool/search #"),
        ("lookup", {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "crm"}, "tool/crm"),
        ("Chroma", {"openinference.span.kind": "RETRIEVER"}, "retrieval/Chroma"),
        ("plan.task", {"traceloop.span.kind": "task", "traceloop.entity.name": "plan"}, "plan"),
        ("crew", {"openinference.span.kind": "AGENT", "agent.name": "researcher"}, "agent/researcher"),
        ("SELECT", {"db.system": "mysql"}, "database/mysql"),
        ("publish", {"messaging.system": "kafka"}, "messaging/kafka"),
        ("GET", {"http.request.method": "GET", "server.address": "example.org"}, "http/example.org"),
        ("checked", {"llmtrace.step.kind": "guardrail"}, "guardrail/checked"),
        ("judge answers", {}, "evaluation"),
        ("parse 4bf92f3577b34da6", {}, "parse #"),
    ]
    writer = Writer()
    for number, (name, attributes, _) in enumerate(kinds):
        writer.span(name, number, number + 1, attributes)
    with read(writer, tmp_path) as traces:
        own = Book(traces, components.parse("judge*=evaluation")).described(traces.table)
        rows = Book(traces).rows(own.order_by("start_ns").select("own"))
    assert [component for (component,) in rows] == [component for _, _, component in kinds]


def test_a_call_is_named_for_who_made_it(tmp_path: Path) -> None:
    writer = Writer()
    root = writer.span("POST /", 0, 1000)
    agent = writer.span(
        "invoke_agent", 0, 300, {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "a"}, parent=root
    )
    chain = writer.span("RunnableSequence", 0, 300, parent=agent)
    judge = writer.span("check", 300, 600, {"llmtrace.step.kind": "guardrail"}, parent=root)
    calls = {
        writer.call(0, [("decode", 100)], trace=1, parent=chain): "model/RunnableSequence",
        writer.call(100, [("decode", 100)], trace=1, parent=agent): "model/a",
        writer.call(200, [("decode", 100)], trace=1, parent=agent, marks={"llmtrace.call.repairs": 1}): "repair/a",
        writer.call(300, [("decode", 100)], trace=1, parent=judge): "guardrail/check",
        writer.call(600, [("decode", 100)], trace=1, parent=root): "model",
    }
    with read(writer, tmp_path) as traces:
        book = Book(traces)
        assert dict(book.rows(book.components.select("call_span", "component"))) == calls


def test_the_score_that_most_spans_have_is_the_quality_and_the_others_are_named(tmp_path: Path) -> None:
    writer = Writer()
    for number in range(3):
        names = ("relevance", "tone") if number else ("relevance",)
        for name in names:
            score = {"gen_ai.evaluation.name": name, "gen_ai.evaluation.score.value": float(number), "mine": 7.0}
            writer.span("judge", number, number + 1, score, trace=number + 1)
    with read(writer, tmp_path, "mine") as traces:
        book = Book(traces)
        judge = quality.common([book])
        assert (judge.title, quality.by_trace(book, judge)) == (
            "quality (relevance)", {f"{number + 1:032x}": number for number in range(3)},
        )  # fmt: skip
        assert "there are others too: tone" in judge.note
        assert set(quality.by_trace(book, quality.common([book], "mine")).values()) == {7.0}


def test_as_a_user_types_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMTRACE_CACHE", str(tmp_path / "cache"))
    (_, _), (path, _) = before_and_after(tmp_path)
    result = CliRunner().invoke(
        build_app(),
        ["whatif", str(path), "--faster", "look=30%", "--without", "repair", "--components", "cross*=look",
         "--format", "json"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["title"] == "If look took 0.7 times as long and repair took no time"
    for mistake, words in (
        (["--faster", "rerank"], "it takes a part and the share"),
        (["--faster", "rerank=30%", "--faster", "rerank=50%"], "rerank is given 2 times"),
        (["--faster", "rerank=30%", "--without", "rerank"], "rerank is given 2 times"),
        (["--faster", "rerank=30%", "--phase", "rerank", "--factor", "0.5"], "rerank is given twice"),
        (["--without", "rerunk"], "Did you mean rerank"),
        (["--without", "rerank", "--components", "judge"], "patterns of span names with a component each"),
    ):
        result = CliRunner().invoke(build_app(), ["whatif", str(path), *mistake])
        assert result.exit_code != 0
        assert words in " ".join(result.stderr.replace("│", " ").split()), mistake
