"""Calm settings: traffic in which nothing is wrong, simulated and recorded, played through the product's own engine.

Calm is not idle: on a shared engine strangers' load swings, and calls do wait for it. So a verdict there is a false alarm
only where what it names did not happen to that call; what did happen is counted too, and called true.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from llmtrace.calls import tracer
from llmtrace.calls.result import Result
from llmtrace.calls.tracer import CallTracer
from llmtrace.diagnosis.verdict import Verdict
from llmtrace.estimate.baselines import Baselines
from llmtrace.observe.call import Call
from tests.evaluation.phases import replay
from tests.evaluation.phases.replay import Place, Trip, Watch

AT_ONCE = 2
"""Cells that are played at the same time."""
_HALF = 0.5
"""A verdict is true where at least this share of the time that it names was really lost to its cause."""
_BROKEN = ("regime", "standing")
"""Kinds of traffic that are no calm ones."""


@dataclass
class Alarm:
    """One verdict on a call."""

    cause: str
    confidence: float
    excess: float | None
    true: bool
    effect: float = 0.0
    """Size of what was injected into the call, 0: nothing."""
    injected: str = ""
    reason: str | None = None
    at: int = 0


@dataclass
class Setting:
    """The calls of one calm cell, and what was said of them."""

    title: str
    traffic: str
    source: str
    calls: int
    alarms: list[Alarm] = field(default_factory=list[Alarm])


def play(trips: Sequence[Trip], place: Place) -> list[list[Verdict]]:
    """The verdicts on each of ``trips``, in their order."""
    opened: list[Call] = []
    verdicts: dict[int, list[Verdict]] = {}

    def listen(ended: Result) -> None:
        verdicts[id(ended.call)] = list(ended.verdicts)

    def fit_at_once(made: CallTracer) -> None:
        made.services.baselines = Baselines(background=False)

    tracer.listeners.append(listen)
    try:
        replay.play(trips, "", 0, place, Watch(fit_at_once, lambda _: None, opened.append))
    finally:
        tracer.listeners.remove(listen)
    return [verdicts[id(call)] for call in opened]
