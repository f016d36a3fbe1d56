"""Calm settings and recorded traffic, played through the product's own engine: what is named where nothing is wrong.

Calm is not idle: on a shared engine strangers' load swings, and calls do wait for it. So a verdict there is a false
alarm only where what it names did not happen to that call; what did happen is counted beside it, as true.
"""

from __future__ import annotations

import random
import signal
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from llmtrace.calls import tracer
from llmtrace.calls.result import Result
from llmtrace.calls.tracer import CallTracer
from llmtrace.diagnosis.history import WINDOW
from llmtrace.diagnosis.verdict import NETWORK, NOISY_NEIGHBOR, QUEUEING, Verdict
from llmtrace.estimate.baselines import Baselines
from llmtrace.observe.call import Call
from tests.evaluation.diagnosis.effects import SIZES, per_token, scaled, slowed, usual
from tests.evaluation.diagnosis.sizes import LASTS, Point
from tests.evaluation.phases import recorded, replay, simulated
from tests.evaluation.phases.cells import Cell
from tests.evaluation.phases.replay import Place, Trip, Watch

T = TypeVar("T")
AT_ONCE = 2
"""Cells that are played at the same time."""
SLOWER = 5.0
"""The simulated engine's times are stretched by this: its prompts take 0.1 s then and not 0.02, as on hosted models."""
_ALIKE, _OWN = 10, 1.5
_HALF = 0.5
"""A verdict is true where at least this share of the time that it names was really lost to its cause."""
_NOT_CALM = ("regime", "standing")
"""Kinds of traffic in which something happens."""
_QUIET = ("seqs4_rate4", "unlimited_rate4", "seqs4_rate12", "vllm_chat_alone_load60", "alone_load70")
"""Recordings of a client that is alone: nothing else adds to the effects that are laid over them."""
_FIRST = 40
"""Recorded calls before the first effect, which are few enough for the shortest recording."""
_CALM_AFTER = 22


@dataclass
class Setting:
    """One kind of traffic, and what was said of its calls."""

    title: str
    calls: int = 0
    true: Counter[str] = field(default_factory=Counter[str])
    false: Counter[str] = field(default_factory=Counter[str])
    sure: list[float] = field(default_factory=list[float])
    """The confidence of each false one."""

    def add(self, other: Setting) -> None:
        """Take in more of the same."""
        self.calls += other.calls
        self.true += other.true
        self.false += other.false
        self.sure += other.sure


_Job = tuple[Cell, Path | None, int]
"""A cell, its recording (None: it is simulated) and the seed."""


def calm(seed: int, draws: int) -> list[Setting]:
    """Every calm setting, the simulated ones drawn so often."""
    jobs: list[_Job] = [(cell, path, 0) for cell, path in recorded.cells()]
    jobs += [(cell, None, seed + number) for number in range(draws) for cell in simulated.cells()]
    made: dict[str, Setting] = {}
    for setting in _each(_calm, [job for job in jobs if job[0].traffic not in _NOT_CALM]):
        made.setdefault(setting.title, Setting(setting.title)).add(setting)
    return list(made.values())


def over_recorded(seed: int, draws: int) -> list[Point]:
    """Effects of every size laid over recorded calls: a curve beside the one over simulated routes."""
    jobs: list[_Job] = [
        (cell, path, seed + number) for number in range(draws) for cell, path in recorded.cells() if path.stem in _QUIET
    ]
    points: dict[tuple[str, float], Point] = {}
    for made in _each(_with_effects, jobs):
        for cause, size, named in made:
            points.setdefault((cause, size), Point(cause, size)).note(named)
    return sorted(points.values(), key=lambda point: (point.cause, point.size))


def _each(work: Callable[[_Job], T], jobs: Sequence[_Job]) -> Iterator[T]:
    context = get_context("spawn")  # a fork would inherit threads and locks in the middle of their work
    with ProcessPoolExecutor(AT_ONCE, context, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        try:
            yield from pool.map(work, jobs)
        finally:
            pool.shutdown(cancel_futures=True)


def _trips(job: _Job) -> tuple[list[Trip], Place]:
    cell, path, seed = job
    if path is not None:
        return recorded.read(path), recorded.place(cell)
    return scaled(simulated.trips(cell, seed), SLOWER), Place()


def _calm(job: _Job) -> Setting:
    cell = job[0]
    trips, place = _trips(job)
    setting = Setting(f"{cell.source}: {cell.traffic}", len(trips))
    waits = waited(trips)
    for number, (trip, verdicts) in enumerate(zip(trips, play(trips, place), strict=True)):
        before = waits[max(0, number - WINDOW) : number] or waits[:1]
        for verdict in verdicts:
            if _true(verdict, trip, waits[number] - statistics.median(before), cell):
                setting.true[verdict.cause] += 1
            else:
                setting.false[verdict.cause] += 1
                setting.sure.append(verdict.confidence)
    return setting


def waited(trips: Sequence[Trip]) -> list[float]:
    """What each call really waited, s: all of the time to its first token that was not its own prefill.

    Engines' own words for queue leave out the step that ran when it came, and what they call a call's prefill holds the
    other prompts of its step: its own is at most half more than the median of calls with about as many tokens.
    """
    order = sorted(range(len(trips)), key=lambda number: trips[number].prompt - (trips[number].cached or 0))
    prefills = [trips[number].truth.prefill or 0.0 for number in order]
    waits = [0.0] * len(trips)
    for place, number in enumerate(order):
        trip = trips[number]
        alike = statistics.median(prefills[max(0, place - _ALIKE) : place + _ALIKE + 1])
        own = min(prefills[place], _OWN * alike)
        rest = trip.truth.decode or 0.0 if trip.first is None else trip.end - trip.first
        waits[number] = trip.end - trip.begin - own - rest
    return waits


def _true(verdict: Verdict, trip: Trip, waited: float, cell: Cell) -> bool:
    """Whether what ``verdict`` says happened to this call; ``waited``: s beyond what the calls before it did."""
    if verdict.cause == QUEUEING:
        return waited >= _HALF * (verdict.excess or 0.0)
    # That the tokens of a stream came slower is plain to see; only neighbours who are there can have done it.
    return verdict.cause == NOISY_NEIGHBOR and cell.share < 1 and trip.first is not None


def _with_effects(job: _Job) -> list[tuple[str, float, list[set[str]]]]:
    cell, _, seed = job
    trips, place = _trips(job)
    draw = random.Random(f"{seed} {cell.key}")
    base, rate = usual(trips), per_token(trips)
    effects: list[tuple[int, str, float]] = []
    for begin in range(_FIRST, len(trips) - LASTS, LASTS + _CALM_AFTER):
        effects.append((begin, draw.choice((QUEUEING, NETWORK, NOISY_NEIGHBOR)), draw.choice(SIZES)))
    for begin, cause, size in effects:
        for number in range(begin, begin + LASTS):
            trips[number] = slowed(trips[number], cause, size, base, rate)
    verdicts = play(trips, place)
    named = [{verdict.cause for verdict in each} for each in verdicts]
    return [(cause, size, named[begin : begin + LASTS]) for begin, cause, size in effects]


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
