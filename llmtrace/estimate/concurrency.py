"""A route's own traffic around one call: what the client knows of the server's load without being told.

Every first token and every end of the client's other calls is a moment at which the engine finished a step or freed a
slot. They say when a call's own prefill can have begun far better than any average does.

First tokens and ends are kept in order of time, so that a look around a call takes as long with a thousand calls on
their way as with ten: counts come from where a moment lies in that order.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import deque

KEPT = 48
"""First tokens and ends remembered of each route, at least; twice as many at most."""
_MOST = 2**63 - 1
"""What a cell holds at most: a provider may claim any count."""


class InFlight:
    """One call on its way, as the others of its route see it. Times are monotonic ns."""

    __slots__ = ("arrived", "first", "number", "size", "start")

    def __init__(self, start: int, size: int, number: int, arrived: deque[InFlight]) -> None:
        self.start = start
        self.size = size
        """Characters of its prompt, 0 where that is not known."""
        self.number = number
        """Calls of the route that began before it."""
        self.first: int | None = None
        self.arrived = arrived
        """Where its route looks for first tokens that came."""

    def first_token_came(self, at: int) -> None:
        """Its first token came at ``at``. Takes no lock: called where the application reads its stream."""
        if self.first is None:
            self.first = at
            self.arrived.append(self)


class Concurrency:
    """What else went on between a call's readiness and its first token. Times are monotonic ns.

    To be used before its route learns of anything else.
    """

    __slots__ = ("_ends", "_window", "ahead", "beside", "decoding", "firsts", "whole")

    def __init__(
        self,
        ahead: int,
        decoding: int,
        beside: int,
        firsts: array[int],
        whole: bool,
        window: tuple[array[int], array[int], int] | None = None,
    ) -> None:
        self.ahead = ahead
        """Calls that had started before it and were not over when it was ready."""
        self.decoding = decoding
        """Calls that were past their first token when it was ready, and not over."""
        self.beside = beside
        """Uncached tokens of calls whose first token came in the same step."""
        self.firsts = firsts
        """First tokens of others between its readiness and its own step; in order."""
        self.whole = whole
        """Nothing of it can have been forgotten."""
        self._window = window
        self._ends: list[int] | None = None

    @property
    def ends(self) -> list[int]:
        """When those that had started before it ended, as far as they did before its first token; in order."""
        if self._ends is None:
            ends, starts, start = self._window or (array("q"), array("q"), 0)
            self._ends = [end for end, began in zip(ends, starts, strict=True) if began < start]
        return self._ends


class Traffic:
    """The calls of one route, on their way and ended. Not safe to change from several threads at once."""

    __slots__ = (
        "_arrived",
        "_begun",
        "_decoded",
        "_ends",
        "_firsts",
        "_forgotten",
        "_sizes",
        "_starts",
        "_tokens",
        "open",
    )

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew: in a forked child all these calls are the parent's."""
        self.open = 0
        """Calls on their way."""
        self._begun = 0
        self._arrived: deque[InFlight] = deque()
        """Calls whose first token came and is not in order yet."""
        self._firsts, self._sizes = array("q"), array("q")
        # First tokens, and beside each its call's uncached tokens; before those are known its characters, below 0.
        self._ends, self._starts = array("q"), array("q")
        """Ends, and beside each its call's start,"""
        self._tokens = array("q")
        """and the tokens of its prompt that were computed."""
        self._decoded = array("q")
        """Ends of those calls that had a first token."""
        self._forgotten = [0, 0, 0]
        """First tokens, ends, and ends of calls with a first token that were let go."""

    def begin(self, start: int, size: int) -> InFlight:
        """A call sets out at ``start``, with a prompt of ``size`` characters."""
        in_flight = InFlight(start, size, self._begun, self._arrived)
        self._begun += 1
        self.open += 1
        return in_flight

    def end(self, in_flight: InFlight, first: int | None, end: int, tokens: int) -> None:
        """The call is over. ``first``: when its first token came, ``tokens``: its uncached prompt tokens."""
        if in_flight.arrived is not self._arrived:
            return  # it began before a fork, or before its route was forgotten
        self._settle()
        self.open -= 1
        if first is not None:
            self._first_token(in_flight, first, min(tokens, _MOST))
        at = bisect_right(self._ends, end)
        self._ends.insert(at, end)
        self._starts.insert(at, in_flight.start)
        self._tokens.insert(at, min(tokens, _MOST))
        if in_flight.first is not None:
            self._decoded.insert(bisect_right(self._decoded, end), end)
        if len(self._ends) > 2 * KEPT:
            del self._ends[:KEPT], self._starts[:KEPT], self._tokens[:KEPT]
            self._forgotten[1] += KEPT
        if len(self._decoded) > 2 * KEPT:
            del self._decoded[:KEPT]
            self._forgotten[2] += KEPT

    def since(self, moment: int, start: int) -> tuple[int, int]:
        """Of the calls that ended after ``moment``: the computed tokens of those that had begun after ``start``, and
        how many had begun before it."""
        tokens = before = 0
        ends, starts, sizes = self._ends, self._starts, self._tokens
        for at in range(bisect_right(ends, moment), len(ends)):
            if starts[at] > start:
                tokens += sizes[at]
            else:
                before += 1
        return tokens, before

    def drop(self, in_flight: InFlight) -> None:
        """The call is over and was none: it counts as if it had ended as it began."""
        self.end(in_flight, None, in_flight.start if in_flight.first is None else in_flight.first, 0)

    def around(
        self, me: InFlight, start: int, ready: int, first: int, step: int, tokens_per_char: float
    ) -> Concurrency:
        """Look around one call that is about to end.

        ``step`` (ns): first tokens no further apart than this came in the same step of the engine. A client reads them
        one after the other, so it is the distance to the next one that counts, not that to the call's own.
        """
        self._settle()
        ends, starts, firsts, sizes = self._ends, self._starts, self._firsts, self._sizes
        over = bisect_right(ends, ready)
        later = 0  # calls that began after this one and were over before it was ready
        for began in starts[bisect_left(ends, start) : over]:
            if began > start:
                later += 1
        before = me.number if me.arrived is self._arrived else self._begun
        ahead = max(0, before - self._forgotten[1] - over + later)
        began, upto = bisect_right(firsts, ready), bisect_right(firsts, first + step)
        decoding = max(0, self._forgotten[0] + began - self._forgotten[2] - bisect_right(self._decoded, ready))
        moments = firsts[began:upto]
        mine = -1  # where its own first token stands among them
        if me.first is not None and me.first > ready:
            mine = bisect_left(moments, me.first)
            if mine < len(moments):
                del moments[mine]
            else:
                mine = -1
        elif me.first is not None:
            decoding = max(0, decoding - 1)
        beside, edge = 0, first
        while moments and edge - moments[-1] <= step:
            at = began + len(moments) - 1
            at += 0 <= mine <= at - began
            edge = min(edge, moments.pop())
            beside += sizes[at] if sizes[at] >= 0 else int(-sizes[at] * tokens_per_char)
        whole = not self._forgotten[1] or ends[0] <= ready
        whole = whole and (not self._forgotten[0] or firsts[0] <= ready)
        window = slice(over, bisect_left(ends, first))
        return Concurrency(ahead, decoding, beside, moments, whole, (ends[window], starts[window], start))

    def _settle(self) -> None:
        """Put into order the first tokens that came since the last time."""
        arrived = self._arrived
        while arrived:
            in_flight = arrived.popleft()
            self._insert(in_flight.first or 0, -in_flight.size)

    def _insert(self, first: int, size: int) -> None:
        at = bisect_right(self._firsts, first)
        self._firsts.insert(at, first)
        self._sizes.insert(at, size)
        if len(self._firsts) > 2 * KEPT:
            del self._firsts[:KEPT], self._sizes[:KEPT]
            self._forgotten[0] += KEPT

    def _first_token(self, in_flight: InFlight, first: int, tokens: int) -> None:
        """What is known at the end: when the first token really came, and how many tokens were computed for it."""
        noted, firsts = in_flight.first, self._firsts
        in_flight.first = first
        if noted is None:
            self._insert(first, tokens)
            return
        at = bisect_left(firsts, noted)
        if at >= len(firsts) or firsts[at] != noted:
            return  # forgotten already
        if noted == first:
            self._sizes[at] = tokens
            return
        del firsts[at], self._sizes[at]
        self._insert(first, tokens)
