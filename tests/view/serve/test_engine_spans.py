"""Engines' own spans in the viewer: alone a call with phases, beneath a client's call counted once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb

from llmtrace.view.serve.store import Store
from tests.analyze import engines
from tests.analyze.writing import Writer
from tests.view.serve.running import Viewer
from tests.view.serve.test_store import table


def the_call(viewer: Viewer, trace: int) -> dict[str, Any]:
    """The one call of a trace, once it has been made of the trace's spans."""
    for _ in viewer.patiently():
        calls = viewer.get("/api/calls", q=f"{trace:032x}")["calls"]
        if len(calls) == 1 and calls[0]["phases"]:
            return calls[0]
    raise AssertionError(calls)


def test_engines_in_the_viewer(taking: Viewer) -> None:
    alone, below, other = 0xE1, 0xE2, 0xE3
    client = Writer(count=9_000_000)
    said = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.provider.name": "openai"}
    call = client.span("chat m", 0, 1000, said, trace=below, kind=3)
    for writer in (
        engines.vllm(trace=alone, unit=1e9),
        client,
        engines.vllm(40, trace=below, parent=call),
        engines.sglang(trace=other),
    ):
        taking.send(writer.document())
    durations = {"queue": 0.2, "prefill": 0.3, "decode": 0.4}
    for trace in (alone, below):
        phases = the_call(taking, trace)["phases"]
        assert {each["name"]: round(each["duration_s"], 6) for each in phases} == durations
        assert {each["source"] for each in phases} == {"server"}
    assert {each["name"] for each in the_call(taking, other)["phases"]} == {"queue", "prefill", "decode"}
    assert (the_call(taking, alone)["input_tokens"], the_call(taking, alone)["output_tokens"]) == (100, 20)
    spans = taking.get(f"/api/traces/{alone:032x}")["spans"]
    assert [each["phase"] for each in spans] == [None, "queue", "prefill", "decode"], "drawn beneath the engine's"
    assert [each["call"] for each in spans] == [True, False, False, False]


def test_triton_exports_each_span_by_itself(taking: Viewer) -> None:
    for writer in engines.one_by_one(engines.triton(trace=0xE4)):
        taking.send(writer.document())
    phases = the_call(taking, 0xE4)["phases"]
    assert {each["name"]: round(each["duration_s"], 6) for each in phases} == {"queue": 0.1, "opaque": 0.88}


def test_a_store_of_before_is_upgraded(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    older = Store(store, 1 << 30)
    older.add(table(engines.vllm().document()))
    older.settle()
    assert older.counts.spans == 4
    older.close()
    with duckdb.connect(str(store)) as connection:
        connection.execute("ALTER TABLE spans DROP COLUMN engine_span")
        connection.execute("UPDATE state SET version = 2")
    again = Store(store, 1 << 30)
    again.add(table(engines.sglang(trace=3).document()))
    again.settle()
    assert again.counts.traces == 2
    assert again.counts.calls >= 1
    again.close()
