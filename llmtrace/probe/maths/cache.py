"""The prefix cache: its block, the shortest prefix that it keeps, and how long."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_SMALLEST_RUN = 3
"""Cached counts of different size that a block is concluded from."""


@dataclass(frozen=True, slots=True)
class Reuse:
    """A prompt whose beginning had been sent before."""

    shared: int
    """Its tokens that had been sent before, as reckoned."""
    cached: int
    """Its tokens that came from the cache, as the provider counts them."""


def block(reuses: Sequence[Reuse]) -> int | None:
    """The step in which cached tokens are counted; 1 where there is none, None with too few different counts."""
    counts = sorted({reuse.cached for reuse in reuses if reuse.cached > 0})
    if len(counts) < _SMALLEST_RUN:
        return None
    return math.gcd(*counts)


def minimum(reuses: Sequence[Reuse], slack: float = 0.03) -> tuple[int, int] | None:
    """Between which lengths the shortest prefix lies that the cache keeps, in tokens; None where nothing was kept.

    The upper end is the smallest count seen. The lower end is the longest prefix below it that was not kept; a miss
    above it was an eviction. ``slack``: by how much reckoned tokens may be off.
    """
    counts = [reuse.cached for reuse in reuses if reuse.cached > 0]
    if not counts:
        return None
    smallest = min(counts)
    missed = [int(reuse.shared * (1 - slack)) for reuse in reuses if not reuse.cached]
    below = [shared for shared in missed if shared < smallest]
    return max(below, default=0), smallest


@dataclass(frozen=True, slots=True)
class Idle:
    """A prompt that was sent again after ``seconds`` in which nobody had used it."""

    seconds: float
    hit: bool


def life(idles: Sequence[Idle]) -> tuple[float, float]:
    """Between which idle times, s, cached prefixes go: (longest that was kept, shortest that was not; infinity).

    Where a short one was lost and longer ones were kept, the edge is put where the fewest contradict it, and of equal
    ones at the longest: a prefix may be lost early, and is never found after its time.
    """
    edges = [0.0, *sorted({idle.seconds for idle in idles})]

    def against(edge: float) -> int:
        return sum(idle.hit != (idle.seconds <= edge) for idle in idles)

    edge = min(edges, key=lambda each: (against(each), -each))
    later = [idle.seconds for idle in idles if idle.seconds > edge]
    return edge, min(later, default=math.inf)


def between(low: float, high: float, count: int) -> list[float]:
    """So many idle times that cut ``low`` to ``high`` into equal parts: with one, the interval is halved."""
    return [low + (high - low) * (i + 1) / (count + 1) for i in range(count)]
