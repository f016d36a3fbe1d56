"""A fleet that never was: a model in an application on many devices, over sixty days of updates.

    python -m tests.support.fleet FOLDER/fleet.parquet --calls 10000000    # the table of spans, for `report fleet`
    python -m tests.support.fleet FOLDER/fleet.jsonl --calls 2000          # the same calls as OTLP/JSON

Drawn from a seed, and each call from its number alone. Four versions of the weights (``VERSIONS``): each is offered to
5, then 25, then all of a hundred installations, which take it after some days. One in 25 takes eight times as long, one
in a hundred never does. ``fp_c`` answers too long, often until its limit, and is withdrawn after four days. ``fp_d``
takes 18 % longer for each token. Of 250 calls one asks for the large model and is answered by the small one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb

from llmtrace.analyze.schema import COLUMNS
from tests.analyze.writing import EPOCH, attributes

DAYS = 60
VERSIONS = {"fp_a": (0, "3.0"), "fp_b": (12, "3.1"), "fp_c": (28, "3.2"), "fp_d": (36, "3.3")}
"""The versions of the weights: the day on which each comes out, and the application that brings it."""
WITHDRAWN = 32
CALLS_EACH = 10
"""Calls of an installation, on average."""
_TYPES = {"text": "VARCHAR", "int": "BIGINT", "float": "DOUBLE", "bool": "BOOLEAN"}
_DAY_NS = 86_400 * 10**9

_SQL = """
WITH drawn AS (
  SELECT i, floor({instances} * power(u(i, 1), 1.3))::BIGINT AS owner, {days} * u(i, 2) AS day,
    sqrt(-2 * ln(u(i, 3))) * cos(2 * pi() * u(i, 4)) AS z1, sqrt(-2 * ln(u(i, 5))) * cos(2 * pi() * u(i, 6)) AS z2,
    sqrt(-2 * ln(u(i, 7))) * cos(2 * pi() * u(i, 8)) AS z3
  FROM range({calls}) t(i)),
owned AS (
  SELECT *, u(owner, 11) AS stage, u(owner, 12) AS kind, 0.3 * (u(owner, 13) - 0.5) AS own,
    CASE WHEN u(owner, 14) < 0.01 THEN 1e6 WHEN u(owner, 14) < 0.05 THEN 8 ELSE 1 END AS slow FROM drawn),
dated AS (
  SELECT *, CASE WHEN stage < 0.05 THEN 0 WHEN stage < 0.25 THEN 2 ELSE 5 END AS offered,
    -2.5 * ln(u(owner, 15)) * slow AS delay_b, -2.5 * ln(u(owner, 16)) * slow AS delay_c,
    -2.5 * ln(u(owner, 17)) * slow AS delay_d FROM owned),
versioned AS (
  SELECT *, CASE WHEN day >= 36 + offered + delay_d THEN 'fp_d'
    WHEN stage < 0.25 AND day >= 28 + offered / 2 + delay_c AND day < {withdrawn} + 0.2 * delay_c THEN 'fp_c'
    WHEN day >= 12 + offered + delay_b THEN 'fp_b' ELSE 'fp_a' END AS weights FROM dated),
timed AS (
  SELECT *, CASE WHEN kind < 0.4 THEN 'Pixel 9' WHEN kind < 0.75 THEN 'iPhone 17' ELSE 'ThinkPad X1' END AS device,
    greatest(1, round(120 * exp(0.6 * z1) * if(weights = 'fp_c', 1.6, 1)))::BIGINT AS wanted,
    (CASE WHEN kind < 0.4 THEN 0.9 WHEN kind < 0.75 THEN 0.6 ELSE 0.35 END) * exp(0.35 * z2 + own) AS ttft,
    (CASE WHEN kind < 0.4 THEN 0.07 WHEN kind < 0.75 THEN 0.05 ELSE 0.03 END) * exp(0.15 * z3 + own)
      * if(weights = 'fp_d', 1.18, 1) AS tpot FROM versioned)
SELECT *, least(wanted, 512) AS made, ttft + tpot * (least(wanted, 512) - 1) AS took,
  u(i, 21) < 0.01 AS failed, u(i, 22) < 0.004 AS swapped FROM timed
"""


def table(connection: Any, calls: int, seed: int = 7) -> str:
    """Make the view ``fleet`` of spans, one a call, with the columns that reports read; returns its name."""
    connection.execute(
        f"CREATE OR REPLACE MACRO u(a, b) AS ((hash(a, b, {seed}) >> 11) + 1)::DOUBLE / (9007199254740992 + 1)"
    )
    asked = _SQL.format(
        calls=calls, instances=max(40, calls // CALLS_EACH), days=DAYS, withdrawn=WITHDRAWN
    )  # fmt: skip
    app = "CASE weights " + " ".join(f"WHEN '{name}' THEN '{app}'" for name, (_, app) in VERSIONS.items()) + " END"
    start = f"{EPOCH} + (day * {_DAY_NS})::BIGINT"
    told = {
        "trace_id": "printf('%016x%016x', hash(i, 31)::UBIGINT % 9223372036854775807, i + 1)",
        "span_id": "printf('%016x', i + 1)",
        "name": "'chat assistant'",
        "kind": "'client'",
        "start_ns": start,
        "end_ns": f"{start} + (took * 1e9)::BIGINT",
        "status": "if(failed, 'error', 'unset')",
        "service": "'assistant'",
        "operation": "'chat'",
        "provider": "'llama_cpp'",
        "request_model": "if(u(i, 22) < 0.3, 'assistant-large', 'assistant-small')",
        "response_model": "if(u(i, 22) < 0.3 AND NOT swapped, 'assistant-large', 'assistant-small')",
        "input_tokens": "(400 * exp(0.8 * z3))::BIGINT + 20",
        "output_tokens": "if(failed, NULL, made)",
        "error_type": "if(failed, 'TimeoutError', NULL)",
        "schema_version": "2",
        "outcome": "if(failed, 'error', 'completed')",
        "ttft": "if(failed, NULL, ttft)",
        "finish": "if(failed, NULL, if(wanted > 512, 'length', 'stop'))",
        "weights": "weights",
        "model_format": "if(device = 'ThinkPad X1', 'bf16', 'gguf Q4_K_M')",
        "app_version": app,
        "device": "device",
        "instance": "printf('inst-%08d', owner)",
    }
    columns = ", ".join(f"({told.get(each.name, 'NULL')})::{_TYPES[each.kind]} AS {each.name}" for each in COLUMNS)
    connection.execute(f"CREATE OR REPLACE VIEW fleet AS SELECT {columns} FROM ({asked})")
    return "fleet"


def write_parquet(path: Path, calls: int, seed: int = 7) -> Path:
    """Write the table of spans."""
    with duckdb.connect() as connection:
        connection.execute("SET preserve_insertion_order = false; SET memory_limit = '2GB'")
        name = table(connection, calls, seed)
        connection.execute(f"COPY {name} TO '{path}' (FORMAT parquet, COMPRESSION zstd)")
    return path


_OF_RESOURCE = {
    "service": "service.name",
    "app_version": "service.version",
    "instance": "service.instance.id",
    "device": "device.model.name",
    "weights": "llmtrace.model.fingerprint",
    "model_format": "llmtrace.model.format",
}
_KINDS = {"client": 3}


def documents(calls: int, seed: int = 7) -> Iterator[dict[str, Any]]:
    """The calls as OTLP/JSON, each in an object of its own."""
    names = {each.name: each.attributes[0] for each in COLUMNS if each.attributes}
    with duckdb.connect() as connection:
        rows = connection.execute(f"SELECT * FROM {table(connection, calls, seed)}").fetchall()
        columns = [each[0] for each in connection.description or ()]
    for values in rows:
        row = {name: value for name, value in zip(columns, values, strict=True) if value is not None}
        about = {attribute: row.pop(name) for name, attribute in _OF_RESOURCE.items()}
        marks = {names[name]: [value] if name == "finish" else value for name, value in row.items() if name in names}
        span = {
            "traceId": row["trace_id"],
            "spanId": row["span_id"],
            "name": row["name"],
            "kind": _KINDS[row["kind"]],
            "startTimeUnixNano": str(row["start_ns"]),
            "endTimeUnixNano": str(row["end_ns"]),
            "attributes": attributes(marks),
            "status": {"code": 2} if row["status"] == "error" else {},
        }
        scopes = [{"scope": {"name": "llmtrace"}, "spans": [span]}]
        yield {"resourceSpans": [{"resource": {"attributes": attributes(about)}, "scopeSpans": scopes}]}


def main() -> None:
    """Write the file that was asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=7)
    asked = parser.parse_args()
    if asked.file.suffix == ".parquet":
        write_parquet(asked.file, asked.calls, asked.seed)
    else:
        lines = (json.dumps(document) + "\n" for document in documents(asked.calls, asked.seed))
        asked.file.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
