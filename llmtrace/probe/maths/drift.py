"""Changes in what is measured again and again: a level that has shifted, and answers that are not the ones from before.

Each round adds to the evidence for a change how much likelier it is after one than before one (its logarithm), never
below zero (Page's test). No single round counts by more than a factor of e², so that one slow call says little.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from llmtrace.probe.maths.intervals import median

LEARNED = 8
"""Rounds that are only learned from."""
_KEPT = 48
_SURE = 7.0
"""Evidence at which a change is told: chance alone comes so far once in some thousand rounds."""
_USUAL = 0.4
"""A level whose scatter is more than this share of the shift looked for needs as much more evidence: how far it
scatters is not known so well either."""
_MOST, _MOST_WORDS = 2.0, 3.0
SLOWER = math.log(1.3)
"""The shift in a latency's logarithm that is looked for."""
_LATENCY_NOISE = 0.03
"""A latency scatters by this share at least, however calm the first rounds were."""
_SD = 1.4826
"""Standard deviation over median absolute deviation, of a normal distribution."""
_NEW_AFTER = 0.9
"""How often an answer is a new one after the model was changed."""
_NEWEST = 0.02
"""How often one is at least, without a change."""
_COMPARED = 40
"""Characters of an answer that are compared."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change, and the rounds that it showed in."""

    before: float | str
    after: float | str
    rounds: int


@dataclass(slots=True)
class Level:
    """A number that stays around its level. ``shift``: the smallest change looked for, in its own unit; ``noise``: the
    least that it scatters."""

    shift: float
    noise: float
    calm: list[float] = field(default_factory=list[float])
    above: float = 0.0
    below: float = 0.0
    suspects: list[float] = field(default_factory=list[float])
    """The values since the evidence began."""

    def add(self, value: float) -> Change | None:
        """Take one round's value in; the change, if that makes one certain."""
        if len(self.calm) < LEARNED:
            self.calm.append(value)
            return None
        center = median(self.calm)
        count = len(self.calm)
        scatter = max(self.noise, _SD * median([abs(each - center) for each in self.calm]) * (1 + 2 / count))
        variance = scatter * scatter * (1 + 1.6 / count)
        shift = max(self.shift, scatter)
        self.above = max(0.0, self.above + _bounded(shift / variance * (value - center - shift / 2)))
        self.below = max(0.0, self.below + _bounded(shift / variance * (center - value - shift / 2)))
        evidence = max(self.above, self.below)
        if evidence <= 0:
            self.suspects.clear()
        else:
            self.suspects.append(value)
        if evidence > _SURE * max(1.0, scatter / (self.shift * _USUAL)):
            change = Change(center, median(self.suspects), len(self.suspects))
            self.calm = list(self.suspects[-LEARNED:])
            self.above = self.below = 0.0
            self.suspects.clear()
            return change
        if evidence < _SURE / 3:
            self.calm = [*self.calm, value][-_KEPT:]
        return None

    def to_json(self) -> list[float]:
        """What a later run needs."""
        return self.calm

    def adopt(self, saved: Any) -> None:
        """Go on from what an earlier run has saved."""
        if isinstance(saved, list):
            self.calm = [float(each) for each in saved if isinstance(each, (int, float))][-_KEPT:]


@dataclass(slots=True)
class Words:
    """A text that is the same again and again, or one of a few."""

    calm: list[str] = field(default_factory=list[str])
    new: int = 0
    """How many of the calm ones were new when they came."""
    evidence: float = 0.0
    suspects: list[str] = field(default_factory=list[str])

    def add(self, text: str) -> Change | None:
        """Take one round's answer in; the change, if that makes one certain."""
        text = text[:_COMPARED]
        is_new = text not in self.calm
        if len(self.calm) < LEARNED:
            self.new += is_new and bool(self.calm)
            self.calm.append(text)
            return None
        often = min(0.8, max(_NEWEST, (self.new + 0.5) / (len(self.calm) + 1)))
        gain = math.log(_NEW_AFTER / often) if is_new else math.log((1 - _NEW_AFTER) / (1 - often))
        self.evidence = max(0.0, self.evidence + max(-_MOST_WORDS, min(_MOST_WORDS, gain)))
        self.suspects.append(text)
        if self.evidence > _SURE:
            change = Change(self.calm[-1], text, len(self.suspects))
            self.calm, self.new, self.evidence = list(self.suspects), 0, 0.0
            self.suspects.clear()
            return change
        if self.evidence <= 0:  # nothing came of it: these were answers of the same model
            self.new += len(set(self.suspects) - set(self.calm))
            self.calm = [*self.calm, *self.suspects][-_KEPT:]
            self.suspects.clear()
        return None

    def to_json(self) -> dict[str, Any]:
        """What a later run needs."""
        return {"calm": self.calm, "new": self.new}

    def adopt(self, saved: Any) -> None:
        """Go on from what an earlier run has saved."""
        if isinstance(saved, dict) and isinstance(saved.get("calm"), list):
            self.calm = [str(each) for each in saved["calm"]][-_KEPT:]
            self.new = int(saved.get("new") or 0)


def latency() -> Level:
    """For the logarithm of a latency."""
    return Level(SLOWER, _LATENCY_NOISE)


def logprob() -> Level:
    """For the first token's log probability: the same model tells it to a few hundredths."""
    return Level(0.1, 0.01)


def times(change: Change) -> float:
    """By which factor a latency changed whose logarithm was watched."""
    return math.exp(float(change.after) - float(change.before))


def _bounded(evidence: float) -> float:
    return max(-_MOST, min(_MOST, evidence))
