"""A report as one self-contained page: tables, and charts in plain SVG; it loads nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from llmtrace.analyze.report import NOTHING, Column, Intervals, Lines, Report, Section, Stack, cell, harmless
from llmtrace.errors import LlmtraceError
from llmtrace.version import VERSION
from llmtrace.view import palette
from llmtrace.view.plot import plot
from llmtrace.view.report_text import faults, known
from llmtrace.view.resource import fill, head
from llmtrace.whole_file import write_text

_VARIABLES = {part: f"--{name}" for part, name in palette.OF_PHASE.items()} | {"floor": "--good"}
_ROW, _LABEL, _WIDTH, _NUMBER = 26, 290, 1000, 90


def write(report: Report, path: str | os.PathLike[str]) -> Path:
    """Write the page and return its path.

    Raises:
        LlmtraceError: the page cannot be written there.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, render(report), errors="replace")
    except OSError as error:
        raise LlmtraceError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def render(report: Report) -> str:
    """The page as a string."""
    report = harmless(report)
    sentences = [*report.notes, *(line for stats in report.stats for line in faults(stats))]
    notes = "".join(f"<li>{escape(note)}</li>" for note in sentences)
    sources = [source for stats in report.stats for source in stats.sources]
    spans = sum(stats.spans for stats in report.stats)
    return fill(
        "report.html",
        {
            "title": escape(report.title),
            "headline": escape(report.headline),
            "head": head(escape(report.title)),
            "sections": "\n".join(_section(section) for section in report.sections if section.rows),
            "notes": f'<ul class="notes">{notes}</ul>' if notes else "",
            "version": escape(VERSION),
            "input": escape(f"{spans:,} spans of {', '.join(Path(source).name for source in sources)}"),
        },
    )


def _section(section: Section) -> str:
    chart = ""
    if isinstance(section.chart, Stack) and section.chart.bars:
        chart = _stack(section.chart)
    elif isinstance(section.chart, Intervals) and section.chart.points:
        chart = _intervals(section.chart)
    elif isinstance(section.chart, Lines):
        chart = plot(section.chart)
    note = f'<p class="note">{escape(section.note)}</p>' if section.note else ""
    chart_card = f'<div class="card">{chart}</div>' if chart else ""
    table = f'<div class="card scroll">{_table(section.columns, section.rows)}</div>'
    return f"<section><h2>{escape(section.title)}</h2>{chart_card}{table}{note}</section>"


def _table(columns: Sequence[Column], rows: Sequence[Sequence[Any]]) -> str:
    kinds = ["text" if column.unit in ("text", "phase") else "" for column in columns]
    head = "".join(
        f'<th scope="col" class="{kind}">{escape(column.title)}</th>'
        for kind, column in zip(kinds, columns, strict=True)
    )
    body: list[str] = []
    for row in rows:
        cells: list[str] = []
        for value, kind, column in zip(row, kinds, columns, strict=True):
            words = cell(value, column.unit)
            marked = f"{kind} none".strip() if words == NOTHING else kind
            cells.append(f'<td class="{marked}">{escape(words)}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _stack(chart: Stack) -> str:
    most = max((sum(parts.values()) for _, parts in chart.bars), default=0.0)
    if most <= 0:
        return ""
    colours: dict[str, str] = {}
    shapes: list[str] = []
    room = _WIDTH - _LABEL - _NUMBER
    for place, (name, parts) in enumerate(chart.bars):
        top, x = place * _ROW, float(_LABEL)
        shapes.append(_label(name, top))
        for part, value in parts.items():
            if part not in colours:
                series = len([name for name in colours if name not in _VARIABLES])
                variable = _VARIABLES.get(part)
                colours[part] = f"var({variable})" if variable else palette.SERIES[series % len(palette.SERIES)]
            width = value / most * room
            tooltip = escape(f"{name}: {cell(part, 'phase')} {cell(value, chart.unit)}")
            shapes.append(
                f'<rect x="{x:.1f}" y="{top + 5}" width="{max(width, 0.6):.1f}" height="16" rx="2" '
                f'style="fill:{colours[part]}"><title>{tooltip}</title></rect>'
            )
            x += width
        shapes.append(f'<text x="{x + 8:.1f}" y="{top + 18}">{escape(cell(sum(parts.values()), chart.unit))}</text>')
    key = "".join(
        f'<span><i style="--c:{colour}"></i>{escape(cell(part, "phase"))}</span>' for part, colour in colours.items()
    )
    return _figure(chart.title, len(chart.bars), shapes, f'<div class="key">{key}</div>')


def _intervals(chart: Intervals) -> str:
    points, reach = known(chart)
    if reach <= 0:
        return ""
    middle = _LABEL + (_WIDTH - _LABEL - _NUMBER) / 2
    scale = (_WIDTH - _LABEL - _NUMBER) / 2 / reach
    height = len(points) * _ROW
    shapes = [f'<line x1="{middle}" x2="{middle}" y1="0" y2="{height}" style="stroke:var(--line)"/>']
    for place, (part, value, low, high) in enumerate(points):
        y = place * _ROW + 13
        colour, name = f"var({_VARIABLES.get(part, '--ink')})", cell(part, "phase")
        tooltip = escape(f"{name}: {cell(value, chart.unit)} ({cell(low, chart.unit)} to {cell(high, chart.unit)})")
        shapes.append(_label(name, place * _ROW))
        shapes.append(
            f'<g style="stroke:{colour};fill:{colour}"><title>{tooltip}</title><line x1="{middle + low * scale:.1f}" '
            f'x2="{middle + high * scale:.1f}" y1="{y}" y2="{y}" stroke-width="3"/>'
            f'<circle cx="{middle + value * scale:.1f}" cy="{y}" r="5"/></g>'
        )
        shapes.append(f'<text x="{_WIDTH - _NUMBER + 12}" y="{y + 5}">{escape(cell(value, chart.unit))}</text>')
    return _figure(chart.title, len(points), shapes, "")


def _label(name: str, top: int) -> str:
    short = name if len(name) <= 38 else f"{name[:37]}…"
    words, whole = escape(short), escape(name)
    return f'<text class="soft" x="{_LABEL - 10}" y="{top + 18}" text-anchor="end">{words}<title>{whole}</title></text>'


def _figure(title: str, rows: int, shapes: Sequence[str], after: str) -> str:
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {rows * _ROW}" role="img" aria-label="{escape(title)}">{"".join(shapes)}</svg>'
        f"{after}</figure>"
    )
