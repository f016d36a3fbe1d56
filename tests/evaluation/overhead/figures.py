"""From samples to figures: paired differences, slopes, medians and their intervals."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tests.evaluation.common.quantiles import median, quantile, quartiles
from tests.evaluation.overhead.rounds import Samples

RESAMPLES = 400


@dataclass(frozen=True)
class Figure:
    """A cost in µs: the estimate, the middle half of the rounds, the 95 % interval of the estimate."""

    value: float
    q1: float
    q3: float
    low: float
    high: float
    rounds: int
    whole: float
    """The subject's own cost that the difference is a part of, the bare client included."""


def cost(samples: Samples, name: str, key: str) -> list[float | None]:
    """CPU time in µs per unit, a round each."""
    return [answer["cpu"] / 1e3 if answer else None for answer in samples.answers.get((name, key), ())]


def over_bare(samples: Samples, name: str, key: str) -> list[float | None]:
    """The subject's cost less that of the same process with the client's own code back in place, a round each."""
    answers = samples.answers.get((name, key), ())
    return [(answer["cpu"] - answer["off"]) / 1e3 if answer else None for answer in answers]


def call(samples: Samples, name: str, key: str, *, alone: bool = False) -> Figure | None:
    """What a call costs over the bare client, or ``alone``."""
    rounds = _rounds(samples, [(cost if alone else over_bare)(samples, name, key)], samples.epochs[key])
    return _figure(rounds, lambda values: values[0], _whole(samples, name, key)) if rounds else None


def slope(samples: Samples, name: str, load: str, sizes: Sequence[int], *, alone: bool = False) -> Figure | None:
    """What a chunk costs over the bare client, or ``alone``: least squares over the medians at each size.

    What the end of a call does for each chunk is in it; what it does once is not.
    """
    keys = [f"{load}-{size}" for size in sizes]
    rounds = _rounds(
        samples, [(cost if alone else over_bare)(samples, name, key) for key in keys], samples.epochs[keys[0]]
    )
    if not rounds:
        return None
    whole = least_squares(sizes, [_whole(samples, name, key) for key in keys])[0]
    return _figure(rounds, lambda values: least_squares(sizes, values)[0], whole)


Rounds = list[tuple[int, list[float]]]
"""Each round: the generation of processes it ran in, and its value for each key."""


def _rounds(samples: Samples, columns: list[list[float | None]], epochs: list[int]) -> Rounds:
    rows = zip(epochs, zip(*columns, strict=False), strict=False)
    return [(epoch, [v for v in row if v is not None]) for epoch, row in rows if None not in row]


def least_squares(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """Slope and intercept of the line through the points."""
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    rise = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread
    return rise, mean_y - rise * mean_x


def _whole(samples: Samples, name: str, key: str) -> float:
    return median([value for value in cost(samples, name, key) if value is not None])


def _figure(rounds: Rounds, of: Callable[[list[float]], float], whole: float) -> Figure:
    """``of`` the medians of all rounds, with its spread over the rounds and its interval by resampling."""

    def estimate(some: Rounds) -> float:
        return of([median(column) for column in zip(*(row for _, row in some), strict=True)])

    each = [of(row) for _, row in rounds]
    again = [estimate(some) for some in _resampled(rounds)]
    low, high = quantile(again, 0.025), quantile(again, 0.975)
    return Figure(estimate(rounds), *quartiles(each), low, high, len(each), whole)


def _resampled(rounds: Rounds) -> Iterator[Rounds]:
    """Draws generations of processes, and rounds within each: rounds of one process err together."""
    groups = [[each for each in rounds if each[0] == epoch] for epoch in sorted({epoch for epoch, _ in rounds})]
    chance = random.Random(0)
    for _ in range(RESAMPLES):
        drawn = chance.choices(groups, k=len(groups))
        yield [each for group in drawn for each in chance.choices(group, k=len(group))]
