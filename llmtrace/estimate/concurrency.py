"""A route's own traffic around one call: what the client knows of the server's load without being told.

Every first token and every end of the client's other calls is a moment at which the engine finished a step or freed a
slot. They say when a call's own prefill can have begun far better than any average does.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

RING = 48
"""Result calls remembered per route: four numbers each."""
_MOST = 2**63 - 1
"""What a cell holds at most: a provider may claim any count."""
_NEVER = -1
_OPEN_SCANNED = 128
"""Open calls looked at: more than that run beside a call on one route only in load tests."""


class Watched(Protocol):
    """A call that goes on: what is known of it by now. Monotonic ns."""

    first_token: int | None


class InFlight:
    """One call on its way, as the others of its route see it. Times are monotonic ns."""

    __slots__ = ("call", "size", "start")

    def __init__(self, call: Watched, start: int, size: int = 0) -> None:
        self.call = call
        self.start = start
        self.size = size
        """Characters of its prompt, 0 where that is not known."""


class Ring:
    """The last ended calls of a route, newest first when read."""

    __slots__ = ("_cells", "_next", "_used")

    def __init__(self) -> None:
        self._cells = array("q", bytes(8 * 4 * RING))
        self._next = 0
        self._used = 0

    def add(self, start: int, first: int | None, end: int, tokens: int) -> None:
        """Take in an ended call: its times in ns, and its uncached prompt tokens."""
        at = self._next * 4
        cells = self._cells
        cells[at], cells[at + 1], cells[at + 2] = start, _NEVER if first is None else first, end
        cells[at + 3] = min(tokens, _MOST)
        self._next = (self._next + 1) % RING
        self._used = min(self._used + 1, RING)

    def since(self, moment: int) -> tuple[list[tuple[int, int, int, int]], bool]:
        """Calls that ended after ``moment``: (start, first or -1, end, tokens); and whether none can be missing."""
        found: list[tuple[int, int, int, int]] = []
        cells, base = self._cells, self._next * 4
        for _ in range(self._used):
            base = (base or 4 * RING) - 4
            if cells[base + 2] <= moment:
                return found, True
            found.append((cells[base], cells[base + 1], cells[base + 2], cells[base + 3]))
        return found, self._used < RING


@dataclass(slots=True, eq=False, repr=False)
class Concurrency:
    """What else went on between a call's readiness and its first token. Times are monotonic ns."""

    ahead: int
    """Calls that had started before it and were not over when it was ready."""
    ends: list[int]
    """When those ended, as far as they did before its first token; in order."""
    firsts: list[int]
    """First tokens of others between its readiness and its own step; in order."""
    decoding: int
    """Calls that were past their first token when it was ready, and not over."""
    beside: int
    """Uncached tokens of calls whose first token came in the same step."""
    whole: bool
    """Nothing of it can have been forgotten."""


def concurrency(
    ring: Ring,
    all_in_flight: Iterable[InFlight],
    me: InFlight | None,
    start: int,
    ready: int,
    first: int,
    step: int,
    tokens_per_char: float,
) -> Concurrency:
    """Look around one call.

    ``step`` (ns): first tokens no further apart than this came in the same step of the engine. A client reads them one
    after the other, so it is the distance to the next one that counts, not that to the call's own.
    """
    ended, whole = ring.since(ready)
    late = first + step
    ends: list[int] = []
    others: list[tuple[int, int]] = []  # first tokens beside, and their uncached prompt tokens
    ahead = decoding = beside = 0
    for began, token, end, tokens in ended:
        if began >= first:
            continue
        if began < start:
            ahead += 1
            if end < first:
                ends.append(end)
        if token == _NEVER:
            continue
        if token <= ready:
            decoding += 1
        elif token <= late:
            others.append((token, tokens))
    for count, other in enumerate(all_in_flight):
        if count >= _OPEN_SCANNED:
            whole = False
            break
        if other is me or other.start >= first:
            continue
        if other.start < start:
            ahead += 1
        came = other.call.first_token
        if came is None or came > late:
            continue
        if came <= ready:
            decoding += 1
        else:
            others.append((came, int(other.size * tokens_per_char)))
    ends.sort()
    if others:
        others.sort()
        edge = first
        while others and edge - others[-1][0] <= step:
            came, tokens = others.pop()
            edge = min(edge, came)
            beside += tokens
    return Concurrency(ahead, ends, [came for came, _ in others], decoding, beside, whole)
