"""Numbers and names as people read them, the same in the terminal and on the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmtrace.wording import clean, count, plural

__all__ = [
    "DASH", "Table", "clean", "count", "give_or_take", "plural", "seconds", "tick", "ticks", "value",
]  # fmt: skip

DASH = "\N{EN DASH}"


def seconds(value: float) -> str:
    """``412 µs``, ``3.21 ms``, ``321 ms``, ``1.24 s``, ``2 min 03 s``, ``1 h 02 min``: three figures that matter."""
    if not math.isfinite(value):
        return DASH
    sign = "-" if value < 0 else ""
    size = abs(value)
    if size < 0.5e-9:
        return "0 s"
    if size < 59.95:
        for unit, name in ((1e-6, "µs"), (1e-3, "ms"), (1.0, "s")):
            if size < unit * 999.5 or name == "s":
                return f"{sign}{_three(size / unit)} {name}"
    whole = round(size)
    if whole < 3600:
        return f"{sign}{whole // 60} min {whole % 60:02d} s"
    return f"{sign}{whole // 3600} h {whole % 3600 // 60:02d} min"


def _three(value: float) -> str:
    if value < 9.995:
        return f"{value:.2f}"
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def give_or_take(low: float, high: float) -> str:
    """``±92.0 ms``; ``-40.0/+130 ms`` where a value may be less by another measure than it may be more, in seconds."""
    shorter, longer = seconds(low), seconds(high)
    if shorter == longer:
        return f"±{longer}"
    if low <= 0 or high <= 0:
        return f"+{longer}" if low <= 0 else f"-{shorter}"
    value, unit = longer.rsplit(" ", 1)
    scale = {"µs": 1e-6, "ms": 1e-3, "s": 1.0}.get(unit)
    if scale is None or max(low, high) >= 59.95 or low / scale >= 999.5 or low / scale < 0.005:
        return f"-{shorter}/+{longer}"
    return f"-{_three(low / scale)}/+{value} {unit}"


def between(low: float, high: float) -> str:
    """``807-914 ms``: from one length to another, in seconds."""
    shorter, longer = seconds(max(0.0, low)), seconds(high)
    value, unit = longer.rsplit(" ", 1)
    scale = {"µs": 1e-6, "ms": 1e-3, "s": 1.0}.get(unit)
    if scale is None or high >= 59.95:
        return f"{shorter} to {longer}"
    return f"{_three(low / scale) if low > 0.005 * scale else 0}-{value} {unit}"


def ticks(span: float, most: int) -> list[float]:
    """Round positions on an axis from 0 to ``span`` seconds, 0 first, at most ``most`` of them."""
    if not span > 0 or most < 2:
        return [0.0]
    rough = span / (most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((unit * power for unit in (1, 2, 5, 10) if unit * power >= rough * 0.999), 10 * power)
    return [at * step for at in range(int(span / step * 1.0001) + 1)]


def tick(value: float, span: float) -> str:
    """A tick's label, in the unit that suits the whole axis, without needless zeros."""
    if value == 0:
        return "0"
    for unit, name in ((1e-6, "µs"), (1e-3, "ms"), (1.0, "s")):
        if span < unit * 1000 or name == "s":
            return f"{value / unit:.6g} {name}"
    raise AssertionError


def value(item: Any) -> str:
    """An attribute's value in one line."""
    if isinstance(item, bool):
        return "true" if item else "false"
    if isinstance(item, float):
        return f"{item:.9g}"
    if isinstance(item, bytes):
        return item[:32].hex() + ("…" if len(item) > 32 else "")
    if isinstance(item, (tuple, list)):
        return "[" + ", ".join(value(member) for member in item) + "]"
    if isinstance(item, dict):
        return "{" + ", ".join(f"{key}: {value(member)}" for key, member in item.items()) + "}"
    return "" if item is None else str(item)


@dataclass(frozen=True, slots=True)
class Table:
    """A small comparison to stand beside the waterfalls: text cells, the first column names the row.

    ``None`` is a value that nobody knows and shows as a dash. ``groups`` put a common heading over neighbouring
    columns: pairs of heading and number of columns, in order, the first column not counted.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str | None]]
    title: str = ""
    note: str = ""
    groups: Sequence[tuple[str, int]] = ()
