"""What the estimates cost the application: microseconds on the caller's thread, and bytes remembered."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Hashable
from statistics import median
from typing import Any

from llmtrace.estimate.baselines import Baselines
from llmtrace.estimate.hits import RouteHits
from llmtrace.estimate.prefixes import Prefixes
from llmtrace.estimate.sample import Sample
from tests.support.engine_sim import Engine, poisson
from tests.support.memory import size

ROUTES, RATE = 100, 1_000.0
"""Routes that take turns, and calls/s over all of them."""
_CALLS = 120
"""Of each route."""
_SETTLED = 40
"""Calls of each route before they are timed: until then there is no curve."""
CHARACTERS = (1_000, 20_000, 200_000)
"""Lengths of the prompts that are marked."""
_BASE = 10**12


def measure(say: Callable[[str, float], None]) -> dict[str, Any]:
    """Microseconds of thread time by kind of work and bytes."""
    say("cost of an update", 0.0)
    baselines = Baselines()
    asked: list[Hashable] = []
    baselines._fitter.ask = asked.append  # type: ignore[method-assign]  # fitted below: not on this thread's bill
    moments: list[tuple[float, int, int, int]] = []
    routes = [poisson(number, _CALLS, RATE / ROUTES) for number in range(ROUTES)]
    for route, calls in enumerate(routes):
        Engine(slots=4).run(calls, route)
        for number, call in enumerate(calls):
            moments += [(call.sent, 0, route, number), (call.first, 1, route, number), (call.end, 2, route, number)]
    all_in_flight: dict[tuple[int, int], Any] = {}
    spent: dict[tuple[int, int], int] = {}
    for at, kind, route, number in sorted(moments):
        call, mine, ns = routes[route][number], (route, number), _BASE + int(at * 1e9)
        if kind == 0:
            begun = time.thread_time_ns()
            all_in_flight[mine] = baselines.begin(route, ns, 4 * call.uncached)
            spent[mine] = time.thread_time_ns() - begun
        elif kind == 1:
            all_in_flight[mine].first_token_came(ns)
        else:
            sent, headers, first = (_BASE + int(s * 1e9) for s in (call.sent, call.headers, call.first))
            sample = Sample(sent, first, ns, call.uncached, headers=headers, event=first, tokens=call.output)
            begun = time.thread_time_ns()
            baselines.end(route, all_in_flight.pop(mine), ns, sample)
            spent[mine] += time.thread_time_ns() - begun
            while asked:
                baselines._fit(asked.pop())
    found = {"update of a call": _summary([ns for (_, number), ns in spent.items() if number >= _SETTLED])}
    prefixes, hits = Prefixes(), RouteHits()
    for length in CHARACTERS:
        found[f"marks of a prompt of {length:,} characters"] = _summary(_marking(prefixes, length))
    found["verdict on a hit, where the provider counts none"] = _summary(_judging(hits))
    say("cost of an update", 10.0)
    return {
        "microseconds": found,
        "bytes": {
            "a route": max(size(baselines.route(route)) for route in range(ROUTES)),
            "more, where hits are told from timing": size(hits._routes[0]),
        },
    }


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
    ordered = sorted(spent)
    return {
        "median": median(ordered) / 1e3,
        "mean": sum(ordered) / len(ordered) / 1e3,
        "p90": ordered[len(ordered) * 9 // 10] / 1e3,
    }
