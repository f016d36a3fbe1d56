"""Medians and other quantiles, linear between the two nearest values; NaN of nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable


def quantile(values: Iterable[float], rank: float) -> float:
    """The value below which the share ``rank`` of ``values`` lies."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    position = rank * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def median(values: Iterable[float]) -> float:
    """The middle value."""
    return quantile(values, 0.5)


def quartiles(values: Iterable[float]) -> tuple[float, float]:
    """Where the middle half of ``values`` begins and ends."""
    ordered = sorted(values)
    return quantile(ordered, 0.25), quantile(ordered, 0.75)


def mean(values: Iterable[float]) -> float:
    """The average."""
    known = list(values)
    return sum(known) / len(known) if known else math.nan
