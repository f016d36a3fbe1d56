"""How many calls an engine runs at once, as far as this client's own calls show it."""

from __future__ import annotations

from array import array
from bisect import bisect_right

from llmtrace.estimate.concurrency import Concurrency

MOST_SLOTS = 48
"""The greatest limit on concurrency that is looked for."""
_TAKEN_UP = 0.75
_BELIEVED, _DOUBTED, _SIGNS_MOST = -1.5, -0.5, 8.0
"""A limit is believed once it explains the times of so many calls (wholly; more in part) that nothing else does, and
no longer when so few are left; more than the last are not remembered, so that it can go again."""
_APART = 3.0
"""It is sure once it explains so many calls more than the next best one does."""
_SIGNS_FADE = 0.98
_MANY_AHEAD = 12
"""With more calls ahead, one in four is looked at for the limit: each possible one costs a step."""


class Limit:
    """The limit that is believed in, and the signs for and against each."""

    __slots__ = ("_recalled", "_signs", "known", "sure")

    def __init__(self) -> None:
        self.known: int | None = None
        self.sure = False
        """It is this one, and none of those beside it."""
        self._recalled = False  # it is from a file
        self._signs = array("f", bytes(4 * (MOST_SLOTS + 1)))  # for (below 0) and against each limit

    def looks(self, ahead: int, learned: int) -> bool:
        """Whether a call with so many ahead is looked at, the route's ``learned``-th."""
        return ahead <= _MANY_AHEAD or not learned & 3

    def watch(self, around: Concurrency, ready: int, first: int, work: float, scale: float) -> None:
        """For each possible limit: does it explain when this call was taken up better than no limit does?

        ``work``: what it took after that, s; ``scale``: how far off is as wrong as can be, s.
        """
        ahead, ends = around.ahead, around.ends
        due = first - work * 1e9
        scale = max(scale * 1e9, 1.0)
        latest = first - _TAKEN_UP * 1e9 * work
        possible = bisect_right(around.firsts, latest)
        free = around.firsts[possible - 1] if possible else ready
        without = min(1.0, abs(due - free) / scale)
        signs = self._signs
        known, best, least = self.known, None, 0.0
        if known is not None and known > ahead:
            best, least = known, signs[known]
        ended = len(ends)
        for limit in range(1, min(ahead, MOST_SLOTS) + 1):
            off = 1.0
            if (must_end := ahead - limit) < ended:
                moment = ends[must_end]
                off = abs(due - (moment if moment > free else free)) / scale
                off = min(off, 1.0)
            sign = signs[limit] * _SIGNS_FADE + off - without
            if sign < least:
                best, least = limit, sign
            signs[limit] = sign if -_SIGNS_MOST < sign < _SIGNS_MOST else (_SIGNS_MOST if sign > 0 else -_SIGNS_MOST)
        self.known = best if least <= (_BELIEVED if known is None else _DOUBTED) else None
        if best is not None:
            beside = min(signs[best - 1], signs[best + 1] if best < MOST_SLOTS else 0.0)
            self.sure = beside - least > _APART

    def recall(self, limit: int) -> None:
        """Begin with the limit that a file holds."""
        if limit <= MOST_SLOTS:
            self.known, self._recalled, self.sure = limit, True, True
            self._signs[limit] = 2 * _BELIEVED

    def news(self) -> int | None:
        """What a file should hold: 0 where the one that came from it shows no more."""
        return 0 if self.known is None and self._recalled else self.known
