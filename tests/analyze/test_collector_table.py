"""The Collector's table for ClickHouse as a source of reports; on ClickHouse itself by ``make clickhouse``.

Here DuckDB holds a table with the exporter's columns, and knows ClickHouse's one function by a macro.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest

from llmtrace.analyze import reports
from llmtrace.analyze.book import Book
from llmtrace.analyze.load import load
from llmtrace.analyze.report import as_json
from llmtrace.errors import LlmtraceError
from tests.analyze.collector import rows_of
from tests.analyze.writing import Writer

ATTRIBUTES = "MAP(VARCHAR, VARCHAR)"
COLUMNS = {
    "Timestamp": "TIMESTAMP_NS", "TraceId": "VARCHAR", "SpanId": "VARCHAR", "ParentSpanId": "VARCHAR",
    "SpanName": "VARCHAR", "SpanKind": "VARCHAR", "ServiceName": "VARCHAR", "ResourceAttributes": ATTRIBUTES,
    "SpanAttributes": ATTRIBUTES,
    "Duration": "UBIGINT", "StatusCode": "VARCHAR",
}  # fmt: skip


@pytest.fixture
def writer() -> Writer:
    writer = Writer()
    for number in range(12):
        marks: dict[str, Any] = {"llmtrace.diagnosis": ["queueing", "network"]} if number % 4 == 0 else {}
        marks["llmtrace.model.fingerprint"] = "fp_1" if number < 5 else "fp_2"
        writer.call(
            number * 1000, [("queue", 20 + number), ("decode", 400)], marks={**marks, "llmtrace.call.ttft": 0.02}
        )
    return writer


def table(path: Path, writer: Writer, attributes: str = ATTRIBUTES) -> str:
    with duckdb.connect(str(path)) as connection:
        columns = {**COLUMNS, "SpanAttributes": attributes}
        connection.execute(
            f"CREATE TABLE otel_traces ({', '.join(f'{name} {kind}' for name, kind in columns.items())})"
        )
        connection.execute("CREATE MACRO toUnixTimestamp64Nano(moment) AS epoch_ns(moment)")
        for row in rows_of(writer):
            seconds, _, parts = row["Timestamp"].partition(".")
            at = f"make_timestamp_ns({seconds}{parts})"
            values = [row[name] for name in COLUMNS if name != "Timestamp"]
            connection.execute(f"INSERT INTO otel_traces VALUES ({at}, {', '.join('?' * len(values))})", values)
    return f"duckdb://{path}?table=otel_traces"


@pytest.mark.parametrize("name", ["phases", "causes", "models", "fleet"])
def test_the_same_figures_as_from_a_file(name: str, writer: Writer, tmp_path: Path) -> None:
    with load([str(writer.save(tmp_path / "spans.jsonl"))]) as read:
        expected = as_json(reports.make(name, Book(read)))
    with load([table(tmp_path / "store.duckdb", writer)]) as held:
        made = as_json(reports.make(name, Book(held)))
    for part in ("headline", "notes"):
        assert made[part] == expected[part]
    assert [each["rows"] for each in made["sections"]] == [
        [[pytest.approx(cell) if isinstance(cell, float) else cell for cell in row] for row in each["rows"]]
        for each in expected["sections"]
    ]


@pytest.mark.parametrize(
    ("told", "read"),
    [("2", 2), (2, 2), ("2.0", 2), (1.5, None), ("1.5", None), ("x", None), ("inf", None), ("1e300", None)],
)
def test_which_repair_a_call_is(told: Any, read: int | None, writer: Writer, tmp_path: Path) -> None:
    """From a file and from a table alike: a whole number, also as text."""
    writer.call(0, [("decode", 400)], marks={"llmtrace.call.repairs": told})
    for source in (str(writer.save(tmp_path / "spans.jsonl")), table(tmp_path / "store.duckdb", writer)):
        with load([source], cache=False) as held:
            assert held.table.repairs.max().to_pyarrow().as_py() == read


def test_who_served_a_call_stands_on_the_resource(writer: Writer, tmp_path: Path) -> None:
    writer.about |= {"service.version": "2.1", "service.instance.id": "i-1", "llmtrace.model.format": "gguf Q4"}
    with load([table(tmp_path / "store.duckdb", writer)]) as held:
        columns = (
            held.table.select("app_version", "instance", "model_format", "device").distinct().to_pyarrow().to_pylist()
        )
    assert columns == [{"app_version": "2.1", "instance": "i-1", "model_format": "gguf Q4", "device": None}]


def test_only_the_hours_asked_for(writer: Writer, tmp_path: Path) -> None:
    source = table(tmp_path / "store.duckdb", writer)
    with pytest.raises(LlmtraceError, match=r"no spans in .* in the last 1 h \(--hours\)"), load([source], hours=1.0):
        pass


def test_a_password_is_never_shown() -> None:
    source = "clickhouse://me:secret@127.0.0.1:9/otel?table=otel_traces"
    with pytest.raises(LlmtraceError) as raised, load([source]):
        pass
    assert "clickhouse://me@127.0.0.1:9/otel" in str(raised.value)
    assert "secret" not in str(raised.value)


def test_attributes_as_json_are_refused_with_the_remedy(writer: Writer, tmp_path: Path) -> None:
    source = table(tmp_path / "store.duckdb", Writer(), "JSON")
    with pytest.raises(LlmtraceError, match="json: false"), load([source]):
        pass
