"""How sure the differences between two sets of calls are, all of them together, by the traces that the calls are in.

Calls of one trace resemble each other, so whole traces are drawn and never single calls. Two things are asked. How
large may a change be: the traces of each set are drawn anew with replacement, and the interval is the middle 95 % of
what comes of it (bootstrap). Could chance alone have made it: the traces of both sets are dealt out again at random,
and a change is sure only if fewer than 5 % of the deals hold any change as surprising as it, in whichever row (a
permutation test, corrected for the number of rows step by step as Westfall and Young do), and its interval leaves zero
out.

Of sets of more than ``MOST`` traces a random part is drawn from; deviations are narrowed by the square root of the
share that was used, as the spread of means and quantiles scales.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

ROUNDS: Final = 400
"""Draws for an interval."""
DEALS: Final = 1000
"""Deals for the question whether chance would do."""
MOST: Final = 4000
LEVEL: Final = 0.95
BEYOND: Final = 3
"""The fewest calls beyond a percentile, on either side, for an interval of it: 300 calls for the 99th."""
_BLOCK: Final = 4_000_000
_ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Difference:
    """A statistic before and after, and the 95 % interval of its change (NaN where there is too little)."""

    before: float
    after: float
    low: float = float("nan")
    high: float = float("nan")
    sure: bool = False
    """Whether the interval leaves zero out and chance among all rows does not explain the change."""

    @property
    def change(self) -> float:
        """The statistic after, minus the statistic before."""
        return self.after - self.before

    @property
    def judged(self) -> bool:
        """Whether there was enough for an interval."""
        return self.low == self.low


@dataclass(frozen=True, slots=True)
class Side:
    """The calls of one set: columns of floats (NaN: no value), and the number of each call's trace, from 0."""

    columns: dict[str, Any]
    traces: Any
    by_trace: dict[str, Any] = field(default_factory=dict[str, Any])
    """Columns with a value for each trace, in the order of their numbers."""

    @property
    def trace_count(self) -> int:
        """The number of traces."""
        return int(self.traces.max()) + 1 if len(self.traces) else 0

    def column(self, name: str) -> tuple[Any, Any]:
        """The values of a column, and the number of each one's trace."""
        if name in self.columns:
            return self.columns[name], self.traces
        return self.by_trace[name], np.arange(self.trace_count)

    def part(self, kept: Any) -> Side:
        """The calls of the traces numbered ``kept``, which are numbered anew."""
        numbers = np.full(self.trace_count, -1)
        numbers[kept] = np.arange(len(kept))
        within = numbers[self.traces] >= 0
        return Side(
            {name: values[within] for name, values in self.columns.items()},
            numbers[self.traces][within],
            {name: values[kept] for name, values in self.by_trace.items()},
        )


@dataclass(frozen=True, slots=True)
class Row:
    """What is compared: the mean of a column, or its quantile at ``rank`` (0 to 1)."""

    column: str
    rank: float | None = None

    def enough(self, side: Side) -> bool:
        """Whether a side has values enough for an interval."""
        count = int(np.isfinite(side.column(self.column)[0]).sum())
        return side.trace_count >= 2 and count >= (2 if self.rank is None else BEYOND / (1 - self.rank) - _ROUNDING)

    def value(self, side: Side) -> float:
        """The statistic itself; NaN where there is no value."""
        values, _ = side.column(self.column)
        values = values[np.isfinite(values)]
        if not len(values):
            return float("nan")
        return float(np.mean(values) if self.rank is None else np.quantile(values, self.rank))


def between(before: Side, after: Side, rows: Sequence[Row], seed: int = 0) -> list[Difference]:
    """The difference of each row, judged together."""
    random = np.random.default_rng(seed)
    values = [(row.value(before), row.value(after)) for row in rows]
    judged = [place for place, row in enumerate(rows) if row.enough(before) and row.enough(after)]
    differences = [Difference(*pair) for pair in values]
    if not judged:
        return differences
    asked = [rows[place] for place in judged]
    changes = np.array([values[place][1] - values[place][0] for place in judged])
    sizes = np.abs([values[place] for place in judged]).max(axis=1)
    parts = [_part(side, random) for side in (before, after)]
    spreads = [
        _drawn(part, asked, random) * (part.trace_count / whole.trace_count) ** 0.5
        for part, whole in zip(parts, (before, after), strict=True)
    ]
    ends = np.nanquantile(changes + spreads[1] - spreads[0], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    narrower = (
        (1 / before.trace_count + 1 / after.trace_count) / (1 / parts[0].trace_count + 1 / parts[1].trace_count)
    ) ** 0.5
    chances = _chances(changes, _dealt(parts[0], parts[1], asked, random) * narrower, sizes)
    for place, low, high, chance in zip(judged, ends[0], ends[1], chances, strict=True):
        old, new = values[place]
        sure = bool((low > 0 or high < 0) and chance <= 1 - LEVEL)
        differences[place] = Difference(old, new, float(low), float(high), sure)
    return differences


def _part(side: Side, random: Any) -> Side:
    if side.trace_count <= MOST:
        return side
    return side.part(np.sort(random.choice(side.trace_count, MOST, replace=False)))


def _drawn(side: Side, rows: Sequence[Row], random: Any) -> Any:
    """Deviations of each row's statistic (columns) where the side's traces are drawn anew, one line a round."""
    count = side.trace_count
    results = [
        _statistics(side, rows, random.multinomial(count, np.full(count, 1 / count), size=rounds))
        for rounds in _blocks(ROUNDS, len(side.traces))
    ]
    return np.concatenate(results) - _statistics(side, rows, np.ones((1, count)))


def _dealt(before: Side, after: Side, rows: Sequence[Row], random: Any) -> Any:
    """Changes of each row's statistic (columns) where the traces of both sides are dealt out anew, one line a deal."""
    first = before.trace_count
    joined = {row.column: np.concatenate([side.column(row.column)[0] for side in (before, after)]) for row in rows}
    both = Side(
        {name: values for name, values in joined.items() if name in before.columns},
        np.concatenate([before.traces, after.traces + first]),
        {name: values for name, values in joined.items() if name in before.by_trace},
    )
    results: list[Any] = []
    for deals in _blocks(DEALS, len(both.traces)):
        order = random.permuted(np.tile(np.arange(both.trace_count), (deals, 1)), axis=1)
        is_before = (order < first).astype(np.int64)
        results.append(_statistics(both, rows, 1 - is_before) - _statistics(both, rows, is_before))
    return np.concatenate(results)


def _blocks(rounds: int, width: int) -> Iterator[int]:
    step = max(1, _BLOCK // max(1, width))
    for start in range(0, rounds, step):
        yield min(step, rounds - start)


def _statistics(side: Side, rows: Sequence[Row], weights: Any) -> Any:
    """Each row's statistic (columns) where each trace counts as often as ``weights`` says, a line for each of its."""
    result = np.full((len(weights), len(rows)), np.nan)
    by_column: dict[str, list[int]] = {}
    means: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        (means if row.rank is None else by_column).setdefault(row.column, []).append(place)
    if means:
        sums = np.empty((side.trace_count, len(means)))
        counts = np.empty_like(sums)
        for column, name in enumerate(means):
            values, traces = _known(side, name)
            sums[:, column] = np.bincount(traces, values, side.trace_count)
            counts[:, column] = np.bincount(traces, minlength=side.trace_count)
        times = weights.astype(float)  # so that one product of matrices does for all rows
        with np.errstate(invalid="ignore", divide="ignore"):
            averages = (times @ sums) / (times @ counts)
        for column, places in enumerate(means.values()):
            result[:, places] = averages[:, column : column + 1]
    for column, places in by_column.items():
        values, traces = _known(side, column)
        order = np.argsort(values, kind="stable")
        reached = np.cumsum(weights[:, traces[order]], axis=1)
        for place in places:
            wanted = np.maximum(rows[place].rank * reached[:, -1:], 1)
            at = np.minimum((reached < wanted).sum(axis=1), len(order) - 1)
            result[:, place] = values[order][at]
    return result


def _known(side: Side, column: str) -> tuple[Any, Any]:
    """The values of a column that are known, and the number of each one's trace."""
    values, traces = side.column(column)
    known = np.isfinite(values)
    return values[known], traces[known]


def _chances(changes: Any, dealt: Any, sizes: Any) -> Any:
    """For each row the chance that dealing alone makes some change as surprising as its, among all rows.

    ``sizes``: of the values themselves, beside which rounding is no change.
    """
    dealt = np.where(np.isfinite(dealt), dealt, 0.0)
    spread = dealt.std(axis=0)
    moves = spread > _ROUNDING * sizes
    scale = np.where(moves, spread, 1.0)
    surprise = np.where(moves, np.abs(changes) / scale, 0.0)
    surprises = np.where(moves, np.abs(dealt) / scale, 0.0)
    chances = np.ones(len(changes))
    least = 0.0
    order = np.argsort(-surprise)
    for place, row in enumerate(order):
        most = surprises[:, order[place:]].max(axis=1)
        chance = (1 + int((most >= surprise[row] * (1 - _ROUNDING)).sum())) / (1 + len(most))
        least = max(least, chance)
        chances[row] = least
    return chances
