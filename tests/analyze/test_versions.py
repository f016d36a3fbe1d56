"""Both versions of the span contract, in one file too; and calls that other instrumentations tell of as well."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llmtrace.analyze import compare, contract, reports, whatif
from llmtrace.analyze.book import Book
from llmtrace.analyze.load import load
from llmtrace.analyze.report import Report
from llmtrace.phases import model
from llmtrace.view.report_text import faults
from tests.analyze.writing import Writer
from tests.support import shared_calls
from tests.support.recorder import Recorder, demo_calls

RECORDED = Path(__file__).parent / "recorded"
"""Files that llmtrace wrote when it wrote version 1 of the contract (commit dfae719): its demo, the OpenAI client
against the replay server, and the shapes that ``tests.support.recorder`` made then."""
EXACT = pytest.approx


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMTRACE_CACHE", str(tmp_path / "cache"))


@contextmanager
def book(*sources: Path) -> Iterator[Book]:
    with load([str(source) for source in sources]) as traces:
        yield Book(traces)


def report(name: str, *sources: Path) -> Report:
    with book(*sources) as opened:
        return reports.make(name, opened)


def rows(made: Report, title: str) -> list[dict[str, Any]]:
    (section,) = [each for each in made.sections if each.title == title]
    names = [column.title for column in section.columns]
    return [dict(zip(names, row, strict=True)) for row in section.rows]


def calls(opened: Book, *columns: str) -> list[tuple[Any, ...]]:
    return opened.rows(opened.calls.order_by("start_ns").select(*columns))


@pytest.fixture
def both(tmp_path: Path) -> tuple[Path, Path]:
    """The same calls in either version."""
    old = demo_calls(Recorder(1)).save(tmp_path / "1.jsonl")
    return old, demo_calls(Recorder(2, traces=100)).save(tmp_path / "2.jsonl")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    return shared_calls.shared_calls(Recorder(2, traces=200)).save(tmp_path / "shared.jsonl")


def test_readers_know_what_is_written() -> None:
    assert model.SCHEMA_VERSION in contract.VERSIONS
    assert set(contract.REASONS) == set(model.REASONS)
    for mixed in (False, True):
        assert sorted(part for parts in contract.figures(mixed).values() for part in parts) == sorted(model.PHASES)


# Version 1


@pytest.mark.parametrize(("name", "expected"), [("client", 5), ("demo", 18), ("shapes", 8)])
def test_recorded_files_of_version_1(name: str, expected: int) -> None:
    """Their phases fill their calls, but for the waits between attempts."""
    with book(RECORDED / f"v1-{name}.otlp.jsonl.gz") as opened:
        assert opened.stats.versions == [1]
        assert faults(opened.stats) == []
        found = calls(opened, "duration", "attempts", *(f"s_{phase}" for phase in model.PHASES))
        assert len(found) == expected
        for duration, attempts, *phases in found:
            assert 0 < sum(phases) <= duration + 1e-9
            if attempts == 1 and name != "client":
                assert sum(phases) == EXACT(duration)
        assert {row[0] for row in opened.rows(opened.phases.select("phase").distinct())} <= {*model.PHASES}


def test_what_version_1_moved_off_the_span_is_read(tmp_path: Path) -> None:
    with book(RECORDED / "v1-client.otlp.jsonl.gz") as opened:
        names = opened.spans.filter(opened.spans.outcome.notnull() & (opened.spans.name != "llm.attempt"))
        ids = [response for (response,) in opened.rows(names.select("response_id"))]
    assert ids == [*["chatcmpl-replay1"] * 4, None], "the last one's span is another instrumentation's"
    # by the short way, and by the careful reader, which reads what is odd
    writer = Writer()
    writer.call(0, [("decode", 10)], marks={"gen_ai.request.model": "on the span"})
    odd = writer.spans[0]
    moved = {"gen_ai.response.id": "r-1", "gen_ai.request.model": "in the event"}
    pairs = [{"key": key, "value": {"stringValue": value}} for key, value in moved.items()]
    odd["events"] = [{"name": "llmtrace.call.details", "timeUnixNano": odd["endTimeUnixNano"], "attributes": pairs}]
    for kind in (3, "SPAN_KIND_CLIENT"):
        odd["kind"] = kind
        with book(writer.save(tmp_path / f"{kind}.jsonl")) as opened:
            assert calls(opened, "response_id", "request_model") == [("r-1", "on the span")]


# Both


def test_phases_of_version_2(both: tuple[Path, Path]) -> None:
    made = report("phases", both[1])
    by_phase = {row["phase"]: row for row in rows(made, "By phase") if "127.0.0.1" in row["route"]}
    assert by_phase["network"]["mean"] == EXACT(0.00014)
    assert by_phase["unattributed"]["calls"] == 6
    assert not any("one figure" in note for note in made.notes)
    (overview,) = [each for each in made.sections if each.title == "By route"]
    assert overview.chart is not None
    (_, parts), *_ = overview.chart.bars
    assert "unattributed" in parts
    assert list(parts)[:2] == ["network", "unattributed"]


def test_a_mixed_file_compares_what_can_be_compared(both: tuple[Path, Path], tmp_path: Path) -> None:
    file = tmp_path / "mixed.jsonl"
    file.write_text(both[0].read_text() + both[1].read_text())
    mixed, alone = report("phases", file), report("phases", both[0])
    found = {(row["route"], row["phase"]): row for row in rows(mixed, "By phase")}
    for row in rows(alone, "By phase"):
        name = contract.OVERHEAD if row["phase"] == "network" else row["phase"]
        twice = found.pop((row["route"], name))
        assert twice["calls"] == 2 * row["calls"]
        for figure in ("mean", "share", "p50"):
            assert twice[figure] == EXACT(row[figure]), (name, figure)
    assert found == {}
    assert contract.OVERHEAD_NOTE in mixed.notes
    assert faults(mixed.stats[0]) == []


def test_compare_is_not_misled_by_the_version(both: tuple[Path, Path]) -> None:
    def compared(before: Path, after: Path) -> tuple[dict[str, dict[str, Any]], Report]:
        with book(before) as old, book(after) as new:
            made = compare.make(old, new)
        return {row["mean of"]: row for row in rows(made, "By phase")}, made

    phases, made = compared(*both)
    assert phases[contract.OVERHEAD]["change"] == EXACT(0)
    assert "network" not in phases
    assert contract.OVERHEAD_NOTE in made.notes
    path = {row["who"] for row in rows(made, "Critical path of a mean trace")}
    assert contract.OVERHEAD in path
    assert not path & {"network", "unattributed"}
    phases, made = compared(both[1], both[1])
    assert {"network", "unattributed"} <= set(phases)
    assert contract.OVERHEAD_NOTE not in made.notes


def test_a_version_that_is_not_known_is_told(tmp_path: Path) -> None:
    recorder = Recorder(9)
    recorder.call([("decode", 5.0, "client", None, None)])
    with book(recorder.save(tmp_path / "9.jsonl")) as opened:
        assert faults(opened.stats) == ["versions of the span contract met: 9; this program knows 1 and 2"]


def test_whatif_says_what_network_is_in_version_1(both: tuple[Path, Path]) -> None:
    with book(*both) as opened:
        assert any("schema version 1" in note for note in whatif.make(opened, {"network": 0.5}).notes)
        assert not any("schema version 1" in note for note in whatif.make(opened, {"decode": 0.5}).notes)


def test_floor_knows_overhead_by_its_parts(tmp_path: Path) -> None:
    def made(version: int, slow: int) -> Writer:
        writer = Writer(count=10_000 * version)
        for number in range(40):
            late = slow if number >= 20 else 0
            wire = [("network", 10 + late)] if version == 1 else [("network", 2), ("unattributed", 8 + late)]
            marks = {"llmtrace.schema_version": version}
            writer.call(number * 1000, [*wire, ("prefill", 100), ("decode", 400)], marks=marks)
        return writer

    old, new = made(1, 30).save(tmp_path / "1.jsonl"), made(2, 30).save(tmp_path / "2.jsonl")
    (row,) = rows(report("floor", new), "By route, a mean call")
    assert (row["floor"], row["+ network"], row["+ unattributed"]) == (EXACT(0.51), EXACT(0), EXACT(0.015))
    assert "+ gateway" not in row
    mixed = report("floor", old, new)
    (row,) = rows(mixed, "By route, a mean call")
    assert (row["calls"], row["floor"], row[f"+ {contract.OVERHEAD}"]) == (80, EXACT(0.51), EXACT(0.015))
    assert contract.OVERHEAD_NOTE in mixed.notes


def test_reasons_of_what_was_not_told_apart(both: tuple[Path, Path], shared: Path) -> None:
    found = {row["because"]: row for row in rows(report("phases", both[1]), "Not told apart")}
    assert {reason: row["calls"] for reason, row in found.items()} == {"few_calls": 2, "no_stream": 1}
    assert found["few_calls"]["of all"] == EXACT(2 / 8)
    why = {reason: row["why, and what would help"] for reason, row in found.items()}
    assert why == {
        "few_calls": "12 of 30 calls on this route; 18 more, or a saved baseline, would help (few_calls)",
        "no_stream": contract.because("no_stream"),
    }
    floor = report("floor", both[1])
    assert any("by reason: few_calls 2, no_stream 1" in note for note in floor.notes)
    assert "Not told apart" not in {section.title for section in report("phases", both[0]).sections}


# Calls that others tell of too


def test_an_adopted_span_keeps_its_times_and_the_call_has_its_own(shared: Path) -> None:
    with book(shared) as opened:
        (duration, began, start, *phases), *_ = calls(
            opened, "duration", "began_ns", "start_ns", *(f"s_{phase}" for phase in model.PHASES)
        )
    assert duration == EXACT(1.661)
    assert sum(phases) == EXACT(duration)
    assert began - start == 5_000_000


@pytest.mark.parametrize("chain", [False, True])
def test_a_call_in_two_spans_is_one(tmp_path: Path, chain: bool) -> None:
    recorder = Recorder(2)
    shared_calls.beneath(recorder, chain)
    source = recorder.save(tmp_path / "t.jsonl")
    with book(source) as opened:
        columns = (
            "name",
            "response_model",
            "input_tokens",
            "output_tokens",
            "outcome",
            "diagnosis",
            "duration",
            "s_queue",
        )
        assert calls(opened, *columns) == [
            ("chat smol-135m", "smol-135m-v2", 56, 48, "completed", "queueing", EXACT(1.661), EXACT(0.84))
        ]
    (row,) = rows(report("cost", source), "By model")
    assert (row["calls"], row["input"], row["output"]) == (1, 56, 48)
    (row,) = rows(report("causes", source), "By cause")
    assert (row["cause"], row["calls"]) == ("queueing", 1)


def test_two_calls_beneath_one_span_spend_its_tokens_once(tmp_path: Path) -> None:
    recorder = Recorder(2)
    shared_calls.twice_beneath(recorder)
    with book(recorder.save(tmp_path / "t.jsonl")) as opened:
        found = calls(opened, "outcome", "request_model", "output_tokens")
    assert found == [("error", "smol-135m", None), ("completed", "smol-135m", 48)]


def test_a_call_sent_beneath_an_adopted_span_is_another(tmp_path: Path) -> None:
    """The span holds one call; what a retry loop inside it sends next has a span of its own."""
    recorder = Recorder(2)
    outer = shared_calls.adopted(recorder)
    recorder.call([("decode", 30.0, "client", None, 3)], parent=outer, attributes={"gen_ai.usage.output_tokens": 3})
    with book(recorder.save(tmp_path / "t.jsonl")) as opened:
        assert calls(opened, "output_tokens", "duration") == [(48, EXACT(1.661)), (3, EXACT(0.03))]


def test_a_half_without_the_other_is_a_call(tmp_path: Path) -> None:
    recorder = Recorder(2)
    shared_calls.beneath(recorder)
    source = recorder.save(tmp_path / "t.jsonl")
    lines = [line for line in source.read_text().splitlines() if '"chat smol-135m"' not in line]
    source.write_text("\n".join(lines))
    with book(source) as opened:
        assert calls(opened, "outcome", "request_model", "s_queue") == [("completed", None, EXACT(0.84))]


def test_a_servers_own_phases_are_not_the_calls(shared: Path) -> None:
    with book(shared) as opened:
        *_, (queue, gateway, decode) = calls(opened, "s_queue", "s_gateway", "s_decode")
        assert (queue, gateway, decode) == (EXACT(0.02), EXACT(0.014), EXACT(0.3))
        served = opened.phases.filter(opened.phases.phase == "gateway")
        assert opened.rows(served.select("source", "seconds")) == [("server", EXACT(0.014))]
        assert opened.rows(opened.phases.filter(opened.phases.source == "device").select("phase")) == []


def test_the_first_cause_will_do_where_the_list_is_lost(tmp_path: Path) -> None:
    writer = Writer()
    writer.call(0, [("decode", 10)], marks={"llmtrace.diagnosis.cause": "queueing"})
    assert [row["cause"] for row in rows(report("causes", writer.save(tmp_path / "t.jsonl")), "By cause")] == [
        "queueing"
    ]


def test_what_the_provider_said_that_a_call_cost(tmp_path: Path) -> None:
    writer = Writer()
    task = writer.span("task t", 0, 9000, {"llmtrace.task.name": "t", "llmtrace.task.id": "x"}, trace=5)
    told = {"llmtrace.cost.usd": 0.5, "llmtrace.task.id": "x", "llmtrace.step.kind": "guardrail"}
    writer.call(0, [("decode", 10)], trace=5, parent=task, marks=told, tokens=(1_000_000, 0, 0))
    writer.call(100, [("decode", 10)], trace=5, parent=task, tokens=(1_000_000, 0, 0))
    made = report("cost", writer.save(tmp_path / "t.jsonl"))
    (row,) = rows(made, "By model")
    assert row["cost"] == EXACT(0.5 + 0.15)
    (row,) = rows(made, "By task")
    assert (row["guardrail"], row["model"]) == (EXACT(0.5), EXACT(0.15))
