"""A route's own traffic around one call: what the client knows of the server's load without being told.

Every first token and every end of the client's other calls is a moment at which the engine finished a step or freed a
slot. They say when a call's own prefill can have begun far better than any average does.

First tokens and ends are kept in order of time, so that a look around a call takes as long with a thousand calls on
their way as with ten: counts come from where a moment lies in that order.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right

KEPT, _MORE = 48, 8
"""First tokens and ends remembered of each route, at least, and how many more at most: they are let go of together."""
_NONE = array("q")
"""No moments. Never changed."""
_MOST_TOKENS = 2**31 - 1
"""What a cell holds at most: a provider may claim any count."""


class InFlight:
    """One call on its way, as the others of its route see it. Times are monotonic ns."""

    __slots__ = ("arrived", "first", "number", "size", "start")

    def __init__(self, start: int, size: int, number: int, arrived: list[InFlight]) -> None:
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
            ends, starts, start = self._window or (_NONE, _NONE, 0)
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
        self._arrived: list[InFlight] = []
        """Calls whose first token came and is not in order yet."""
        self._firsts, self._sizes = array("q"), array("i")
        # First tokens, and beside each its call's uncached tokens; before those are known its characters, below 0.
        self._ends, self._starts = array("q"), array("q")
        """Ends, and beside each its call's start,"""
        self._tokens = array("i")
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
        if self._arrived:
            self._settle()
        self.open -= 1
        tokens = min(tokens, _MOST_TOKENS)
        if first is not None:
            self._first_token(in_flight, first, tokens)
        ends, starts = self._ends, self._starts
        if not ends or end >= ends[-1]:  # as nearly always
            ends.append(end)
            starts.append(in_flight.start)
            self._tokens.append(tokens)
        else:
            at = bisect_right(ends, end)
            ends.insert(at, end)
            starts.insert(at, in_flight.start)
            self._tokens.insert(at, tokens)
        if len(ends) > KEPT + _MORE:
            del ends[:_MORE], starts[:_MORE], self._tokens[:_MORE]
            self._forgotten[1] += _MORE
        if in_flight.first is not None:
            decoded = self._decoded
            decoded.insert(len(decoded) if not decoded or end >= decoded[-1] else bisect_right(decoded, end), end)
            if len(decoded) > KEPT + _MORE:
                del decoded[:_MORE]
                self._forgotten[2] += _MORE

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
        ends, starts, firsts = self._ends, self._starts, self._firsts
        if self.open == 1 and me.number + 1 == self._begun and (not ends or ends[-1] <= start):
            return Concurrency(0, 0, 0, _NONE, True)  # no other call while it was on its way
        if self._arrived:
            self._settle()
        forgotten = self._forgotten
        over = bisect_right(ends, ready)
        later = 0  # calls that began after this one and were over before it was ready
        if over and ends[over - 1] >= start:
            for began in starts[bisect_left(ends, start) : over]:
                if began > start:
                    later += 1
        mine = me.arrived is self._arrived
        ahead = (me.number if mine else self._begun) - forgotten[1] - over + later
        ahead = max(ahead, 0)
        began = bisect_right(firsts, ready)
        decoding = forgotten[0] + began - forgotten[2] - bisect_right(self._decoded, ready)
        own = me.first
        if own is not None and own <= ready:
            decoding -= 1
        decoding = max(decoding, 0)
        moments, beside = _NONE, 0
        if began < len(firsts) and firsts[began] <= first + step:
            moments, beside = self._seen(own, ready, began, first, step, tokens_per_char)
        whole = (not forgotten[1] or ends[0] <= ready) and (not forgotten[0] or firsts[0] <= ready)
        if not ahead or over == len(ends):
            return Concurrency(ahead, decoding, beside, moments, whole)
        window = slice(over, bisect_left(ends, first))
        return Concurrency(ahead, decoding, beside, moments, whole, (ends[window], starts[window], start))

    def _seen(
        self, own: int | None, ready: int, began: int, first: int, step: int, tokens_per_char: float
    ) -> tuple[array[int], int]:
        """First tokens of others from the ``began``-th on, until the step of ``first``; and the tokens that came in
        that step. ``own``: the first token of the call that is asked about."""
        sizes = self._sizes
        moments = self._firsts[began : bisect_right(self._firsts, first + step)]
        mine = -1  # where its own first token stands among them
        if own is not None and own > ready:
            mine = bisect_left(moments, own)
            if mine < len(moments):
                del moments[mine]
            else:
                mine = -1
        beside, edge = 0, first
        while moments and edge - moments[-1] <= step:
            at = began + len(moments) - 1
            at += 0 <= mine <= at - began
            edge = min(edge, moments.pop())
            beside += sizes[at] if sizes[at] >= 0 else int(-sizes[at] * tokens_per_char)
        return moments, beside

    def _settle(self) -> None:
        """Put into order the first tokens that came since the last time."""
        arrived = self._arrived
        while arrived:
            in_flight = arrived.pop(0)
            self._insert(in_flight.first or 0, -min(in_flight.size, _MOST_TOKENS))

    def _insert(self, first: int, size: int) -> None:
        firsts = self._firsts
        at = len(firsts) if not firsts or first >= firsts[-1] else bisect_right(firsts, first)
        firsts.insert(at, first)
        self._sizes.insert(at, size)
        if len(firsts) > KEPT + _MORE:
            del firsts[:_MORE], self._sizes[:_MORE]
            self._forgotten[0] += _MORE

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
