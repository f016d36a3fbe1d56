"""Reports on the terminal: how a table that is too wide is cut."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from llmtrace.analyze.report import Column, Report, Section
from llmtrace.view import report_text

TEXT, NUMBERS = ("provider", "model", "served by"), ("calls", "input", "output", "repairs", "attempts", "unpriced")


def shown(rows: list[tuple[str, ...]], width: int) -> list[list[str]]:
    """The words of each line of a table whose rows begin with these and go on with numbers."""
    columns = [*(Column(name) for name in TEXT[: len(rows[0])]), *(Column(name, "count") for name in NUMBERS)]
    cells: list[list[Any]] = [
        [*row, *(1000 * number + at for at in range(len(NUMBERS)))] for number, row in enumerate(rows)
    ]
    stream = io.StringIO()
    section = Section("By model", columns, cells)
    report_text.show(Report("r", "R", [section]), Console(file=stream, width=width, color_system=None))
    return [line.split() for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("rows", "key"),
    [
        ([("openai", "m-1", "x"), ("cohere", "m-2", "x")], 1),
        ([("openai", "m-1", "x"), ("openai", "m-2", "y")], 2),
        ([("openai", "m-1", "x"), ("openai", "m-1", "y")], 3),
        ([("openai", "m-1", "x"), ("openai", "m-1", "x")], 1),
        ([("openai",), ("openai",)], 1),
    ],
)
def test_each_part_of_a_table_tells_its_rows_apart(rows: list[tuple[str, ...]], key: int) -> None:
    lines = shown(rows, 60)
    heads = [line for line in lines if line[:1] == ["provider"]]
    assert len(heads) > 1
    begin = list(TEXT[:key])
    assert all(" ".join(head).startswith(" ".join(begin)) for head in heads)
    for row in rows:
        assert sum(line[:key] == list(row[:key]) for line in lines) >= len(heads)


def test_a_table_that_fits_is_one() -> None:
    assert sum(line[:1] == ["provider"] for line in shown([("openai", "m-1", "x"), ("openai", "m-2", "y")], 120)) == 1
