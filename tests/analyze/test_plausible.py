"""Values of spans that cannot be: whoever reads them takes them for not known, and says so once."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from llmtrace.analyze import otlp, plausible, reports
from llmtrace.analyze.book import Book
from llmtrace.analyze.chunks import arrow_schema, arrow_table
from llmtrace.analyze.flatten import Flattener
from llmtrace.analyze.load import load
from llmtrace.analyze.report import as_json
from llmtrace.analyze.schema import COLUMNS
from llmtrace.emit.names import REPAIRS, TTFT
from llmtrace.view import report_text, selection, terminal
from tests.analyze.writing import Writer

SENT, CACHED, GOT = (f"gen_ai.usage.{what}" for what in ("input_tokens", "cache_read.input_tokens", "output_tokens"))
ODD: dict[str, tuple[dict[str, Any], str]] = {
    "below zero": ({SENT: {"intValue": "-5"}}, "input_tokens"),
    "more cached than sent": ({SENT: {"intValue": "100"}, CACHED: {"intValue": "99999"}}, "cached_tokens"),
    "no number": ({GOT: {"doubleValue": "NaN"}}, "output_tokens"),
    "a text": ({GOT: {"stringValue": "many"}}, "output_tokens"),
    "without end": ({GOT: {"doubleValue": "Infinity"}}, "output_tokens"),
    "one and a half of a thing": ({REPAIRS: {"doubleValue": 1.5}}, "repairs"),
    "one and a half, as text": ({REPAIRS: {"stringValue": "1.5"}}, "repairs"),
    "a time below zero": ({TTFT: {"doubleValue": -1.0}}, "ttft"),
}


def written(path: Path, changes: dict[str, Any], careful: bool = False) -> Path:
    """One call with ``changes`` in its attributes, and a sound one. ``careful``: for the careful reader alone."""
    writer = Writer()
    writer.call(0, [("queue_prefill", 100), ("decode", 400)])
    writer.call(1000, [("queue_prefill", 100), ("decode", 400)])
    attributes = {each["key"]: each for each in writer.spans[0]["attributes"]}
    attributes |= {key: {"key": key, "value": value} for key, value in changes.items()}
    writer.spans[0]["attributes"] = list(attributes.values())
    if careful:
        for span in writer.spans:
            span["kind"] = "SPAN_KIND_CLIENT" if span["kind"] == 3 else "SPAN_KIND_INTERNAL"
    return writer.save(path)


@pytest.mark.parametrize("careful", [False, True])
@pytest.mark.parametrize("odd", ODD)
def test_a_value_that_cannot_be_is_null_in_the_table_and_counted(odd: str, careful: bool, tmp_path: Path) -> None:
    changes, column = ODD[odd]
    flattener = Flattener(COLUMNS)
    for line, text in enumerate(written(tmp_path / "t.jsonl", changes, careful).read_text().splitlines()):
        flattener.add(json.loads(text), line)
    table = arrow_table(flattener, arrow_schema(COLUMNS))
    values = table.column(column).to_pylist()
    assert values[0] is None
    assert values[3] is not None or column in ("ttft", "repairs")
    assert flattener.odd == 1


@pytest.mark.parametrize("odd", ODD)
def test_reports_and_show_take_it_for_not_known(odd: str, tmp_path: Path) -> None:
    path = written(tmp_path / "t.jsonl", ODD[odd][0])
    with load([str(path)], cache=False) as traces:
        made = reports.make("phases", Book(traces))
        cached = as_json(reports.make("cache", Book(traces)))
    assert as_json(made)["input"][0]["not_known"] == 1
    assert [line for line in report_text.faults(made.stats[0]) if "not known" in line] == [plausible.note(1)]
    assert "-" not in json.dumps([section["rows"] for section in cached["sections"]]).replace("gpt-4o-mini", "")
    out = io.StringIO()
    console = Console(file=out, width=200)
    terminal.show(path, console, notes=console)
    assert plausible.note(1) in out.getvalue()
    for nonsense in ("-5", "99,999", "many", "nan", "-1"):
        assert nonsense not in out.getvalue().replace("2024-07-18", "")


def test_a_call_that_ends_before_it_starts_has_no_duration(tmp_path: Path) -> None:
    writer = Writer()
    writer.call(0, [])
    writer.call(0, [("decode", 400)])
    writer.spans[0]["startTimeUnixNano"] = str(int(writer.spans[0]["endTimeUnixNano"]) + 10**9)
    path = writer.save(tmp_path / "t.jsonl")
    with load([str(path)], cache=False) as traces:
        assert traces.stats.odd == 1
        durations = Book(traces).calls.duration.to_pyarrow().to_pylist()
    assert sorted(durations, key=lambda each: each is None) == [0.4, None]
    chosen = selection.select(path)
    assert (chosen.odd, sorted(one.duration for one in chosen.spans if one.kind == "client")) == (1, [0, 0.4])
    assert list(chosen.notes()) == [plausible.note(1)]


def test_what_is_odd_and_can_be_stays(tmp_path: Path) -> None:
    signed = {"llmtrace.estimate.error": {"doubleValue": -0.2}, "gen_ai.evaluation.score.value": {"doubleValue": -1.0}}
    path = written(tmp_path / "t.jsonl", signed | {"mine": {"intValue": "-5"}, SENT: {"stringValue": "100"}})
    file = otlp.read(path)
    assert file.odd == 0
    assert file.spans[0].attributes["mine"] == -5
    with load([str(path)], extra=("mine",), cache=False) as traces:
        assert traces.stats.odd == 0
        (row,) = traces.table.filter(traces.table.mine.notnull()).to_pyarrow().to_pylist()
    assert (row["mine"], row["score"], row["estimate_error"], row["input_tokens"]) == (-5, -1, -0.2, 100)
