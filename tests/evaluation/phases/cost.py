"""What the estimates cost the application: microseconds on the caller's thread, and bytes remembered."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from llmtrace.calls.tracer import CallTracer
from llmtrace.estimate.hits import RouteHits
from llmtrace.estimate.prefixes import Prefixes
from tests.evaluation.common.quantiles import mean, quantile
from tests.evaluation.phases import replay, simulated
from tests.evaluation.phases.bars import UPDATE
from tests.evaluation.phases.cells import Cell
from tests.support.memory import size

ROUTES = 25
"""Routes that take turns."""
_CALLS = 120
"""Of each route."""
_SETTLED = 60
"""Calls of each route before they are timed: until then there is no curve."""
CHARACTERS = (1_000, 20_000, 200_000)
"""Lengths of the prompts that are marked."""


class _Timed:
    """Stands before an object and adds up what its methods take on the calling thread, ns."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.spent = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if not callable(method):
            return method

        def timed(*args: Any, **kwargs: Any) -> Any:
            begun = time.thread_time_ns()
            try:
                return method(*args, **kwargs)
            finally:
                self.spent += time.thread_time_ns() - begun

        return timed


def measure(say: Callable[[str, float], None]) -> dict[str, Any]:
    """Microseconds of thread time by kind of work, and bytes."""
    say("cost of an update", 0.0)
    spent, largest = _updates()
    costs = {UPDATE: _summary(spent)}
    prefixes, hits = Prefixes(), RouteHits()
    for length in CHARACTERS:
        costs[f"marks of a prompt of {length:,} characters"] = _summary(_marking(prefixes, length))
    costs["verdict on a hit, where the provider counts none"] = _summary(_judging(hits))
    say("cost of an update", 15.0)
    return {
        "microseconds": costs,
        "bytes": {"a route": largest, "more, where hits are told from timing": size(hits._routes.known(0))},
    }


def _updates() -> tuple[list[int], int]:
    """What a call's setting out and its end take together, split included, ns; the bytes of the largest route."""
    cell = Cell("simulation", "engine", next(iter(simulated.ENGINES)), "cost", "alone", 0.7, 1.0)
    trips: list[replay.Trip] = []
    for route in range(ROUTES):
        own = simulated.trips(cell, route)[:_CALLS]
        trips += [replace(trip, params={"model": f"model {route}"}) for trip in own]
    trips.sort(key=lambda trip: trip.begin)
    spent: list[int] = []
    largest = 0
    made: list[CallTracer] = []

    def watch(tracer: CallTracer) -> None:
        made.append(tracer)
        tracer.services.baselines = _Timed(tracer.services.baselines)  # type: ignore[assignment]

    def ended(number: int) -> None:
        nonlocal largest
        timed: Any = made[0].services.baselines
        if number == ROUTES * _SETTLED:
            timed.settle()
        if number >= ROUTES * _SETTLED:
            spent.append(timed.spent)
        timed.spent = 0
        if number == len(trips) - 1:
            largest = max(size(timed.route(route)) for route in routes)

    routes: set[Any] = set()
    looking = replay.Watch(watch, ended, lambda call: routes.add(call.state.route))
    replay.play(trips, "cost", 0, replay.Place(), looking)
    return spent, largest


def _marking(prefixes: Prefixes, length: int) -> list[int]:
    spent: list[int] = []
    for number in range(200):
        text = f"{number} ".ljust(length, "x")
        begun = time.thread_time_ns()
        prompt = prefixes.look("route", (text,), 0.0)
        prefixes.computed(prompt, 1.0)
        spent.append(time.thread_time_ns() - begun)
    return spent


def _judging(hits: RouteHits) -> list[int]:
    draw = random.Random(1)
    spent: list[int] = []
    for number in range(600):
        pace, prefix = (0.1, number % 16) if number % 2 else (0.3, None)
        pace *= draw.lognormvariate(0.0, 0.15)
        begun = time.thread_time_ns()
        hits.judge(0, pace, prefix)
        spent.append(time.thread_time_ns() - begun)
    return spent[200:]


def _summary(spent: list[int]) -> dict[str, float]:
    taken = [ns / 1e3 for ns in spent]
    return {"median": quantile(taken, 0.5), "mean": mean(taken), "p90": quantile(taken, 0.9)}
