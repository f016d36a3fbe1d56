"""How sure a difference between two sets of calls is: bootstrap intervals.

Each set is resampled with replacement and the statistic's difference taken; the interval is the middle 95 % of those.
Of sets of more than ``MOST`` values a random part is resampled, and the interval is narrowed by the square root of the
share that was used, as the spread of means and quantiles scales.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

ROUNDS: Final = 400
MOST: Final = 4000
LEVEL: Final = 0.95


@dataclass(frozen=True, slots=True)
class Difference:
    """A statistic before and after, and the 95 % interval of its change (NaN where there is too little)."""

    before: float
    after: float
    low: float
    high: float

    @property
    def change(self) -> float:
        """The statistic after, minus the statistic before."""
        return self.after - self.before

    @property
    def sure(self) -> bool:
        """Whether the interval does not contain zero."""
        return bool(self.low > 0 or self.high < 0)


def between(before: Any, after: Any, statistic: Callable[[Any], Any], seed: int = 0) -> Difference:
    """``statistic`` (of an array's last axis) of both sets, and how sure its change is. NaN values are left out."""
    # In order, so that the same calls give the same interval, however an engine hands them out.
    before, after = (np.sort(values[np.isfinite(values)]) for values in (before, after))
    if len(before) == 0 or len(after) == 0:
        nan = float("nan")
        return Difference(
            float(statistic(before)) if len(before) else nan, float(statistic(after)) if len(after) else nan, nan, nan
        )
    value = (float(statistic(before)), float(statistic(after)))
    if len(before) < 2 or len(after) < 2:
        return Difference(*value, float("nan"), float("nan"))
    random = np.random.default_rng(seed)
    spreads = [_spread(values, statistic, random) for values in (before, after)]
    resampled_changes = (value[1] - value[0]) + (spreads[1] - spreads[0])
    low, high = np.quantile(resampled_changes, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Difference(*value, float(low), float(high))


def _spread(values: Any, statistic: Callable[[Any], Any], random: Any) -> Any:
    """The deviations of the resampled statistic from its value, one number per round."""
    used = values
    if len(values) > MOST:
        used = random.choice(values, MOST, replace=False)
    narrower = (len(used) / len(values)) ** 0.5
    resampled = np.empty(ROUNDS)
    step = max(1, 2_000_000 // len(used))
    for start in range(0, ROUNDS, step):
        count = min(step, ROUNDS - start)
        resampled[start : start + count] = statistic(used[random.integers(0, len(used), (count, len(used)))])
    return (resampled - statistic(used)) * narrower


def mean(values: Any) -> Any:
    """The mean over the last axis."""
    return np.mean(values, axis=-1)


def quantile(rank: float) -> Callable[[Any], Any]:
    """A statistic: the quantile at ``rank`` (0 to 1) over the last axis."""
    return lambda values: np.quantile(values, rank, axis=-1)
