"""One clock for every span time: monotonic, mapped to the epoch once per process.

Wall clocks jump; two readings of one cannot be subtracted. All times in llmtrace are monotonic nanoseconds, and
become epoch nanoseconds only when a span is written, through one anchor taken at import.
"""

from __future__ import annotations

from time import perf_counter_ns as now
from time import time_ns

__all__ = ["now", "to_epoch"]


def _anchor(tries: int = 16) -> int:
    """Epoch minus monotonic, ns: the wall clock read between two monotonic reads; the tightest pair wins."""
    best_width, best = 1 << 62, 0
    for _ in range(tries):
        before = now()
        wall = time_ns()
        after = now()
        if after - before < best_width:
            best_width, best = after - before, wall - (before + after) // 2
    return best


_OFFSET = _anchor() // 1000 * 1000


def to_epoch(monotonic_ns: int) -> int:
    """Epoch nanoseconds of a monotonic reading of this process."""
    return monotonic_ns + _OFFSET
