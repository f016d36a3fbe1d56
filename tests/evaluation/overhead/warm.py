"""The row of costs in one warm process, without sockets, where a busy machine disturbs least.

Batches of calls are traced and suppressed in turns (OpenTelemetry's own ``suppress_instrumentation``), with the patches
in place in both: taking them out would make the interpreter specialise its code anew each time. Left out: the wrappers
themselves (about 3 µs a call) and the transport's own events (about ten a call). The splice alone is timed over an
iterator that costs nothing. Figures are medians of paired differences, µs of CPU time. A chunk of the client's own
stream is measured over many processes (``layouts.py``).

``python -m tests.evaluation.overhead.warm ROUNDS`` prints them as JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator

from opentelemetry.instrumentation.utils import suppress_instrumentation

import llmtrace
from llmtrace.observe.call import OUTPUT, Call
from llmtrace.observe.stream import Guard, asplice, splice
from tests.evaluation.common.bars import Bar
from tests.evaluation.common.quantiles import median
from tests.evaluation.common.tables import Table
from tests.evaluation.overhead import inmemory, layouts, replayed
from tests.evaluation.overhead.inmemory import ALL_PHASES, MODES, NO_METRICS, UNSAMPLED, Action
from tests.evaluation.overhead.outcome import FEWEST_ROUNDS, Outcome, Plan
from tests.evaluation.overhead.processes import printed
from tests.evaluation.overhead.sinks import Sinks
from tests.evaluation.overhead.tables import PER_CHUNK

BATCH, ROUNDS, QUICK_ROUNDS = 10, 60, 6
SPLICED = 4000
"""Chunks of the iterator that is spliced."""
PROCESSES, QUICK_PROCESSES = 20, 2
"""Processes of each arm, over which a chunk of the client's own stream is measured."""
OVER_DROPPED = 15.0
"""µs of an unsampled call over the SDK's own dropped span."""
BARE = "the bare client's own call"
SPANS, SPANS_RECORDS = "SDK: parent and four children", "SDK: parent, four children and as many records"
SAME, SAME_RECORDS = "SDK: the spans of a call as llmtrace makes them", "SDK: the spans and values that llmtrace makes"
DROPPED = "SDK: a dropped span"
FLOORS = {ALL_PHASES: (SPANS_RECORDS, SAME_RECORDS), NO_METRICS: (SPANS, SAME), UNSAMPLED: (DROPPED, DROPPED)}
"""What each mode stands beside: a floor that stays as it is, and what the SDK takes for the very same telemetry."""


def measure(plan: Plan) -> Outcome:
    """Measure the calls in a process of their own, and the chunks in many."""
    rounds = plan.rounds or (QUICK_ROUNDS if plan.quick else ROUNDS)
    with plan.console.status("in one warm process"):
        known: dict[str, float] = printed("tests.evaluation.overhead.warm", str(rounds))
    rows = [[what, f"{us:.2f}", *ratios(what, known)] for what, us in known.items()]
    head = ["what", "µs", "x the SDK's, after each call of the client", "x the SDK's for the same"]
    processes = plan.rounds or (QUICK_PROCESSES if plan.quick else PROCESSES)
    with plan.console.status("chunks") as status:
        chunks = layouts.measure(processes, plan.seed, lambda arm: status.update(f"a chunk: {arm}"))
    tables = [Table("In one warm process", head, rows), layouts.table(chunks)]
    over = known[UNSAMPLED] - known[DROPPED]
    bars = [
        _bar("unsampled, over the SDK's own dropped span", over, OVER_DROPPED, rounds),
        *(
            _bar(f"{kind}, over many processes (95 % interval {low:.2f} to {high:.2f})", value, PER_CHUNK, processes)
            for kind, (value, low, high) in layouts.differences(chunks, layouts.TRACED).items()
        ),
    ]
    return Outcome(tables, bars, figures={"us": known, "rounds": rounds, "chunks": chunks})


def ratios(what: str, known: dict[str, float]) -> list[str]:
    """Two cells: how many times its two floors a mode takes."""
    return [f"{known[what] / known[floor]:.2f}" for floor in FLOORS[what]] if what in FLOORS else ["", ""]


def _bar(what: str, value: float, most: float, rounds: int) -> Bar:
    return Bar(what, value, most=most, calls=rounds, unit=" µs", fewest=FEWEST_ROUNDS)


def per_call(action: Action) -> float:
    """CPU µs of one call, over a batch."""
    start = time.process_time_ns()
    for _ in range(BATCH):
        action()
    return (time.process_time_ns() - start) / BATCH / 1e3


def calls(rounds: int) -> dict[str, float]:
    """µs a call over the bare client, by mode; and the client's and the SDK's own."""
    call, histogram_records = inmemory.call(), inmemory.records_of_a_call()
    sampled = Sinks(sampled=True, with_metrics=True, everywhere=False)
    unsampled = Sinks(sampled=False, with_metrics=False, everywhere=False)
    floors = {
        SPANS: inmemory.sdk_spans(sampled, 0),
        SPANS_RECORDS: inmemory.sdk_spans(sampled, histogram_records),
        SAME: replayed.of_a_call(sampled, with_metrics=False),
        SAME_RECORDS: replayed.of_a_call(sampled, with_metrics=True),
        DROPPED: inmemory.dropped_span(unsampled),
    }
    bare: list[float] = []
    known: dict[str, float] = {}
    for mode in MODES:
        sinks = inmemory.switched_on(mode)
        over: list[float] = []
        beside: dict[str, list[float]] = {what: [] for what in FLOORS[mode]}
        for _ in range(rounds):
            with suppress_instrumentation():
                without = per_call(call)
                for what, times in beside.items():
                    times.append(per_call(_after(call, floors[what])) - without)
            over.append(per_call(call) - without)
            bare.append(without)
        start = time.process_time_ns()
        sinks.collect()
        collected = (time.process_time_ns() - start) / (BATCH * rounds) / 1e3
        known[mode] = median(over) + collected
        known |= {what: median(times) for what, times in beside.items()}
        llmtrace.uninstrument()
    return {BARE: median(bare)} | known


def _after(call: Action, floor: Action) -> Action:
    """``floor`` after each call of the client, which has swept the caches."""

    def both() -> None:
        call()
        floor()

    return both


def new_call() -> Call:
    call = Call(lambda call: call.chunk_timing.fold(), lambda chunk: OUTPUT, streaming=True)
    call.returned = call.start
    return call


def spliced_chunks(rounds: int) -> dict[str, float]:
    """µs a chunk of the splice over the same iterator without it."""

    def source() -> Iterator[str]:
        for _ in range(SPLICED):
            yield "x"

    async def asource() -> AsyncIterator[str]:
        for _ in range(SPLICED):
            yield "x"

    def drain(items: Iterator[str]) -> float:
        start = time.process_time_ns()
        for _ in items:
            pass
        return (time.process_time_ns() - start) / SPLICED / 1e3

    async def adrain(items: AsyncIterator[str]) -> float:
        start = time.process_time_ns()
        async for _ in items:
            pass
        return (time.process_time_ns() - start) / SPLICED / 1e3

    async def both() -> dict[str, float]:
        spent: dict[str, list[float]] = {"bare": [], "spliced": [], "abare": [], "aspliced": []}
        for _ in range(rounds):
            call = new_call()
            spent["bare"].append(drain(source()))
            spent["spliced"].append(drain(splice(source(), call, Guard(call, lambda call: None))))
            call = new_call()
            spent["abare"].append(await adrain(asource()))
            spent["aspliced"].append(await adrain(asplice(asource(), call, Guard(call, lambda call: None))))
        typical = {name: median(values) for name, values in spent.items()}
        return {
            "a chunk, the splice alone": typical["spliced"] - typical["bare"],
            "an async chunk, the splice alone": typical["aspliced"] - typical["abare"],
        }

    return asyncio.run(both())


def main() -> None:
    """Measure and print."""
    rounds = int(sys.argv[1])
    gc.collect()
    gc.freeze()
    print(json.dumps(calls(rounds) | spliced_chunks(rounds)))


if __name__ == "__main__":
    main()
