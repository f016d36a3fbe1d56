"""The parts of a report: sections of rows with units, charts, and notes on what the input lacks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

from llmtrace.analyze.contract import WORDS
from llmtrace.analyze.load import Stats
from llmtrace.wording import clean

_LONGEST = 4000
NOTHING = "\N{EN DASH}"
Unit = Literal["text", "phase", "count", "number", "s", "usd", "share", "time", "per_token"]
"""``phase`` is a phase's name, which people see as its word; ``s`` and ``per_token`` are seconds, ``share`` is 0 to 1,
``time`` ns since the epoch."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a section."""

    title: str
    unit: Unit = "text"


@dataclass(frozen=True, slots=True)
class Stack:
    """A chart of bars made of parts: a label, and the parts' values by name. All in one unit."""

    title: str
    unit: Unit
    bars: Sequence[tuple[str, Mapping[str, float]]]


@dataclass(frozen=True, slots=True)
class Intervals:
    """A chart of differences: a label, the value, and the ends of its interval. All in one unit."""

    title: str
    unit: Unit
    points: Sequence[tuple[str, float, float, float]]


@dataclass(frozen=True, slots=True)
class Lines:
    """A chart of lines: for each its name and points. A page draws it; a terminal has the table."""

    title: str
    across: str
    """What x is."""
    across_unit: Unit
    unit: Unit
    lines: Sequence[tuple[str, Sequence[tuple[float, float]]]]
    logarithmic: bool = False
    """Both axes; points at or below zero are left out."""
    marks: Sequence[tuple[str, float]] = ()
    """Places of x that have a name."""


@dataclass(slots=True)
class Section:
    """A table with a title, a word on how to read it, and perhaps a chart."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    chart: Stack | Intervals | Lines | None = None


@dataclass(slots=True)
class Report:
    """A report as data; ``render`` draws it."""

    name: str
    title: str
    sections: list[Section]
    headline: str = ""
    notes: list[str] = field(default_factory=list[str])
    """Sentences on what the input lacks, and on how the figures must not be read."""
    stats: Sequence[Stats] = ()


def as_json(report: Report) -> dict[str, Any]:
    """The report as JSON values. Numbers keep their units' base: seconds, USD, shares of 1."""
    return {
        "report": report.name,
        "title": report.title,
        "headline": report.headline,
        "sections": [
            {
                "title": section.title,
                "note": section.note,
                "columns": [{"title": column.title, "unit": column.unit} for column in section.columns],
                "rows": [[plain(cell) for cell in row] for row in section.rows],
            }
            for section in report.sections
        ],
        "notes": report.notes,
        "input": [
            {
                "sources": stats.sources,
                "spans": stats.spans,
                "skipped": stats.problem_count,
                "problems": stats.problems,
                "duplicates": stats.duplicates,
                "orphans": stats.orphans,
                "clock_skew": stats.skewed,
                "not_known": stats.odd,
                "schema_versions": stats.versions,
            }
            for stats in report.stats
        ],
    }


def harmless(part: Any) -> Any:
    """A report, or a part of one, whose texts cannot steer a terminal or a page: models' names come from outside."""
    if isinstance(part, str):
        return clean(part, _LONGEST)
    if isinstance(part, Mapping):
        return {harmless(key): harmless(value) for key, value in part.items()}
    if isinstance(part, (list, tuple)):
        return [harmless(member) for member in part]
    if is_dataclass(part) and not isinstance(part, type):
        return replace(part, **{each.name: harmless(getattr(part, each.name)) for each in fields(part)})
    return part


def plain(cell: Any) -> Any:
    """A cell as a JSON value: engines hand out their own numbers, and NaN where there is none.

    To 12 digits, but for moments: what an engine that sums on several threads gives behind them is another each time.
    """
    if cell is None or isinstance(cell, (str, bool)):
        return cell
    value = cell.item() if hasattr(cell, "item") else cell
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return None
    return float(f"{value:.12g}") if abs(value) < 1e12 else value


def cell(value: Any, unit: Unit) -> str:
    """A cell as text for people; a dash where the value is missing."""
    value = plain(value)
    if value is None or value == "":
        return NOTHING
    if unit == "phase":
        return WORDS.get(value, str(value))
    if unit == "text" or isinstance(value, str):
        return str(value)
    return _FORMATS[unit](value)


def seconds(value: float) -> str:
    """A duration with three figures in the unit that suits it."""
    size = abs(value)
    for scale, word in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if size >= scale * 0.9995:
            return f"{_figures(value / scale)} {word}"
    return "0 s" if size < 5e-10 else f"{_figures(value * 1e9)} ns"


def _figures(value: float) -> str:
    size = abs(value)
    return f"{value:,.0f}" if size >= 99.95 else f"{value:.1f}" if size >= 9.995 else f"{value:.2f}"


def _usd(value: float) -> str:
    size = abs(value)
    if size == 0:
        return "$0"
    return f"${value:,.2f}" if size >= 1 else f"${value:.4f}" if size >= 1e-3 else f"${value:.2e}"


def _time(value: float) -> str:
    from datetime import datetime, timezone

    return datetime.fromtimestamp(value / 1e9, timezone.utc).strftime("%Y-%m-%d %H:%M")


_FORMATS = {
    "count": lambda value: f"{value:,.0f}",
    "number": lambda value: f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}",
    "s": seconds,
    "per_token": seconds,
    "usd": _usd,
    "share": lambda value: f"{value:.1%}" if abs(value) < 0.9995 or value == 1 else f"{value:.0%}",
    "time": _time,
}
