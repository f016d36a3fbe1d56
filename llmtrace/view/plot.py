"""Lines over two axes in plain SVG, for a report's page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from llmtrace.analyze.report import Lines, Unit, cell
from llmtrace.view import palette

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 1000, 380, 90, 48, 22, 48
_TICKS = 5
_MOST_POWERS = 8


class _Axis:
    """One axis: from values to places, and which values are written beside it."""

    def __init__(self, values: Sequence[float], begin: float, end: float, logarithmic: bool) -> None:
        self._logarithmic, self._begin, self._end = logarithmic, begin, end
        if logarithmic:
            self._low, self._high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
            self._high = max(self._high, self._low + 1)
        else:
            highest = max(values)
            rough = (highest if highest > 0 else 1.0) / _TICKS
            power = 10.0 ** math.floor(math.log10(rough))
            self._step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
            # The axis ends with a value that is written beside it.
            self._low, self._high = 0.0, self._step * math.ceil(_TICKS * rough / self._step - 1e-9)

    def __call__(self, value: float) -> float:
        at = math.log10(value) if self._logarithmic else value
        return self._begin + (at - self._low) / (self._high - self._low) * (self._end - self._begin)

    def ticks(self) -> list[float]:
        if self._logarithmic:
            step = max(1, math.ceil((self._high - self._low) / _MOST_POWERS))
            return [10.0**power for power in range(int(self._low), int(self._high) + 1, step)]
        return [self._step * number for number in range(round(self._high / self._step) + 1)]


def plot(chart: Lines) -> str:
    """The chart as a figure; nothing where no line has a point."""
    lines = [
        (name, [point for point in points if not chart.logarithmic or min(point) > 0]) for name, points in chart.lines
    ]
    drawn = [(number, name, points) for number, (name, points) in enumerate(lines) if points]
    every = [point for _, _, points in drawn for point in points]
    if not every:
        return ""
    marks = [(name, at) for name, at in chart.marks if at > 0]
    across = _Axis([x for x, _ in every] + [at for _, at in marks], _LEFT, _WIDTH - _RIGHT, chart.logarithmic)
    upward = _Axis([y for _, y in every], _HEIGHT - _BOTTOM, _TOP, chart.logarithmic)
    shapes = [*_grid(across, upward, chart.across_unit, chart.unit)]
    for number, (name, at) in enumerate(marks):
        x = across(at)
        shapes.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" stroke-dasharray="5 4" '
            f'style="stroke:var(--soft)"/><text class="soft" x="{x + 5:.1f}" y="{_TOP + 12 + 15 * number}">'
            f"{escape(name)}</text>"
        )
    for number, name, points in drawn:
        path = " ".join(f"{across(x):.1f},{upward(y):.1f}" for x, y in points)
        shapes.append(
            f'<polyline points="{path}" fill="none" stroke-width="2.5" style="stroke:{_colour(number)}">'
            f"<title>{escape(name)}</title></polyline>"
        )
    shapes.append(
        f'<text class="soft" x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">'
        f"{escape(chart.across)}</text>"
    )
    key = "".join(f'<span><i style="--c:{_colour(number)}"></i>{escape(name)}</span>' for number, name, _ in drawn)
    return (
        f"<figure><figcaption>{escape(chart.title)}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(chart.title)}">{"".join(shapes)}</svg>'
        f'<div class="key">{key}</div></figure>'
    )


def _grid(across: _Axis, upward: _Axis, across_unit: Unit, unit: Unit) -> list[str]:
    shapes: list[str] = []
    for value in across.ticks():
        x = across(value)
        shapes.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" style="stroke:var(--grid)"/>'
            f'<text class="soft" x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">'
            f"{escape(cell(value, across_unit))}</text>"
        )
    for value in upward.ticks():
        y = upward(value)
        shapes.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" style="stroke:var(--grid)"/>'
            f'<text class="soft" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(cell(value, unit))}</text>'
        )
    return shapes


def _colour(number: int) -> str:
    return palette.SERIES[number % len(palette.SERIES)]
