"""Engines' own spans in the viewer: alone a call with phases, beneath a client's call counted once."""

from __future__ import annotations

from pathlib import Path

import duckdb

from llmtrace.view.serve.store import Store
from tests.analyze import engines
from tests.analyze.writing import Writer
from tests.view.serve.running import viewer
from tests.view.serve.test_store import table


def test_engines_in_the_viewer(tmp_path: Path) -> None:
    client = Writer(count=9_000_000)
    said = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.provider.name": "openai"}
    call = client.span("chat m", 0, 1000, said, trace=2, kind=3)
    with viewer("--memory") as asked:
        for writer in (
            engines.vllm(trace=1, unit=1e9),
            client,
            engines.vllm(40, trace=2, parent=call),
            engines.sglang(trace=3),
        ):
            asked.send(writer.document())
        asked.until(lambda status: status["calls"] == 3 and status["traces"] == 3)
        answers = {each["trace_id"][-1]: each for each in asked.get("/api/calls", limit=9)["calls"]}
        told = {"queue": 0.2, "prefill": 0.3, "decode": 0.4}
        for trace in ("1", "2"):
            phases = answers[trace]["phases"]
            assert {each["name"]: round(each["duration_s"], 6) for each in phases} == told
            assert {each["source"] for each in phases} == {"server"}
        assert {each["name"] for each in answers["3"]["phases"]} == {"queue", "prefill", "decode"}
        assert (answers["1"]["input_tokens"], answers["1"]["output_tokens"]) == (100, 20)
        spans = asked.get(f"/api/traces/{1:032x}")["spans"]
        assert [each["phase"] for each in spans] == [None, "queue", "prefill", "decode"], "drawn beneath the engine's"
        assert [each["call"] for each in spans] == [True, False, False, False]


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
    with viewer("--store", store) as made:
        made.send(engines.sglang(trace=3).document())
        made.until(lambda status: status["traces"] == 2)
        assert made.get("/api/calls", limit=9)["total"] >= 1
