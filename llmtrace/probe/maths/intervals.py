"""A value with the interval that it lies in, and the bootstrap that finds one."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

RESAMPLES = 200
LEVEL = 0.9
"""The share of cases in which the truth lies in the interval."""
_TAIL = 0.025
"""Cut off on each side of the resampled values: with two dozen calls the bootstrap is too sure of itself, and of a
nominal 95 % about ``LEVEL`` is left."""

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and the ends of its interval, all in the same unit."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Interval:
        """The same in another unit."""
        return Interval(self.value * factor, self.low * factor, self.high * factor)


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two in the middle."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of the values lie, between neighbours by a straight line."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def bootstrap(items: Sequence[Item], estimate: Callable[[Sequence[Item]], Sequence[float]]) -> list[Interval]:
    """An interval for each number that ``estimate`` makes of the items, by resampling them; the same every time."""
    values = estimate(items)
    chance = random.Random(len(items))
    resampled = [estimate(chance.choices(items, k=len(items))) for _ in range(RESAMPLES)]
    intervals: list[Interval] = []
    for i, value in enumerate(values):
        column = [each[i] for each in resampled]
        low, high = quantile(column, _TAIL), quantile(column, 1 - _TAIL)
        intervals.append(Interval(value, min(low, value), max(high, value)))
    return intervals
