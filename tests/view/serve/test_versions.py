"""The viewer over both versions of the span contract, over calls that others tell of too, and over an older store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from llmtrace.analyze import contract
from llmtrace.view.serve import columns
from llmtrace.view.serve.store import Store
from tests.support.recorder import Recorder, demo_calls
from tests.support.shared_calls import shared_calls
from tests.view.serve.running import Viewer, viewer
from tests.view.serve.test_store import table

EXACT = pytest.approx
TRACE = 0x4BF92F3577B34DA600000000 << 32
NOTE = contract.OVERHEAD_NOTE


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    """The demo's calls in either version (traces from 1 and from 101), and the shared ones (from 201)."""
    folder = tmp_path_factory.mktemp("files")
    demo_calls(Recorder(1)).save(folder / "1.jsonl")
    demo_calls(Recorder(2, traces=100)).save(folder / "2.jsonl")
    shared_calls(Recorder(2, traces=200)).save(folder / "3.jsonl")
    with viewer(str(folder)) as started:
        started.until(lambda status: status["spans"] == 39 + 46 + 29)
        yield started


def calls_of(viewer: Viewer, number: int) -> list[dict]:
    return viewer.get("/api/calls", q=f"{TRACE | number:032x}")["calls"]


def test_calls_of_either_version(both: Viewer) -> None:
    assert both.get("/api/status")["calls"] == 8 + 8 + 5
    (old,), (new,) = calls_of(both, 2), calls_of(both, 102)
    assert (old["schema_version"], new["schema_version"]) == (1, 2)
    assert old["duration_s"] == EXACT(new["duration_s"])
    assert [phase["name"] for phase in old["phases"]] == ["network", "queue", "prefill", "decode"]
    assert [phase["name"] for phase in new["phases"]] == ["network", "unattributed", "queue", "prefill", "decode"]
    assert old["causes"] == new["causes"] == ["prefill_surge"]


def test_why_phases_are_merged_and_uneven_intervals(both: Viewer) -> None:
    (cancelled,) = calls_of(both, 105)
    (merged,) = [phase for phase in cancelled["phases"] if phase["name"] == "queue_prefill"]
    assert merged["merged_because"] == "few_calls"
    assert merged["merged_detail"].startswith("12 of 30 calls")
    sentence = "12 of 30 calls on this route; 18 more, or a saved baseline, would help (few_calls)"
    assert merged["because"] == sentence
    spans = both.get(f"/api/traces/{TRACE | 105:032x}")["spans"]
    assert [span["because"] for span in spans if "because" in span] == [sentence]
    (adopted,) = calls_of(both, 201)
    (queue,) = [phase for phase in adopted["phases"] if phase["name"] == "queue"]
    assert (queue["shorter_s"], queue["longer_s"], queue["uncertainty_s"]) == (0.04, 0.13, 0.092)
    assert "shorter_s" not in adopted["phases"][0]


def test_calls_that_others_tell_of_too(both: Viewer) -> None:
    (adopted,) = calls_of(both, 201)
    assert adopted["duration_s"] == EXACT(1.661)
    assert adopted["phases"][0]["start_s"] == EXACT(0), "phases begin when the call does, not when the span does"
    assert sum(phase["duration_s"] for phase in adopted["phases"]) == EXACT(1.661)
    assert adopted["streamed"] is True
    (pair,) = calls_of(both, 202)
    assert (pair["name"], pair["input_tokens"], pair["output_tokens"]) == ("chat smol-135m", 56, 48)
    assert pair["causes"] == ["queueing"]
    first, second = sorted(calls_of(both, 203), key=lambda call: call["start_us"])
    assert (first["outcome"], first["output_tokens"]) == ("error", None)
    assert (second["outcome"], second["output_tokens"]) == ("completed", 48)
    trace = both.get(f"/api/traces/{TRACE | 202:032x}")
    assert [span["name"] for span in trace["spans"] if span["call"]] == ["llm.call"]


@pytest.mark.parametrize(("number", "phase"), [(2, None), (102, "prefill")])
def test_a_trace_begins_with_its_verdict(both: Viewer, number: int, phase: str | None) -> None:
    """Its evidence lies on the call's span in version 1, on the guilty phase's since."""
    brief = both.get(f"/api/traces/{TRACE | number:032x}")["headline"]
    (verdict,) = brief["verdicts"]
    assert (verdict["cause"], verdict["phase"]) == ("prefill_surge", phase)
    assert "more than usual" in verdict["why"]
    (merged,) = both.get(f"/api/traces/{TRACE | 105:032x}")["headline"]["merged"]
    assert merged["because"].startswith("12 of 30 calls")


def test_two_calls_of_different_versions_are_compared_by_what_both_mean(both: Viewer) -> None:
    def compared(one: int, other: int) -> dict:
        a, b = (f"{call['trace_id']}:{call['span_id']}" for number in (one, other) for call in calls_of(both, number))
        return both.get("/api/compare", a=a, b=b)

    mixed = compared(2, 102)
    assert mixed["note"] == NOTE
    overhead, *others = mixed["phases"]
    assert overhead["name"] == contract.OVERHEAD
    assert overhead["a_s"] == EXACT(overhead["b_s"])
    assert {"network", "unattributed"}.isdisjoint(phase["name"] for phase in others)
    alike = compared(101, 102)
    assert alike["note"] is None
    assert [phase["name"] for phase in alike["phases"]][:2] == ["network", "unattributed"]


def test_percentiles_of_both_versions(both: Viewer) -> None:
    mixed = both.get("/api/percentiles", q="smol-135m")
    assert mixed["note"] == NOTE
    overhead = mixed["phases"][0]
    assert (overhead["name"], overhead["count"]) == (contract.OVERHEAD, 7 + 7 + 3)
    assert overhead["p50"] == EXACT(0.00207, abs=1e-4)
    assert any(contract.OVERHEAD in bucket["phases"] for bucket in mixed["over_time"])
    assert not any("unattributed" in bucket["phases"] for bucket in mixed["over_time"])
    alone = both.get("/api/percentiles", cause="queueing")
    assert alone["note"] is None
    assert [phase["name"] for phase in alone["phases"]][:2] == ["network", "unattributed"]


def test_a_store_of_before_is_brought_up_to_date(tmp_path: Path) -> None:
    """Its columns are added and filled from what was kept whole; calls of version 2 are made anew, others stay."""
    path = tmp_path / "s.duckdb"
    files = [demo_calls(Recorder(1)), shared_calls(Recorder(2, traces=200))]
    made = Store(path, 1 << 30)
    for number, recorder in enumerate(files):
        made.add(table(document(recorder, tmp_path / f"{number}.jsonl")))
    made.settle()
    with made.reading() as cursor:
        expected = cursor.execute("SELECT * FROM calls ORDER BY trace_id, span_id").fetchall()
    made.close()
    with duckdb.connect(str(path)) as connection:
        for name in columns.SINCE_2:
            connection.execute(f"ALTER TABLE spans DROP COLUMN {name}")
        connection.execute("UPDATE calls SET duration_s = 1.0 WHERE schema_version = 2")  # as it was understood before
        for phase in ("gateway", "unattributed"):
            for what in ("s", "source", "uncertainty"):
                connection.execute(f"ALTER TABLE calls DROP COLUMN {what}_{phase}")
        connection.execute("ALTER TABLE calls DROP COLUMN schema_version")
        connection.execute("UPDATE state SET version = 1")
    again = Store(path, 1 << 30)
    again.settle()
    with again.reading() as cursor:
        names = ", ".join(columns.CALL_TYPES)
        assert cursor.execute(f"SELECT {names} FROM calls ORDER BY trace_id, span_id").fetchall() == expected
        assert cursor.execute("SELECT version FROM state").fetchall() == [(columns.VERSION,)]
    again.close()
    Store(path, 1 << 30).close()


def document(recorder: Recorder, path: Path) -> dict:
    import json

    lines = [json.loads(line) for line in recorder.save(path).read_text().splitlines()]
    return {"resourceSpans": [entry for line in lines for entry in line["resourceSpans"]]}
