"""The row of clients: the CPU time that llmtrace adds to each.

One process plays both parts over real sockets; what is counted is the client's thread alone. Bare and traced rounds
take turns; the table shows the median of their differences, for streams of 200 chunks (the call's own share in it) and
for whole answers. ``python -m tests.evaluation.overhead.clients ROUNDS`` prints them as JSON.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from time import thread_time_ns

from opentelemetry.instrumentation.utils import suppress_instrumentation

import llmtrace
from tests.evaluation.common.quantiles import median
from tests.evaluation.common.tables import Table
from tests.evaluation.overhead.outcome import Outcome, Plan
from tests.evaluation.overhead.processes import printed
from tests.evaluation.overhead.sinks import Sinks
from tests.support import by_funnel, by_library, by_method
from tests.support.by_method import Driver
from tests.support.replay import Replay

CHUNKS = 200
ROUNDS, QUICK_ROUNDS = 5, 2
CALLS = 4
"""Calls in a round."""

Costs = dict[str, float]
"""µs: a bare chunk, what llmtrace adds to it, a bare call, what llmtrace adds to it."""


def measure(plan: Plan) -> Outcome:
    """Measure in a process of its own."""
    rounds = plan.rounds or (QUICK_ROUNDS if plan.quick else ROUNDS)
    with plan.console.status("each client"):
        known: dict[str, Costs] = printed("tests.evaluation.overhead.clients", str(rounds), *sorted(plan.only or ()))
    rows = [[name, f"{us['chunk_added']:.1f}", f"{us['call_added']:.0f}"] for name, us in known.items()]
    head = ["client", "added, µs a chunk", "added, µs a call"]
    return Outcome([Table("Each client", head, rows)], figures={"us": known, "rounds": rounds})


def spent(action: Callable[[], object]) -> float:
    """CPU microseconds of this thread per call of ``action``."""
    gc.collect()
    gc.disable()
    begun = thread_time_ns()
    for _ in range(CALLS):
        action()
    took = thread_time_ns() - begun
    gc.enable()
    return took / CALLS / 1e3


def compare(driver: Driver, action: Callable[[], object], sinks: Sinks, rounds: int) -> tuple[float, float]:
    """The bare client's cost, and what llmtrace adds: medians over the rounds, in microseconds."""
    bare: list[float] = []
    added: list[float] = []
    llmtrace.instrument(driver.name, tracer_provider=sinks.tracer_provider, meter_provider=sinks.meter_provider)
    action()
    for _ in range(rounds):
        # The patches stay in place: taking them out would make the interpreter specialise its code anew each time.
        with suppress_instrumentation():
            before = spent(action)
        traced = spent(action)
        bare.append(before)
        added.append(traced - before)
    llmtrace.uninstrument()
    return median(bare), median(added)


def costs(rounds: int, only: set[str]) -> dict[str, Costs]:
    """Each client's."""
    sinks = Sinks(sampled=True, with_metrics=True, everywhere=False)
    known: dict[str, Costs] = {}
    for make in (*by_funnel.DRIVERS, *by_method.DRIVERS, *by_library.DRIVERS):
        if only and make.__name__ not in only:
            continue
        with Replay() as replay:
            driver = make(make.kinds[0], replay.url)
            body = b"".join(driver.events([f"word {i}" for i in range(CHUNKS)]))
            replay.serve(driver.script([(0.0, body)]))
            chunk, chunk_added = compare(driver, lambda driver=driver: driver.read(), sinks, rounds)
            replay.serve(driver.whole())
            ask: Callable[[], object] = lambda driver=driver: driver.run(driver.ask, False)  # noqa: E731
            call, call_added = compare(driver, ask, sinks, rounds)
            driver.shut()
        each = {"chunk": chunk / CHUNKS, "chunk_added": chunk_added / CHUNKS, "call": call, "call_added": call_added}
        known[make.__name__] = each
    return known


def main() -> None:
    """Measure and print."""
    print(json.dumps(costs(int(sys.argv[1]), set(sys.argv[2:]))))


if __name__ == "__main__":
    main()
