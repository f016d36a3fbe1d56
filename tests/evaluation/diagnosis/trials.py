"""Trials in memory: calm calls, then an episode with faults; what was named, when, and how often for nothing."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from llmtrace.diagnosis import verdict as causes
from tests.evaluation.diagnosis.judging import Judging
from tests.evaluation.diagnosis.traffic import Faults, Traffic, both, draw_habits, single

PAIRS = (
    (causes.PREFILL_SURGE, causes.QUEUEING),
    (causes.PREFILL_SURGE, causes.NOISY_NEIGHBOR),
    (causes.COLD_KV_CACHE, causes.NOISY_NEIGHBOR),
    (causes.COLD_KV_CACHE, causes.QUEUEING),
    (causes.COLD_KV_CACHE, causes.SLOW_CONSUMER),
    (causes.QUEUEING, causes.NOISY_NEIGHBOR),
    (causes.QUEUEING, causes.SLOW_CONSUMER),
    (causes.NETWORK, causes.PREFILL_SURGE),
    (causes.NETWORK, causes.QUEUEING),
    (causes.NETWORK, causes.NOISY_NEIGHBOR),
    (causes.RETRY_STORM, causes.QUEUEING),
    (causes.RETRY_STORM, causes.PREFILL_SURGE),
    (causes.MODEL_SWAP, causes.SLOW_CONSUMER),
    (causes.MODEL_SWAP, causes.RETRY_STORM),
    (causes.REPETITION_LOOP, causes.NOISY_NEIGHBOR),
    (causes.REPETITION_LOOP, causes.QUEUEING),
)
"""Pairs that leave marks of their own. Another model's times, or those of a stream that came in one piece, say nothing
of a queue beside it."""


Stated = tuple[str, float, bool]
"""A verdict: its cause, its confidence, whether that was what was wrong with the call."""


@dataclass
class Trial:
    """One episode: what was wrong, what was named (with the calls it was named in), and where it began."""

    truth: tuple[str, ...]
    calls: int = 0
    """Of the episode."""
    named: Counter[str] = field(default_factory=Counter[str])
    first: int | None = None
    """The first call of the episode in which all of the truth was named, from 0."""
    calm_calls: int = 0
    false_alarms: Counter[str] = field(default_factory=Counter[str])
    plain: int = 0
    """Verdicts on calm calls that are plain to see: on a real machine something else was going on."""
    stated: list[Stated] = field(default_factory=list[Stated])
    where: str = ""
    """The server, of real ones."""
    size: float = 0.0
    """Of a small effect: by how many times longer; 0: as large as it comes."""

    def note(self, stated: Iterable[tuple[str, float]], faulty: bool) -> None:
        """Take in what was named of one call, with what confidence. ``faulty``: it is one of the episode's."""
        names: set[str] = set()
        for cause, confidence in stated:
            names.add(cause)
            self.stated.append((cause, confidence, faulty and cause in self.truth))
        if not faulty:
            self.calm_calls += 1
            self.false_alarms.update(names)
            return
        self.named.update(names)
        if self.first is None and names.issuperset(self.truth):
            self.first = self.calls
        self.calls += 1

    @property
    def verdict(self) -> tuple[str, ...]:
        """The causes named in at least half of the episode's calls; a change of the route once is enough."""
        causes_named = {cause for cause, count in self.named.items() if 2 * count >= self.calls}
        if self.named[causes.ROUTE_CHANGE]:
            causes_named.add(causes.ROUTE_CHANGE)
        return tuple(sorted(causes_named))

    @property
    def right(self) -> bool:
        """Exactly what was wrong, nothing missing, nothing besides."""
        return self.verdict == tuple(sorted(self.truth))


def play(truth: tuple[str, ...], draw: random.Random) -> Trial:
    """45 to 110 calm calls on a route of its own, then 6 to 14 with the faults of ``truth``."""
    habits = draw_habits(draw)
    while causes.COLD_KV_CACHE in truth and not habits.shared:
        habits = draw_habits(draw)
    traffic, judging = Traffic(habits, draw), Judging()
    trial = Trial(truth)
    for _ in range(draw.randint(45, 110)):
        trial.note(_judged(judging, traffic, Faults()), False)
    faults = Faults()
    for cause in truth:
        faults = both(faults, single(cause, draw, habits))
    if faults.moved is not None:
        traffic.move(faults.moved)
    for _ in range(draw.randint(6, 14)):
        trial.note(_judged(judging, traffic, faults), True)
    return trial


def calm(draw: random.Random, calls: int, bimodal: bool) -> Trial:
    """A calm route of ``calls`` calls; ``bimodal``: 14 % of them take 350 ms more on the way."""
    traffic, judging = Traffic(draw_habits(draw, bimodal=bimodal), draw), Judging()
    trial = Trial(())
    for _ in range(calls):
        trial.note(_judged(judging, traffic, Faults()), False)
    return trial


def _judged(judging: Judging, traffic: Traffic, faults: Faults) -> list[tuple[str, float]]:
    return [(verdict.cause, verdict.confidence) for verdict in judging.of(traffic.call(faults))]
