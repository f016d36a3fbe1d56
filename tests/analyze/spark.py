"""The reports on PySpark: the same figures as on DuckDB. Run by `make spark`; it needs Java and a large package.

python -m tests.analyze.spark
"""

from __future__ import annotations

import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import ibis

from llmtrace.analyze import compare, reports, whatif
from llmtrace.analyze.book import Book
from llmtrace.analyze.load import Stats, Traces, load
from llmtrace.analyze.report import Report, as_json
from llmtrace.phases.objectives import TOTAL, parse_objective
from tests.analyze.writing import Writer


def traffic() -> Writer:
    """Calls on two routes, with verdicts, cancellations, two models, tasks and steps."""
    writer = Writer(about={"service.instance.id": "i-1", "device.model.name": "Pixel 9"})
    for number in range(60):
        slow = 1 + number % 5
        marks: dict[str, Any] = {"llmtrace.slo.total": 0.6, "llmtrace.model.fingerprint": f"fp_{number // 30}"}
        if number % 9 == 0:
            marks |= {"llmtrace.diagnosis": ["queueing", "network"]}
        outcome = "cancelled" if number % 11 == 0 else "completed"
        writer.call(
            number * 1000,
            [("network", 10 * slow), ("queue", 3 * number), ("prefill", 100), ("decode", 400 + number)],
            outcome=outcome,
            answered="gpt-4o-mini-2024-07-18" if number < 40 else "gpt-9",
            tokens=(1000 + 10 * number, 128 * slow, 101),
            marks=marks,
        )
    for number in range(3):
        trace, marks = 9000 + number, {"llmtrace.task.id": f"t{number}"}
        said = {"llmtrace.task.name": "resolve ticket", "llmtrace.task.resolved": number > 0, **marks}
        task = writer.span("task resolve ticket", 0, 3000, said, trace=trace)
        writer.call(10, [("prefill", 100), ("decode", 400)], trace=trace, parent=task, marks=marks)
        step = {"llmtrace.step.kind": "rerank", "llmtrace.cost.usd": 0.25, **marks}
        writer.span("rerank five", 600, 700, step, trace=trace, parent=task)
        agent = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "planner"}
        planner = writer.span("invoke_agent planner 17", 700, 1500, agent, trace=trace, parent=task)
        writer.call(700, [("prefill", 100), ("decode", 300)], trace=trace, parent=planner, marks=marks)
        tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "search"}
        searched = writer.span("execute_tool search", 1100, 1400, tool, trace=trace, parent=planner)
        writer.span("SELECT", 1100, 1300, {"db.system.name": "postgresql"}, trace=trace, parent=searched, kind=3)
        writer.span("parse answer", 1500, 1600, {"gen_ai.evaluation.score.value": 0.5}, trace=trace, parent=task)
    return writer


def same(one: Any, other: Any) -> bool:
    """Equal but for the last digits of floats."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, (int, float)) and isinstance(other, (int, float)) and not isinstance(one, bool):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
    return bool(one == other)


def figures(report: Report) -> list[Any]:
    """Rows by section; rows that an engine orders as it likes where their key is equal, in one order."""
    return [sorted(section["rows"], key=str) for section in as_json(report)["sections"]]


def all_reports(traces: Traces) -> dict[str, list[Any]]:
    """Every report's figures."""
    book = Book(traces)
    options = reports.Options(objectives={TOTAL: parse_objective("1")})
    made = {name: figures(reports.make(name, book, options)) for name in reports.NAMES}
    made["compare"] = figures(compare.make(book, book))
    made["whatif"] = figures(whatif.make(book, {"decode": 0.5, "rerank": 0.0}))
    return made


def main() -> int:
    """Compare both engines; 0 where they agree."""
    from pyspark.sql import SparkSession

    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "spans.parquet"
        with load([str(traffic().save(Path(folder) / "t.jsonl"))]) as traces:
            traces.table.to_parquet(table)
            expected = all_reports(traces)
        session = (
            SparkSession.builder.master("local[2]")
            .config("spark.ui.enabled", "false")
            .config("spark.sql.shuffle.partitions", "4")
            .config("spark.driver.bindAddress", "127.0.0.1")
            .config("spark.driver.host", "127.0.0.1")
            .getOrCreate()
        )
        session.sparkContext.setLogLevel("ERROR")
        engine: Any = ibis.pyspark.connect(session)
        spans = engine.read_parquet(str(table))
        found = all_reports(Traces(spans, engine, Stats(["spark"], versions=[1])))
        session.stop()
    wrong = [name for name in expected if not same(found[name], expected[name])]
    for name in expected:
        print(f"{name:14} {'differs' if name in wrong else 'the same on both'}")
        if name in wrong:
            print("  duckdb ", expected[name])
            print("  pyspark", found[name])
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main())
