"""Small plots as SVG text: bars with a mark at the bar to be met, and points of estimate against truth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

_COLOURS = ("#2563eb", "#f59e0b", "#10b981", "#a855f7", "#94a3b8")
_INK, _FAINT = "#334155", "#e2e8f0"
_FONT = 'font-family="system-ui, sans-serif"'


def bars(
    title: str, groups: Mapping[str, Mapping[str, float]], limits: Mapping[str, float], *, top: float | None = None
) -> str:
    """Grouped vertical bars of shares. ``groups``: label -> series -> share; ``limits``: label -> the bar to be met.

    ``top``: the axis ends there at most; what is higher is cut off, with its number on it.
    """
    series = list(dict.fromkeys(name for group in groups.values() for name in group))
    values = [value for group in groups.values() for value in group.values() if math.isfinite(value)]
    most = max([*values, *limits.values(), 0.01]) * 1.1
    if top is not None:
        most = min(most, top)
    thin, left, height, head = 11, 46, 190, 58
    longest = max((len(word) for label in groups for word in label.split("\n")), default=0)
    wide = max(thin * len(series) + 18, 6.5 * longest + 8)
    gap = wide - thin * len(series)
    width = max(left + wide * len(groups) + 10, 8.3 * len(title), 420)
    out = [_open(width, head + height + 74, title)]
    out += _legend(series, left, 40)
    for share in _ticks(most):
        y = head + height - share / most * height
        out.append(f'<line x1="{left}" y1="{y:.1f}" x2="{width - 8}" y2="{y:.1f}" stroke="{_FAINT}"/>')
        out.append(_text(left - 6, y + 4, f"{share:.0%}", "end"))
    for number, (label, group) in enumerate(groups.items()):
        x0 = left + gap / 2 + number * wide
        for place, name in enumerate(series):
            value = group.get(name, float("nan"))
            if not math.isfinite(value):
                continue
            tall = min(value, most) / most * height
            x = x0 + place * thin
            out.append(
                f'<rect x="{x:.1f}" y="{head + height - tall:.1f}" width="{thin - 2}" height="{max(tall, 0.8):.1f}" '
                f'fill="{_COLOURS[place % len(_COLOURS)]}"><title>{escape(name)}, {escape(label)}: {value:.1%}</title>'
                "</rect>"
            )
            if value > most:
                at = f'transform="rotate(-90 {x + 8:.1f} {head + 32})"'
                out.append(_text(x + 8, head + 32, f"{value:.0%}", "start", at, "#fff"))
        if label in limits:
            y = head + height - min(limits[label], most) / most * height
            x1 = x0 + thin * len(series) - 1
            out.append(
                f'<line x1="{x0 - 2:.1f}" y1="{y:.1f}" x2="{x1:.1f}" y2="{y:.1f}" stroke="#dc2626" stroke-width="1.5"/>'
            )
        for row, word in enumerate(label.split("\n")):
            out.append(_text(x0 + thin * len(series) / 2, head + height + 16 + 13 * row, word, "middle"))
    return "\n".join([*out, "</svg>"]) + "\n"


def points(title: str, across: str, up: str, clouds: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Estimate against truth, both in ms on axes that grow with the square root, so that short ones show too."""
    ends = [value for cloud in clouds.values() for pair in cloud for value in pair if math.isfinite(value)]
    most = max([*ends, 0.001])
    side, left, head = 300, 60, 58
    out = [_open(left + side + 60, head + side + 56, title)]
    out += _legend(list(clouds), left, 40)

    def place(value: float) -> float:
        return math.sqrt(max(0.0, value) / most) * side

    for share in (0.0, 0.01, 0.05, 0.2, 0.5, 1.0):
        value = most * share
        x, y = left + place(value), head + side - place(value)
        out.append(f'<line x1="{left}" y1="{y:.1f}" x2="{left + side}" y2="{y:.1f}" stroke="{_FAINT}"/>')
        out.append(f'<line x1="{x:.1f}" y1="{head}" x2="{x:.1f}" y2="{head + side}" stroke="{_FAINT}"/>')
        out.append(_text(left - 6, y + 4, f"{value * 1e3:.0f}", "end"))
        out.append(_text(x, head + side + 16, f"{value * 1e3:.0f}", "middle"))
    out.append(f'<line x1="{left}" y1="{head + side}" x2="{left + side}" y2="{head}" stroke="{_INK}" opacity="0.5"/>')
    for number, cloud in enumerate(clouds.values()):
        colour = _COLOURS[number % len(_COLOURS)]
        for true, said in cloud:
            out.append(
                f'<circle cx="{left + place(true):.1f}" cy="{head + side - place(said):.1f}" r="2.2" fill="{colour}" '
                'fill-opacity="0.45"/>'
            )
    out.append(_text(left + side / 2, head + side + 36, across, "middle"))
    middle = head + side / 2
    out.append(_text(16, middle, up, "middle", f'transform="rotate(-90 16 {middle:.1f})"'))
    return "\n".join([*out, "</svg>"]) + "\n"


def _open(width: float, height: float, title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(title, quote=True)}">'
        f'<rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="10" y="20" {_FONT} font-size="13" font-weight="600" fill="{_INK}">{escape(title)}</text>'
    )


def _legend(names: Sequence[str], left: float, y: float) -> list[str]:
    out: list[str] = []
    x = left
    for number, label in enumerate(names):
        out.append(f'<rect x="{x}" y="{y - 9}" width="9" height="9" fill="{_COLOURS[number % len(_COLOURS)]}"/>')
        out.append(_text(x + 13, y, label, "start"))
        x += 13 + 6.3 * len(label) + 14
    return out


def _text(x: float, y: float, words: str, anchor: str, more: str = "", fill: str = _INK) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" {_FONT} font-size="11" fill="{fill}" text-anchor="{anchor}" {more}>'
        f"{escape(words)}</text>"
    )


def _ticks(most: float) -> list[float]:
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 1e9) if most / step <= 6)
    return [step * i for i in range(int(most / step) + 1)]
