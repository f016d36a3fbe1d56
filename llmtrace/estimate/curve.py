"""What a call costs by itself: a sum of terms, none of them negative, and the least squares that find it.

A queue only ever adds, so the cost runs along the lower edge of the cloud of calls: a low-quantile curve finds it where
nothing is known yet (``estimate/expectation.py`` goes on from there).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from itertools import combinations
from operator import mul

from llmtrace.fixed import fixed

_STEPS = 10
REUSED = 4
"""Calls with cached tokens before their cost is told apart."""
_TRIED = 4
"""Of up to so many coefficients every set is tried: 15 small systems."""

Row = tuple[float, ...]
Columns = list[list[float]]


def nothing() -> None:
    """Where no other thread waits."""


def quantile_curve(
    rows: Sequence[Row],
    values: Sequence[float],
    quantile: float,
    least: Row | None = None,
    breathe: Callable[[], object] = nothing,
) -> tuple[float, ...]:
    """Coefficients, none below ``least`` (default 0), of the conditional ``quantile`` of ``values`` given ``rows``.

    Iteratively reweighted least squares on the check loss: each step weighs a point by quantile (above the curve) or
    1 - quantile (below it), over its distance. ``breathe`` is called after each step.

    Source: Koenker and Bassett, Regression Quantiles, Econometrica 46 (1978), for the loss.
    """
    width = len(rows[0])
    least = least or (0.0,) * width
    columns, scales, rest = _scaled(rows, values, least)
    weights = [1.0] * len(rows)
    floor = max(1e-9, max(map(abs, rest), default=0.0) * 1e-4)
    above, below = quantile, 1 - quantile
    coefficients: tuple[float, ...] = (0.0,) * width
    for _ in range(_STEPS):
        coefficients = _nonnegative(columns, rest, weights)
        off = rest
        for c, column in zip(coefficients, columns, strict=True):
            if c:
                off = [o - c * x for o, x in zip(off, column, strict=True)]
        weights = [above / (o if o > floor else floor) if o > 0 else below / (-o if o < -floor else floor) for o in off]
        breathe()
    return tuple(c / scale + low for c, scale, low in zip(coefficients, scales, least, strict=True))


def weighted_nonnegative(
    rows: Sequence[Row], values: Sequence[float], weights: Sequence[float], least: Row | None = None
) -> tuple[float, ...]:
    """Weighted least squares whose coefficients are none of them below ``least`` (default 0)."""
    width = len(rows[0])
    least = least or (0.0,) * width
    columns, scales, rest = _scaled(rows, values, least)
    coefficients = _nonnegative(columns, rest, list(weights))
    return tuple(c / scale + low for c, scale, low in zip(coefficients, scales, least, strict=True))


def _scaled(rows: Sequence[Row], values: Sequence[float], least: Row) -> tuple[Columns, list[float], list[float]]:
    """The rows' columns, each by its largest cell; those cells; and what ``values`` have beyond the ``least``."""
    columns: Columns = [list(column) for column in zip(*rows, strict=True)]
    scales = [max(map(abs, column)) or 1.0 for column in columns]
    columns = [[cell / scale for cell in column] for column, scale in zip(columns, scales, strict=True)]
    rest = list(values)
    for low, scale, column in zip(least, scales, columns, strict=True):
        if low:
            rest = [value - low * scale * cell for value, cell in zip(rest, column, strict=True)]
    return columns, scales, rest


def covariance(rows: Sequence[Row], weights: Sequence[float], coefficients: Sequence[float]) -> array[float]:
    """How sure a fit's coefficients are: their covariance, row by row, where each of ``weights`` is one over the
    variance of its value. Of coefficients that were held at their bound it is 0: they were not fitted."""
    width = len(coefficients)
    free = [i for i in range(width) if coefficients[i] > 0]
    columns = [[row[i] for row in rows] for i in free]
    scales = [max(map(abs, column)) or 1.0 for column in columns]
    columns = [[cell / scale for cell in column] for column, scale in zip(columns, scales, strict=True)]
    moments = [[sum(map(mul, map(mul, weights, one), other)) for other in columns] for one in columns]
    for i in range(len(free)):
        moments[i][i] *= 1 + 1e-9
    whole = [0.0] * (width * width)
    for j, at in enumerate(free):
        solved = _solve(moments, [1.0 if i == j else 0.0 for i in range(len(free))])
        if solved is None:
            continue
        for i, cell in zip(free, solved, strict=True):
            whole[i * width + at] = cell / scales[free.index(i)] / scales[j]
    return array("d", whole)


def _nonnegative(columns: Columns, values: list[float], weights: list[float]) -> tuple[float, ...]:
    """Weighted least squares with coefficients >= 0.

    Of up to four of them every set of free ones is tried; of more, the most negative one is held at zero until none is
    left: not always the very best set, but one whose gradient points out of the allowed ones.
    """
    width = len(columns)
    moments = [[0.0] * width for _ in range(width)]
    products = [0.0] * width
    for i, column in enumerate(columns):
        weighted = list(map(mul, weights, column))
        products[i] = sum(map(mul, weighted, values))
        for j in range(i, width):
            moments[i][j] = moments[j][i] = sum(map(mul, weighted, columns[j]))
    if width > _TRIED:
        return _active_set(moments, products)
    best, best_gain = (0.0,) * width, 0.0
    for size in range(width, 0, -1):
        for free in combinations(range(width), size):
            solved = _solve([[moments[i][j] for j in free] for i in free], [products[i] for i in free])
            if solved is None or min(solved) < 0:
                continue
            gain = sum(c * products[i] for c, i in zip(solved, free, strict=True))
            if gain > best_gain:
                full = [0.0] * width
                for c, i in zip(solved, free, strict=True):
                    full[i] = c
                best, best_gain = tuple(full), gain
        if best_gain > 0 and size == width:
            break  # the unconstrained optimum is feasible
    return best


def _active_set(moments: list[list[float]], products: list[float]) -> tuple[float, ...]:
    width = len(products)
    free = [i for i in range(width) if moments[i][i] > 0]
    while free:
        solved = _solve([[moments[i][j] for j in free] for i in free], [products[i] for i in free])
        if solved is None:
            free.pop()
            continue
        worst = min(range(len(free)), key=solved.__getitem__)
        if solved[worst] >= 0:
            full = [0.0] * width
            for c, i in zip(solved, free, strict=True):
                full[i] = c
            return tuple(full)
        free.pop(worst)
    return (0.0,) * width


def _solve(matrix: list[list[float]], right: list[float]) -> list[float] | None:
    """Gaussian elimination; None where the matrix is singular."""
    size = len(right)
    rows = [[*line, value] for line, value in zip(matrix, right, strict=True)]
    for i in range(size):
        pivot = max(range(i, size), key=lambda r: abs(rows[r][i]))
        if abs(rows[pivot][i]) <= 1e-12 * max(1e-300, abs(matrix[i][i])):
            return None
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for r in range(i + 1, size):
            factor = rows[r][i] / rows[i][i]
            for c in range(i, size + 1):
                rows[r][c] -= factor * rows[i][c]
    solved = [0.0] * size
    for i in range(size - 1, -1, -1):
        solved[i] = (rows[i][size] - sum(rows[i][j] * solved[j] for j in range(i + 1, size))) / rows[i][i]
    return solved


TERMS = 8
"""Of a curve: fixed, per uncached token, per its square, per cached token, per image or the like; then of the answer:
per output token, per output token and other call in flight, per token that others had computed meanwhile."""
CACHED, ANSWER = 3, 5
"""Which term is the cached tokens', and the first of the answer's."""


def terms(tokens: float, cached: float, beside: float = 0.0, media: float = 0.0) -> tuple[float, ...]:
    """What a prompt's work is made of, term by term: see ``Curve.cost``."""
    return (1.0, tokens + beside, tokens * tokens, cached, media)


def answer_terms(output: float, shared: float, joined: float) -> tuple[float, ...]:
    """The same of an answer alone: ``output`` tokens after the first, with so many other calls in flight, while
    ``joined`` tokens of others' prompts were computed."""
    return (output, output * shared, joined)


@fixed()
class Curve:
    """Seconds that a prompt costs on this route, from the moment it is taken up until its first token, and its answer
    after that."""

    fixed: float
    """s, whatever the prompt."""
    per_token: float
    """s per uncached token."""
    per_square: float
    """s per squared uncached token (attention)."""
    per_cached: float
    """s per cached token: finding, copying and attending to it."""
    scatter: float
    """Spread of the calls that did not wait, as a share of the curve (one standard deviation)."""
    queued: float
    """Share of the calls that waited, or were slow."""
    knows_cached: bool = True
    """There were calls with cached tokens to learn ``per_cached`` from."""
    per_media: float = 0.0
    """s per image, or the like."""
    per_output: float = 0.0
    """s per output token after the first, alone."""
    per_shared: float = 0.0
    """s per such token and other call that was in flight meanwhile."""
    per_joined: float = 0.0
    """s per uncached token of a call that began meanwhile."""
    knows_answers: bool = False
    """There were calls to learn the last three from."""

    @classmethod
    def of(
        cls, coefficients: Sequence[float], scatter: float, queued: float, knows_cached: bool, knows_answers: bool
    ) -> Curve:
        """The curve with these coefficients, as many as it has terms."""
        fixed, token, square, cached, media, output, shared, joined = coefficients
        return cls(
            fixed, token, square, cached, scatter, queued, knows_cached, media, output, shared, joined, knows_answers
        )

    def coefficients(self) -> tuple[float, ...]:
        """One for each term."""
        return (
            self.fixed, self.per_token, self.per_square, self.per_cached, self.per_media,
            self.per_output, self.per_shared, self.per_joined,
        )  # fmt: skip

    def cost(self, tokens: float, cached: float = 0.0, beside: float = 0.0, media: float = 0.0) -> float:
        """Seconds for so many uncached and cached tokens, with ``beside`` tokens of others in the same step."""
        return (
            self.fixed
            + self.per_token * (tokens + beside)
            + self.per_square * tokens * tokens
            + self.per_cached * cached
            + self.per_media * media
        )

    def answer(self, output: float, shared: float, joined: float) -> float:
        """Seconds of an answer: see ``answer_terms``."""
        return output * (self.per_output + self.per_shared * shared) + self.per_joined * joined


def spread(tokens: Sequence[float]) -> float:
    """90th over 10th percentile."""
    ordered = sorted(tokens)
    return ordered[len(ordered) * 9 // 10] / max(ordered[len(ordered) // 10], 1.0)
