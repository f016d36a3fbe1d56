"""The reports over the Collector's table on real ClickHouse, in this process: the same figures as on DuckDB.

Run by `make clickhouse`, which installs chdb and a large package: python -m tests.analyze.clickhouse
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import clickhouse_connect
from ibis.backends.clickhouse import Backend

from llmtrace.analyze.load import load, settled
from tests.analyze.collector import rows_of
from tests.analyze.spark import all_reports, same, traffic

TABLE = """CREATE TABLE otel_traces (
    Timestamp DateTime64(9), TraceId String, SpanId String, ParentSpanId String, TraceState String,
    SpanName LowCardinality(String), SpanKind LowCardinality(String), ServiceName LowCardinality(String),
    ResourceAttributes Map(LowCardinality(String), String), ScopeName String, ScopeVersion String,
    SpanAttributes Map(LowCardinality(String), String), Duration UInt64, StatusCode LowCardinality(String),
    StatusMessage String,
    Events Nested (
        Timestamp DateTime64(9), Name LowCardinality(String), Attributes Map(LowCardinality(String), String)
    ),
    Links Nested (TraceId String, SpanId String, TraceState String, Attributes Map(LowCardinality(String), String))
) ENGINE = MergeTree PARTITION BY toDate(Timestamp)
ORDER BY (ServiceName, SpanName, toDateTime(Timestamp), Timestamp)"""
"""The columns and types of the exporter's own table."""


def main() -> int:
    """Compare both engines; 0 where they agree."""
    writer = traffic()
    client = clickhouse_connect.get_client(dsn="chdb://memory")
    client.command(TABLE)
    lines = "\n".join(json.dumps(row) for row in rows_of(writer))
    client.command(f"INSERT INTO otel_traces FORMAT JSONEachRow {lines}")
    connection = Backend.from_connection(client)
    with tempfile.TemporaryDirectory() as folder, load([str(writer.save(Path(folder) / "spans.jsonl"))]) as traces:
        expected = all_reports(traces)
    found = all_reports(settled("clickhouse", connection, connection.table("otel_traces")))
    wrong = [name for name in expected if not same(found[name], expected[name])]
    for name in expected:
        print(f"{name:14} {'differs' if name in wrong else 'the same on both'}")
        if name in wrong:
            print("  duckdb    ", expected[name])
            print("  clickhouse", found[name])
    print(f"ClickHouse {client.command('SELECT version()')}")
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main())
