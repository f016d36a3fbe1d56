"""What a prompt and an answer cost, fitted to a few designed calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmtrace.estimate.curve import quantile_curve, weighted_nonnegative
from llmtrace.probe.maths.intervals import Interval, bootstrap

LEAST = 6
"""Calls below which nothing is fitted."""
_CURVED = 0.95
"""How much smaller the error has to become before the cost is taken to be curved."""
_MIDDLE = 0.5

THOUSAND = 1000

Point = tuple[float, float]
"""Tokens, and seconds."""


@dataclass(frozen=True, slots=True)
class PromptCost:
    """Seconds to the first token: ``fixed + per_token * n + per_square * n * n``."""

    fixed: Interval
    per_token: Interval
    per_square: Interval | None
    """None: the cost was a straight line as far as could be seen."""
    thousand: Interval
    """Seconds to the first token of a new prompt of 1,000 tokens: surer than the parts that it is made of."""
    bend: float
    """The most that ``per_square`` may be, s per squared token, where it is None."""

    def seconds(self, tokens: float) -> float:
        """What so many uncached prompt tokens take, s."""
        curved = 0.0 if self.per_square is None else self.per_square.value
        return self.fixed.value + tokens * (self.per_token.value + curved * tokens)


def prompt_cost(points: Sequence[Point]) -> PromptCost | None:
    """The cost of a prompt, None with too few calls or lengths. Errors count by their share of the time, since longer
    prompts scatter more; a call that waited moves the curve little, for it is the middle one that counts."""
    if len(points) < LEAST or len({tokens for tokens, _ in points}) < 3:
        return None

    def fitted(some: Sequence[Point], terms: int) -> tuple[float, ...]:
        coefficients = _relative(some, terms)
        return (*coefficients, _at(coefficients, THOUSAND))

    curved = _error(points, _relative(points, 3)) < _CURVED * _error(points, _relative(points, 2))
    bent = bootstrap(points, lambda some: fitted(some, 3))
    if curved and bent[2].low > 0:
        return PromptCost(bent[0], bent[1], bent[2], bent[3], 0.0)
    fixed, per_token, thousand = bootstrap(points, lambda some: fitted(some, 2))
    return PromptCost(fixed, per_token, None, thousand, bent[2].high)


def line(points: Sequence[Point]) -> tuple[Interval, Interval] | None:
    """``(fixed, per_token)`` of a straight line, neither below 0; None with fewer than four points or one place."""
    if len(points) < 4 or len({x for x, _ in points}) < 2:
        return None
    fixed, slope = bootstrap(points, lambda some: _relative(some, 2))
    return fixed, slope


def through_zero(points: Sequence[Point]) -> Interval | None:
    """The slope of a line through the origin: the median of the points' own slopes; None with fewer than four."""
    slopes = [y / x for x, y in points if x > 0]
    if len(slopes) < 4:
        return None
    return bootstrap(slopes, lambda some: [sorted(some)[len(some) // 2]])[0]


def _relative(points: Sequence[Point], terms: int) -> tuple[float, ...]:
    """Least absolute errors relative to what a first fit expects."""
    rows = [(1.0, x, x * x)[:terms] for x, _ in points]
    values = [y for _, y in points]
    first = weighted_nonnegative(rows, values, [1 / max(y, 1e-9) ** 2 for y in values])
    scales = [max(_at(first, x), 1e-6) for x, _ in points]
    scaled = [tuple(cell / scale for cell in row) for row, scale in zip(rows, scales, strict=True)]
    return quantile_curve(scaled, [y / scale for y, scale in zip(values, scales, strict=True)], _MIDDLE)


def _at(coefficients: Sequence[float], x: float) -> float:
    return sum(c * x**power for power, c in enumerate(coefficients))


def _error(points: Sequence[Point], coefficients: Sequence[float]) -> float:
    return sum(abs(y - _at(coefficients, x)) / max(y, 1e-9) for x, y in points)
