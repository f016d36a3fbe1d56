"""The detection curve: effects of a chosen size, cause by cause, on routes drawn at random."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from llmtrace.diagnosis import verdict as causes
from tests.evaluation.diagnosis.effects import SIZES
from tests.evaluation.diagnosis.judging import Judging
from tests.evaluation.diagnosis.theory import needed, shift
from tests.evaluation.diagnosis.traffic import Faults, Habits, Traffic, draw_habits, elsewhere

SIZED = (
    causes.QUEUEING,
    causes.NETWORK,
    causes.COLD_KV_CACHE,
    causes.PREFILL_SURGE,
    causes.NOISY_NEIGHBOR,
    causes.SLOW_CONSUMER,
    causes.ROUTE_CHANGE,
)
"""Causes whose effect has a size. The others (another model, retries, a loop, a buffered stream) are there or not."""
LASTS = 8
"""Calls that an effect lasts."""


@dataclass
class Point:
    """Episodes of one cause and one size."""

    cause: str
    size: float
    episodes: int = 0
    half: int = 0
    """Named in at least half of the calls."""
    once: int = 0
    """Named in one at least."""
    possible: int | None = None
    """Episodes in which the best possible test would name the cause in half of the calls; None where it is a fact that
    no test is needed for."""
    besides: Counter[str] = field(default_factory=Counter[str])
    """Other causes, by the calls they were named in."""
    calm: int = 0
    """Calls before the effect."""
    false: int = 0
    """Verdicts on those."""

    def note(self, named: Sequence[set[str]]) -> None:
        """Take in the causes named in each call of an episode."""
        hits = sum(self.cause in names for names in named)
        self.episodes += 1
        self.half += 2 * hits >= len(named) or (self.cause == causes.ROUTE_CHANGE and hits > 0)
        self.once += hits > 0
        for names in named:
            self.besides.update(names - {self.cause})


def curve(draw: random.Random, episodes: int) -> list[Point]:
    """Every cause in every size, each so many times."""
    return [_point(cause, size, draw, episodes) for cause in SIZED for size in SIZES]


def _point(cause: str, size: float, draw: random.Random, episodes: int) -> Point:
    point = Point(cause, size)
    for _ in range(episodes):
        habits = draw_habits(draw)
        faults = sized(cause, size, draw, habits)
        traffic, judging = Traffic(habits, draw), Judging()
        calm = [traffic.call(Faults()) for _ in range(draw.randint(60, 100))]
        point.calm += len(calm)
        point.false += sum(len(judging.of(made)) for made in calm)
        moved = shift(cause, faults, habits, calm)
        if moved is not None:
            point.possible = (point.possible or 0) + (needed(moved) <= LASTS // 2 + 1)
        if faults.moved is not None:
            traffic.move(faults.moved)
        point.note([{verdict.cause for verdict in judging.of(traffic.call(faults))} for _ in range(LASTS)])
    return point


def sized(cause: str, size: float, draw: random.Random, habits: Habits) -> Faults:
    """Faults that make what ``cause`` slows ``size`` times as long: the usual time to the first token, or the time per
    token. Of a cold cache the habits are set so that losing it costs that much."""
    usual = habits.usual_wait + habits.rtt
    extra = (size - 1) * usual
    if cause == causes.QUEUEING:
        return Faults(queue=extra)
    if cause == causes.NETWORK:
        return Faults(network=extra)
    if cause == causes.COLD_KV_CACHE:
        habits.shared = max(1, round(extra / habits.hardware.per_token))
        return Faults(cold=True)
    if cause == causes.PREFILL_SURGE:
        return Faults(surge=1 + extra / (habits.hardware.per_token * habits.prompt))
    if cause == causes.NOISY_NEIGHBOR:
        return Faults(noisy=size - 1, stalls=draw.random() < 0.5)
    if cause == causes.SLOW_CONSUMER:
        return Faults(hold=size * habits.hardware.itl)
    return Faults(moved=elsewhere(draw, habits, size))
