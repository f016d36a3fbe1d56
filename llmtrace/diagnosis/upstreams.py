"""Who answers behind a gateway, over a route's calls, and when that changed.

Each upstream has times of its own: they are judged by its own history (``judge`` is given it), so that calls which go
to a slower one are not taken for calls that waited. What is judged here is the names alone, by a CUSUM of likelihood
ratios: "drawn as ever" against "drawn from all of them alike". One call to somebody new is little evidence by itself;
if it took another time than the route's calls do, it is enough.
"""

from __future__ import annotations

from math import log
from typing import Final

from llmtrace.diagnosis.history import Changes, Level
from llmtrace.diagnosis.verdict import CHANGED_FOR, LEAST_S, ROUTE_CHANGE, Verdict
from llmtrace.wording import plural

FEW: Final = 20
"""Calls before which nobody is news."""
ENOUGH: Final = 5.0
"""The evidence that makes a change to somebody new: a likelihood ratio's logarithm, e^5 to one."""
ENOUGH_OF_KNOWN: Final = 10.0
"""And to somebody who answered before: who is drawn at random comes in rows, and a change is told for many calls. With
5 a gateway that draws from two was said to have changed once in 700 calls, with 10 never in 48,000."""
BY_TIME: Final = 3.0
"""What a call to somebody new adds at most by its time, if that is unusual for the route."""


class Upstreams:
    """The upstreams of one route."""

    __slots__ = ("_cusum", "_score", "_since", "_usual", "_waits", "names")

    def __init__(self) -> None:
        self.names = Changes()
        self._waits = Level(LEAST_S, 0.25)
        """Time to the first token, whoever answered, s."""
        self._cusum = 0.0
        self._usual = ""
        """Who answered before the change."""
        self._score: float | None = None
        """Of the change that is being told."""
        self._since = 0

    def changed(self, name: str, wait: float | None) -> Verdict | None:
        """Take in a call that ``name`` answered after ``wait`` s; what it says of a change."""
        evidence = self._evidence(name)
        self._cusum = max(0.0, self._cusum + evidence)
        known = len(self.names.items)
        is_new = name not in self.names.counts or name == self.names.fresh
        by_time = self._by_time(wait) if is_new and evidence > 0 else 0.0
        enough = ENOUGH if is_new else ENOUGH_OF_KNOWN
        if evidence > 0 and known >= FEW and self._cusum + by_time >= enough:
            self._score = (self._cusum + by_time) / enough
            self._usual = max(self.names.counts, key=self.names.counts.__getitem__)
            self._since, self._cusum = 0, 0.0
            self.names.restart()
            self._waits.restart()
        self.names.learn(name)
        if wait is not None:
            self._waits.take(wait)
        if self._score is None or name == self._usual:
            return None
        if self._since >= CHANGED_FOR:
            self._score = None
            return None
        since, self._since = self._since, self._since + 1
        began = f", {plural(since, 'call')} since" if since else " from this call on"
        reason = f"the gateway sends to another upstream{began}"
        return Verdict(ROUTE_CHANGE, self._score, "upstream", name, self._usual, reason=reason)

    def _evidence(self, name: str) -> float:
        """The likelihood ratio's logarithm: above 0 where ``name`` speaks for a change."""
        counts, known = self.names.counts, len(self.names.items)
        if not known:
            return 0.0
        times = counts.get(name, 0)
        if times:
            return log(known / times / len(counts))
        # Somebody new comes as often as, so far, somebody was seen only once (Good and Turing).
        lone = sum(1 for count in counts.values() if count == 1)
        return log(0.5 * (known + 1) / (lone + 0.5))

    def _by_time(self, wait: float | None) -> float:
        if wait is None or self._waits.count < FEW:
            return 0.0
        score = abs(self._waits.score(wait))
        return min(BY_TIME, BY_TIME * score) if score >= 0.5 else 0.0
