"""The floor of each route: the best overhead, prefill rate and ITL that it has shown, as ``report floor`` has it."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from typing import Final

RANK: Final = 0.05
"""The quantile of a route's calls that is its floor."""
LEAST_CALLS: Final = 20
"""Calls on a route below which its quantiles are no floor."""
LEAST_TOKENS: Final = 64
"""The fewest uncached tokens of a call whose prefill rate counts: with fewer, the fixed cost dominates."""
LEAST_STEPS: Final = 8
"""The fewest steps of a call whose ITL counts."""
_KEPT: Final = 128


class Low:
    """A low quantile of the last values: both their order of arrival and their sorted order are kept."""

    __slots__ = ("_last", "_sorted")

    def __init__(self) -> None:
        self._last: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, value: float) -> None:
        """Take a value; the oldest goes where there are too many."""
        if len(self._last) == _KEPT:
            oldest = self._last.popleft()
            del self._sorted[bisect_left(self._sorted, oldest)]
        self._last.append(value)
        insort(self._sorted, value)

    @property
    def value(self) -> float:
        """The quantile; 0 where there is no value yet."""
        return self._sorted[int(RANK * (len(self._sorted) - 1))] if self._sorted else 0.0


class Floors:
    """What one route has shown. All in seconds."""

    __slots__ = ("_itl", "_overhead", "_rate", "calls")

    def __init__(self) -> None:
        self.calls = 0
        self._overhead: dict[str, Low] = {}
        self._rate = Low()
        self._itl = Low()

    @property
    def known(self) -> bool:
        """There were calls enough."""
        return self.calls >= LEAST_CALLS

    def learn(self, overhead: dict[str, float], filling: float, uncached: int, making: float, steps: int) -> None:
        """Take a completed call: its overhead by phase, its prefill of ``uncached`` tokens, its decode of ``steps``."""
        self.calls += 1
        for name, seconds in overhead.items():
            if seconds > 0:
                self._overhead.setdefault(name, Low()).add(seconds)
        if uncached >= LEAST_TOKENS and filling > 0:
            self._rate.add(filling / uncached)
        if steps >= LEAST_STEPS and making > 0:
            self._itl.add(making / steps)

    def overhead(self, name: str) -> float:
        """The floor of an overhead phase."""
        low = self._overhead.get(name)
        return 0.0 if low is None else low.value

    def prefill(self, uncached: int) -> float:
        """The floor of a prefill of ``uncached`` tokens."""
        return self._rate.value * uncached

    def decode(self, steps: int) -> float:
        """The floor of a decode of ``steps`` tokens after the first."""
        return self._itl.value * steps
