"""Latency objectives (SLOs): whether a call met them, and which phases its excess is charged to.

A call that took longer than its target is over by the excess. What each phase took beyond its floor (``Part.floor``:
what the route has shown to be possible for such a call) pays for it, in proportion. Where that is not enough, the rest
is charged to ``FLOOR``: the target is below what this call needed at its best.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, cast

TTFT: Final = "ttft"
ITL: Final = "itl"
TOTAL: Final = "total"
OBJECTIVES: Final = (TTFT, ITL, TOTAL)
CALL: Final = "call"
"""All of a call's objectives together, and that it did not fail."""
FAILED: Final = "failed"
FLOOR: Final = "floor"
APPLICATION: Final = "application"
UNKNOWN: Final = "unknown"
"""Charged while the route has shown too few calls for a floor."""

Patterns = tuple[tuple[str, float], ...]
"""Pairs of a pattern over routes and a target in s; the first that matches counts."""


class Targets(NamedTuple):
    """A call's targets, s; None where there is none. ``itl`` is for the mean time between its output tokens (TPOT)."""

    ttft: float | None = None
    itl: float | None = None
    total: float | None = None


class Part(NamedTuple):
    """One phase of a call: its length and its floor, s, and whether it comes before the first token."""

    name: str
    seconds: float
    floor: float
    early: bool


@dataclass(frozen=True, slots=True)
class Miss:
    """An objective that a call missed."""

    objective: str
    target: float
    value: float
    """What it was instead, s; at least that, where the call was cut short."""
    excess: float
    """Time lost to it, s: of ITL, over all of the call's tokens."""
    charged: Mapping[str, float]
    """The excess by phase, s."""

    @property
    def blame(self) -> str:
        """The phase that most of the excess is charged to."""
        return max(self.charged, key=lambda name: self.charged[name], default=UNKNOWN)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What became of a call's objectives."""

    targets: Targets
    met: bool | None
    """None: the call was cut short before that could be said."""
    decided: Mapping[str, bool] = field(default_factory=dict[str, bool])
    """Of each objective that could be judged, whether it was met."""
    misses: Sequence[Miss] = ()

    @property
    def worst(self) -> Miss | None:
        """The miss that cost most time."""
        return max(self.misses, key=lambda miss: miss.excess, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What is judged of a call; durations in s, None where they are not known."""

    ttft: float | None
    itl: float | None
    total: float
    steps: int
    """Its output tokens less one."""
    streaming: bool
    failed: bool = False
    ended: bool = True
    """It came to its own end; False where the application left."""


def parse_objective(value: Any) -> Patterns:
    """A target as a setting or an option gives it: ``2.5``, ``"gpt-4o*=2,*=5"`` or a mapping of the same.

    Raises:
        ValueError: it is none of these, or a target is no time over 0.
    """
    pairs: list[tuple[str, Any]]
    if isinstance(value, Mapping):
        pairs = [(str(pattern), target) for pattern, target in cast("Mapping[Any, Any]", value).items()]
    elif isinstance(value, str):
        parts = [part for part in value.split(",") if part.strip()]
        pairs = [_pair(part, alone=len(parts) == 1) for part in parts]
    else:
        pairs = [("*", None if isinstance(value, bool) else value)]
    try:
        targets = tuple((pattern.strip(), float(target)) for pattern, target in pairs)
    except (TypeError, ValueError):
        targets = ()
    if not targets or not all(pattern and 0 < seconds < float("inf") for pattern, seconds in targets):
        raise ValueError('seconds over 0, or patterns with seconds each: "gpt-4o*=2,*=5"')
    return targets


def _pair(part: str, alone: bool) -> tuple[str, str]:
    """A pattern and its seconds. Seconds without one have to stand ``alone``: "1,5" may be meant as 1.5."""
    pattern, given, seconds = part.rpartition("=")
    return ("*", seconds) if alone and not given else (pattern, seconds)


def regex(pattern: str) -> str:
    """The regular expression of a pattern, in which ``*`` stands for any text and ``?`` for any character."""
    return "^" + "".join({"*": ".*", "?": "."}.get(character) or re.escape(character) for character in pattern) + "$"


def target_of(patterns: Patterns, model: str | None, route: str) -> float | None:
    """The first target whose pattern matches; a pattern without a space is matched with the model alone."""
    for pattern, seconds in patterns:
        if re.search(regex(pattern), route if " " in pattern else model or ""):
            return seconds
    return None


def judge(figures: Figures, targets: Targets, parts: Sequence[Part], known: bool = True) -> Judgement:
    """Judge a call. ``known``: its route has shown floors; else nobody is blamed.

    A call that failed met nothing, and is charged to nobody: it has no latency to speak of. One that was cut short is
    judged by what was decided by then: it may have missed a target already, and has met it only where it is past it.
    """
    if figures.failed:
        return Judgement(targets, False, {})
    decided: dict[str, bool] = {}
    misses: list[Miss] = []
    waited = figures.total if figures.ttft is None else figures.ttft
    by_objective = (
        (TTFT, targets.ttft if figures.streaming else None, waited, figures.ttft is not None, 1),
        (ITL, targets.itl, figures.itl, True, figures.steps),
        (TOTAL, targets.total, figures.total, figures.ended, 1),
    )
    open_ones = 0
    for objective, target, value, final, times in by_objective:
        if target is None:
            continue
        if value is None or (value <= target and not final):
            open_ones += not figures.ended
            continue
        decided[objective] = value <= target
        if value > target:
            excess = (value - target) * times
            misses.append(Miss(objective, target, value, excess, charge(excess, _of(objective, parts), known)))
    met = False if misses else None if open_ones or not decided else True
    return Judgement(targets, met, decided, misses)


def charge(excess: float, parts: Sequence[Part], known: bool = True) -> dict[str, float]:
    """``excess`` s by phase: in proportion to what each took beyond its floor, and never more than that."""
    if not known:
        return {UNKNOWN: excess}
    beyond: dict[str, float] = {}
    for part in parts:
        if part.seconds > part.floor:
            beyond[part.name] = beyond.get(part.name, 0.0) + part.seconds - part.floor
    whole = sum(beyond.values())
    share = min(1.0, excess / whole) if whole > 0 else 0.0
    charged = {name: seconds * share for name, seconds in beyond.items()}
    rest = excess - whole * share
    if rest > 1e-9:
        charged[FLOOR] = rest
    return charged


def _of(objective: str, parts: Sequence[Part]) -> Sequence[Part]:
    """The phases that an objective is about."""
    if objective == TOTAL:
        return parts
    return [part for part in parts if part.early == (objective == TTFT)]
