"""A report on the terminal: tables that say their units, charts of blocks, and the faults of the input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby, takewhile
from typing import Any

from rich.cells import cell_len

from llmtrace.analyze import contract, plausible
from llmtrace.analyze.load import Stats
from llmtrace.analyze.report import NOTHING, Column, Intervals, Report, Section, Stack, cell, harmless
from llmtrace.view import palette
from llmtrace.wording import plural

COLOURS = {part: palette.TERMINAL[name] for part, name in palette.OF_PHASE.items()} | {
    "floor": "green", "application": "cyan",
}  # fmt: skip
_WIDTH = 44
_WORDS = ("text", "phase", "time")
"""The units of columns that hold words."""


def show(report: Report, console: Any) -> None:
    """Print the report."""
    from rich.markup import escape

    report = harmless(report)

    console.print(f"[bold]{escape(report.title)}[/bold]")
    if report.headline:
        console.print(escape(report.headline))
    for section in report.sections:
        if section.rows:
            _section(section, console)
    for note in report.notes:
        console.print(f"\n[yellow]·[/yellow] {escape(note)}", highlight=False, soft_wrap=False)
    for stats in report.stats:
        for line in faults(stats):
            console.print(f"[yellow]·[/yellow] {escape(line)}", highlight=False)


def faults(stats: Stats) -> list[str]:
    """The faults of the input, a sentence each; everything else was used."""
    sentences = list(stats.notes)
    if stats.problem_count:
        first = stats.problems[:3]
        sentences.append(
            f"skipped {plural(stats.problem_count, 'broken part')} of the input, the first: {'; '.join(first)}"
        )
    if stats.odd:
        sentences.append(plausible.note(stats.odd))
    if stats.duplicates:
        sentences.append(f"{plural(stats.duplicates, 'span')} there twice; one of each counts")
    if stats.orphans:
        sentences.append(f"{stats.orphans:,} of {plural(stats.spans, 'span')} with a parent that is not in the input")
    if stats.skewed:
        sentences.append(
            f"{plural(stats.skewed, 'span')} outside the parent, which is another service's: the clocks disagree; "
            "durations are used, which that does not touch"
        )
    unknown = sorted({*stats.versions} - {*contract.VERSIONS})
    if unknown:
        known = " and ".join(map(str, contract.VERSIONS))
        sentences.append(
            f"versions of the span contract met: {', '.join(map(str, stats.versions))}; this program knows {known}"
        )
    return sentences


def _section(section: Section, console: Any) -> None:
    from rich.markup import escape

    console.print(f"\n[bold]{escape(section.title)}[/bold]")
    places = _columns_with_values(section)
    cells = [[cell(row[place], section.columns[place].unit) for place in places] for row in section.rows]
    columns = [section.columns[place] for place in places]
    _fitted(columns, cells, console)
    if isinstance(section.chart, Stack) and section.chart.bars:
        _stack(section.chart, console)
    elif isinstance(section.chart, Intervals):
        _intervals(section.chart, console)
    if section.note:
        console.print(f"[dim]{escape(section.note)}[/dim]", highlight=False)


def _width(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> int:
    wide = (max(cell_len(column.title), *(cell_len(row[n]) for row in cells)) for n, column in enumerate(columns))
    return sum(wide) + 3 * (len(columns) - 1)


def _table(columns: Sequence[Column], cells: Sequence[Sequence[str]], console: Any) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        justify = "left" if column.unit in _WORDS else "right"
        table.add_column(escape(column.title), justify=justify, overflow="fold")
    for row in cells:
        table.add_row(*map(escape, row))
    console.print(table)


def _fitted(columns: Sequence[Column], cells: Sequence[Sequence[str]], console: Any) -> None:
    """A table; where it is too wide, several below each other; where its names are, each name with its own values."""
    from rich.markup import escape
    from rich.padding import Padding

    if _width(columns, cells) <= console.width:
        _table(columns, cells, console)
        return
    key = _key(columns, cells)
    if _width(columns[:key], [row[:key] for row in cells]) <= console.width // (3 if key == 1 else 2):
        for part in _parts(columns, cells, key, console.width):
            _table([columns[at] for at in part], [[row[at] for at in part] for row in cells], console)
        return
    for heading, group in groupby(cells, key=lambda row: row[0]):
        rest = [row[1:] for row in group]
        console.print(f"[cyan]{escape(heading)}[/cyan]", highlight=False)
        if len(rest) > 1:
            _fitted(columns[1:], rest, console)
            continue
        pairs = [
            (column.title, value) for column, value in zip(columns[1:], rest[0], strict=True) if value != NOTHING
        ]  # fmt: skip
        for line in _lines(pairs, console.width - 2):
            words = " · ".join(f"[dim]{escape(title)}[/dim] {escape(value)}" for title, value in line)
            console.print(Padding(words, (0, 0, 0, 2)), highlight=False)


def _key(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> int:
    """How many columns at the beginning it takes to tell the rows apart, as far as their words do."""
    words = 1 + sum(1 for _ in takewhile(lambda column: column.unit in _WORDS, columns[1:]))
    told_apart = [len({tuple(row[:number]) for row in cells}) for number in range(1, words + 1)]
    return 1 + told_apart.index(max(told_apart))


def _parts(columns: Sequence[Column], cells: Sequence[Sequence[str]], key: int, width: int) -> list[list[int]]:
    """The places of the columns of each of the tables that a table is cut into; the first ``key`` are in each."""
    first = list(range(key))
    parts: list[list[int]] = [first]
    for place in range(key, len(columns)):
        tried = [*parts[-1], place]
        wide = _width([columns[at] for at in tried], [[row[at] for at in tried] for row in cells])
        if wide > width and len(parts[-1]) > key:
            parts.append([*first, place])
        else:
            parts[-1] = tried
    return parts


def _lines(pairs: Sequence[tuple[str, str]], width: int) -> list[list[tuple[str, str]]]:
    """Titles with their values, as many on a line as fit; a line is never cut within a pair."""
    lines: list[list[tuple[str, str]]] = []
    used = width
    for title, value in pairs:
        wide = cell_len(f"{title} {value}")
        if used + 3 + wide > width:
            lines.append([])
            used = -3
        lines[-1].append((title, value))
        used += 3 + wide
    return lines


def _columns_with_values(section: Section) -> list[int]:
    """The places of the columns that have a value in some row."""
    return [
        place
        for place, column in enumerate(section.columns)
        if place == 0 or any(cell(row[place], column.unit) not in (NOTHING, "$0") for row in section.rows)
    ]


def _stack(chart: Stack, console: Any) -> None:
    from rich.text import Text

    most = max((sum(parts.values()) for _, parts in chart.bars), default=0.0)
    if most <= 0:
        return
    console.print(f"[dim]{chart.title}[/dim]", highlight=False)
    colours = _colours(chart)
    label = min(36, max(len(name) for name, _ in chart.bars))
    width = max(10, min(_WIDTH, console.width - label - 12))
    for name, parts in chart.bars:
        line = Text(f"{name[:label]:<{label}} ")
        edge = drawn_to = 0.0
        for part, value in parts.items():
            edge += value / most * width
            line.append("█" * (round(edge) - round(drawn_to)), style=colours[part])
            drawn_to = edge
        line.append(f" {cell(sum(parts.values()), chart.unit)}")
        console.print(line, highlight=False)
    key = Text()
    for part, colour in colours.items():
        key.append("■ ", style=colour)
        key.append(f"{cell(part, 'phase')}   ")
    console.print(key, highlight=False)


def _colours(chart: Stack) -> dict[str, str]:
    colours: dict[str, str] = {}
    for _, parts in chart.bars:
        for part in parts:
            if part not in colours:
                others = len([name for name in colours if name not in COLOURS])
                colours[part] = COLOURS.get(part, palette.SERIES[others % len(palette.SERIES)])
    return colours


def known(chart: Intervals) -> tuple[list[tuple[str, float, float, float]], float]:
    """The points whose interval is known, and the farthest that any reaches from zero."""
    points = [point for point in chart.points if all(map(math.isfinite, point[1:]))]
    return points, max((abs(end) for point in points for end in point[1:]), default=0.0)


def _intervals(chart: Intervals, console: Any) -> None:
    points, reach = known(chart)
    if reach <= 0:
        return
    console.print(f"[dim]{chart.title}[/dim]", highlight=False)
    points = [(cell(name, "phase"), *ends) for name, *ends in points]
    label = max(len(name) for name, *_ in points)
    half = max(5, min(_WIDTH, console.width - label - 12) // 2)
    for name, value, low, high in points:
        cells = [" "] * (2 * half + 1)
        places = [round(half + end / reach * half) for end in (low, high, value)]
        cells[places[0] : places[1] + 1] = "─" * (places[1] - places[0] + 1)
        cells[half] = "┼" if cells[half] == "─" else "│"
        cells[places[2]] = "●"
        console.print(f"{name:<{label}} {''.join(cells)} {cell(value, chart.unit)}", highlight=False, markup=False)
