"""Whether the last calls' values lie higher than the route's did before: a CUSUM of ranks, which needs no distribution.

One call far out is for a level to judge (``history``). What is told here is smaller and stays: a value that 95 % of the
route's were below is little evidence by itself, and enough when four calls in a row bring one.
"""

from __future__ import annotations

from bisect import bisect_left
from math import inf, log
from typing import Final

WINDOW: Final = 128
LEAST: Final = 24
"""Values before which nothing is told."""
LOOK: Final = 8
"""Values between two looks at all of them, which put them in order."""
DRIFT: Final = 1.8
"""What each call's evidence loses. The evidence is -log of the share of earlier values that were as high: by itself
1 on average, so that it adds up only where values stay among the highest sixth."""
ALARM: Final = 9.0
"""Evidence that is told. Of values drawn alike, one call in some 4,000 gets there: what a CUSUM gathers falls off as
e^-0.73 for each unit (Wald's equation for exponential steps), and one call in six begins anew."""
ROW: Final = 12.0
"""Evidence of a row of calls that is told: their number times the least of theirs. Of values drawn alike a row of any
given length reaches it once in e^12 = 160,000 calls. (A sum takes longer where each of them is only somewhat rare: one
very rare value could make it up by itself.) Only where calls hardly depend on each other: an engine's pace drifts, and
by such rows of it eight of 524 calm calls were named."""
_LONGEST: Final = 6
"""Calls of such a row, at most."""
SUSPECT: Final = 0.5
"""From this share of an alarm on, values are held back."""
_MOST: Final = 1.5
"""Evidence is not counted further beyond the alarm than this."""
_RAREST: Final = log(WINDOW + 1)
"""No value is rarer than one above a full history, nor twice as rare as one above what there is of it."""
REGIME: Final = 48
"""Values in a row that are high are the new usual ones."""


class Shift:
    """The ranks of one quantity's values among those of the route."""

    __slots__ = (
        "_alarm",
        "_alarmed",
        "_due",
        "_held",
        "_modes",
        "_ordered",
        "_row",
        "_rows",
        "_sixth",
        "_suspect",
        "_values",
        "evidence",
        "latest",
    )

    def __init__(self, modes: bool = False, alarm: float = ALARM, rows: bool = False) -> None:
        """``modes``: values beyond the history may belong to another mode, however far they lie, as a network's do;
        ``rows``: a row of calls that are each somewhat rare is told as well."""
        self._modes, self._alarm, self._rows = modes, alarm, rows
        self._suspect = SUSPECT * alarm
        self.restart()

    def restart(self) -> None:
        """Forget everything."""
        self._values: list[float] = []
        """At most ``WINDOW`` at each look, and those since."""
        self._due = LEAST
        """Values until the next look at all of them."""
        self._ordered: list[float] = []
        self._sixth = inf
        """Values below this are lower than the highest sixth was at the last look."""
        self._held: list[float] = []
        self._row: list[float] = []
        """How rare the last values were, while the evidence adds up."""
        self.evidence = 0.0
        self.latest = 0.0
        """What the last value added."""
        self._alarmed = False

    @property
    def strength(self) -> float:
        """The evidence by that of an alarm."""
        return self.evidence / self._alarm

    @property
    def suspects(self) -> bool:
        """Whether the last values may well be an incident's: they are not to be learned as usual ones."""
        return self.evidence >= self._suspect

    def high(self, value: float) -> bool:
        """Take in one call's value; whether it is one of several that are too high together."""
        if value < self._sixth and not self.evidence:  # nothing would come of it
            self._values.append(value)
            self._due -= 1
            if not self._due:
                self._look()
            return False
        rareness = self._rareness(value)
        self.latest = rareness - DRIFT
        evidence = self.evidence + self.latest
        if evidence <= 0.0 or (self._alarmed and self.latest < 0.0):  # the incident, or what looked like one, is over
            if self._held:
                self._calm_again()
            self.evidence, self._row = 0.0, []
            self._learn(value)
            return False
        if self._rows and self._in_a_row(rareness):
            evidence = max(evidence, self._alarm)
        self.evidence = min(evidence, self._alarm + _MOST)
        self._alarmed = self._alarmed or evidence >= self._alarm
        self._held.append(value)
        if len(self._held) >= REGIME:
            held = self._held
            self.restart()
            for each in held:
                self._learn(each)
            return False
        return evidence >= self._alarm and self.latest > 0.0

    def _rareness(self, value: float) -> float:
        """-log of how often so high a value comes. One beyond all of the history is rarer the further it lies, as an
        exponential tail that is known from the highest sixth has it (the predictive one: few values say little)."""
        ordered = self._ordered
        count = len(ordered)
        above = count - bisect_left(ordered, value)
        if above or self._modes:
            return log((count + 1) / (above + 1))
        tail, begin = count // 6, self._sixth
        mean = sum(ordered[-tail:]) / tail - begin
        beyond = (value - begin) / mean if mean > 0 else inf
        far = log(count / tail) + tail * log(1 + beyond / tail)
        return min(_RAREST, log(2 * (count + 1)), max(log(count + 1), far))

    def _in_a_row(self, rareness: float) -> bool:
        """Whether the last calls, this one with them, are each too rare for so many in a row."""
        row = self._row = [*self._row[1 - _LONGEST :], rareness]
        least = rareness
        for place in range(1, len(row) + 1):
            least = min(least, row[-place])
            if place * least >= ROW:
                return True
        return False

    def _calm_again(self) -> None:
        """What was held back belongs to the usual values, unless it was an incident."""
        if not self._alarmed:
            for value in self._held:
                self._learn(value)
        self._held, self._alarmed = [], False

    def _learn(self, value: float) -> None:
        self._values.append(value)
        self._due -= 1
        if not self._due:
            self._look()

    def _look(self) -> None:
        self._due = LOOK
        del self._values[:-WINDOW]
        self._ordered = ordered = sorted(self._values)
        self._sixth = ordered[-1 - len(ordered) // 6]
