"""What a route's window of calls says of its own cost: prefill = a + b x tokens + c x tokens², none of them negative.

A queue only ever adds, so prefill runs along the lower edge of the cloud. Two passes: a low-quantile curve finds that
edge, and the median of the calls that lie near it is the curve itself, free of the quantile's bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from operator import mul
from time import sleep

QUANTILE = 0.1
_STEPS = 10
_CURVED = 0.6
"""A curve must fit by so much better than a line before it is believed."""

_REUSED = 8
"""Calls with cached tokens before their cost is told apart; until then mostly cached calls teach nothing."""

Row = tuple[float, ...]
Columns = list[list[float]]


def quantile_curve(
    rows: Sequence[Row], values: Sequence[float], quantile: float, least: Row | None = None
) -> tuple[float, ...]:
    """Coefficients, none below ``least`` (default 0), of the conditional ``quantile`` of ``values`` given ``rows``.

    Iteratively reweighted least squares on the check loss: each step weighs a point by quantile (above the curve) or
    1 - quantile (below it), over its distance. Gives other threads a turn after each step.

    Source: Koenker and Bassett, Regression Quantiles, Econometrica 46 (1978), for the loss.
    """
    width = len(rows[0])
    least = least or (0.0,) * width
    columns: Columns = [list(column) for column in zip(*rows, strict=True)]
    scales = [max(map(abs, column)) or 1.0 for column in columns]
    columns = [[cell / scale for cell in column] for column, scale in zip(columns, scales, strict=True)]
    rest = list(values)
    for low, scale, column in zip(least, scales, columns, strict=True):
        if low:
            rest = [value - low * scale * cell for value, cell in zip(rest, column, strict=True)]
    weights = [1.0] * len(rows)
    floor = max(1e-9, max(map(abs, rest), default=0.0) * 1e-4)
    above, below = quantile, 1 - quantile
    found: tuple[float, ...] = (0.0,) * width
    for _ in range(_STEPS):
        found = _nonnegative(columns, rest, weights)
        off = rest
        for c, column in zip(found, columns, strict=True):
            if c:
                off = [o - c * x for o, x in zip(off, column, strict=True)]
        weights = [above / (o if o > floor else floor) if o > 0 else below / (-o if o < -floor else floor) for o in off]
        sleep(0)
    return tuple(c / scale + low for c, scale, low in zip(found, scales, least, strict=True))


def _nonnegative(columns: Columns, values: list[float], weights: list[float]) -> tuple[float, ...]:
    """Weighted least squares with coefficients >= 0: with at most four of them, every set of free ones is tried."""
    width = len(columns)
    moments = [[0.0] * width for _ in range(width)]
    products = [0.0] * width
    for i, column in enumerate(columns):
        weighted = list(map(mul, weights, column))
        products[i] = sum(map(mul, weighted, values))
        for j in range(i, width):
            moments[i][j] = moments[j][i] = sum(map(mul, weighted, columns[j]))
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


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Curve:
    """Seconds that a prompt costs on this route, from the moment it is taken up until its first token."""

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
    """Share of the calls that lie above that spread."""
    knows_cached: bool = True
    """There were calls with cached tokens to learn ``per_cached`` from."""

    def cost(self, tokens: float, cached: float = 0.0, beside: float = 0.0) -> float:
        """Seconds for so many uncached and cached tokens, with ``beside`` tokens of others in the same step."""
        return (
            self.fixed
            + self.per_token * (tokens + beside)
            + self.per_square * tokens * tokens
            + self.per_cached * cached
        )


def spread(tokens: Sequence[float]) -> float:
    """90th over 10th percentile."""
    ordered = sorted(tokens)
    return ordered[len(ordered) * 9 // 10] / max(ordered[len(ordered) // 10], 1.0)


def mostly_cached(uncached: float, cached: float) -> bool:
    """Most of the prompt came from the cache."""
    return cached > uncached


def fit(calls: Sequence[tuple[float, float, float, float]], least_per_token: float = 0.0) -> Curve:
    """The curve through the lower edge of ``calls``: (uncached, cached, tokens of others beside, seconds) each.

    ``least_per_token``: s per token below which the hardware cannot go.
    """
    reused = sum(1 for _, cached, _, _ in calls if cached > 0) >= _REUSED
    if not reused:
        calls = [call for call in calls if not mostly_cached(call[0], call[1])] or calls
    values = [seconds for *_, seconds in calls]
    curved, best = _edge(calls, values, True, reused, least_per_token)
    straight, plain = _edge(calls, values, False, reused, least_per_token)
    edge = curved if best < _CURVED * plain else straight
    # The nearer half of the calls did not wait: their median distance is the scatter. What lies within three of it
    # is the cloud along the edge, and its median is the curve.
    off = [seconds / max(edge.cost(u, k, o), 1e-9) - 1 for u, k, o, seconds in calls]
    near = sorted(abs(share) for share in off)
    scatter = max(1.5 * near[len(near) // 4], 0.01)
    inside = [call for call, share in zip(calls, off, strict=True) if -3 * scatter <= share <= 4 * scatter]
    if len(inside) >= 12 and spread([u for u, *_ in inside]) >= 2:
        square = edge.per_square > 0
        rows = [_row(u, k, o, square, reused) for u, k, o, _ in inside]
        middle = quantile_curve(
            rows, [s for *_, s in inside], 0.5, _row(0.0, 0.0, 0.0, square, reused, least_per_token)
        )
        edge = _curve(middle, square, reused)
        off = [seconds / max(edge.cost(u, k, o), 1e-9) - 1 for u, k, o, seconds in calls]
        width = sorted(abs(s / max(edge.cost(u, k, o), 1e-9) - 1) for u, k, o, s in inside)
        scatter = max(1.4826 * width[len(width) // 2], 0.01)
    queued = sum(1 for share in off if share > 3 * scatter) / len(off)
    return Curve(edge.fixed, edge.per_token, edge.per_square, edge.per_cached, scatter, queued, reused)


def _row(u: float, k: float, o: float, square: bool, reused: bool, least: float | None = None) -> Row:
    if least is not None:
        return (0.0, least, *((0.0,) if square else ()), *((0.0,) if reused else ()))
    return (1.0, u + o, *((u * u,) if square else ()), *((k,) if reused else ()))


def _curve(found: tuple[float, ...], square: bool, reused: bool) -> Curve:
    more = list(found[2:])
    return Curve(
        found[0], found[1], more.pop(0) if square else 0.0, more.pop(0) if reused else 0.0, scatter=0.0, queued=0.0
    )


def _edge(
    calls: Sequence[tuple[float, float, float, float]],
    values: Sequence[float],
    square: bool,
    reused: bool,
    least: float,
) -> tuple[Curve, float]:
    rows = [_row(u, k, o, square, reused) for u, k, o, _ in calls]
    found = quantile_curve(rows, values, QUANTILE, _row(0.0, 0.0, 0.0, square, reused, least))
    loss = 0.0
    for row, value in zip(rows, values, strict=True):
        off = value - sum(c * x for c, x in zip(found, row, strict=True))
        loss += QUANTILE * off if off > 0 else (QUANTILE - 1) * off
    return _curve(found, square, reused), loss
