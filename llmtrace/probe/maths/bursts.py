"""Many calls at once: how many an engine runs, and in which order it takes up those that wait."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

_HELD = 0.15
"""A level counts that was held for this share of the time in which somebody waited; a blip of the client's does not."""
_SHUFFLES = 2000
_LEAST_WAITING = 4


@dataclass(frozen=True, slots=True)
class Stream:
    """One of the calls: moments in s on one clock."""

    sent: float
    first: float
    end: float
    """Its last token."""


def level(streams: Sequence[Stream]) -> int | None:
    """How many ran while others waited for an end; None where all had begun before the first one ended."""
    first_end = min(stream.end for stream in streams)
    waiting = [stream for stream in streams if stream.first > first_end]
    if not waiting:
        return None
    last_first = max(stream.first for stream in waiting)
    started = max(stream.first for stream in streams if stream.first <= first_end)
    moments = sorted({each for stream in streams for each in (stream.first, stream.end) if started <= each})
    held: dict[int, float] = {}
    for begin, end in pairwise(moments):
        if end > last_first:
            break
        running = sum(stream.first <= begin < stream.end for stream in streams)
        held[running] = held.get(running, 0.0) + end - begin
    whole = sum(held.values())
    levels = [running for running, seconds in held.items() if seconds >= _HELD * whole]
    before = sum(stream.first <= first_end for stream in streams)
    return max(levels, default=before)


def discipline(streams: Sequence[Stream]) -> tuple[str, float] | None:
    """``fifo``, ``lifo`` or ``none``, and Kendall's tau of the order in which those that waited were sent and taken up.

    None where fewer than four waited. An order is named where chance makes such a tau once in twenty times.
    """
    first_end = min(stream.end for stream in streams)
    waiting = sorted((stream for stream in streams if stream.first > first_end), key=lambda stream: stream.sent)
    if len(waiting) < _LEAST_WAITING:
        return None
    firsts = [stream.first for stream in waiting]
    tau = _tau(firsts)
    chance = random.Random(len(firsts))
    shuffled = list(firsts)
    as_far = 0
    for _ in range(_SHUFFLES):
        chance.shuffle(shuffled)
        as_far += abs(_tau(shuffled)) >= abs(tau)
    if (as_far + 1) / (_SHUFFLES + 1) > 0.05:
        return "none", tau
    return ("fifo" if tau > 0 else "lifo"), tau


def _tau(values: Sequence[float]) -> float:
    pairs = list(combinations(values, 2))
    return sum((later > earlier) - (later < earlier) for earlier, later in pairs) / len(pairs)
