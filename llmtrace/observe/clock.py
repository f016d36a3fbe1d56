"""One clock for every time within a call: monotonic, mapped to the epoch once per call.

Wall clocks jump; two readings of one cannot be subtracted. So all times in llmtrace are monotonic nanoseconds, and they
become epoch nanoseconds only when a span is written. Each call takes an offset of its own for that, as it begins: after
a sleep or a step of the wall clock the next call stands beside the spans that the SDK times, and a step within a call
leaves its phases intact.
"""

from __future__ import annotations

from time import perf_counter_ns as now
from time import time_ns

__all__ = ["epoch_offset", "now"]

_WIDE_NS = 20_000
"""A reading of the wall clock between two monotonic ones further apart than this was interrupted."""
_TRIES = 4


def epoch_offset() -> int:
    """Epoch time minus monotonic time as of now, in nanoseconds, rounded down to whole microseconds.

    It is in whole microseconds so that a monotonic time and the epoch time made of it have the same part below a
    microsecond (``llmtrace.phases.stagger`` chooses that part).
    """
    before, wall, after = now(), time_ns(), now()
    if after - before > _WIDE_NS:
        readings = [(before, wall, after), *((now(), time_ns(), now()) for _ in range(_TRIES - 1))]
        before, wall, after = min(readings, key=lambda reading: reading[2] - reading[0])
    offset = wall - (before + after) // 2
    return offset - offset % 1000
