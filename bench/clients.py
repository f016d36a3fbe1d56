"""CPU time that llmtrace adds to each client: ``python -m bench.clients``.

One process plays both parts over real sockets; what is counted is the client's thread alone. Bare and traced rounds
take turns; the table shows the median of their differences, for streams of 200 chunks (the call's own share in it) and
for whole answers.
"""

from __future__ import annotations

import gc
import statistics
import sys
from collections.abc import Callable
from time import thread_time_ns

from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor as Processor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

import llmtrace
from tests.support import by_funnel, by_library, by_method
from tests.support.by_method import Driver
from tests.support.replay import Replay

CHUNKS = 200
ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 15
CALLS = 4
"""Calls in a round."""


class Nowhere(SpanExporter):
    """Takes every span and does nothing with it."""

    def export(self, spans: object) -> SpanExportResult:
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass


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


def compare(driver: Driver, action: Callable[[], object], providers: dict[str, object]) -> tuple[float, float]:
    """The bare client's cost, and what llmtrace adds: medians over the rounds, in microseconds."""
    bare: list[float] = []
    added: list[float] = []
    llmtrace.instrument(driver.name, **providers)
    action()
    for _ in range(ROUNDS):
        # The patches stay in place: taking them out would make the interpreter specialise its code anew each time.
        with suppress_instrumentation():
            before = spent(action)
        traced = spent(action)
        bare.append(before)
        added.append(traced - before)
    llmtrace.uninstrument()
    return statistics.median(bare), statistics.median(added)


def main() -> None:
    """Measure each client and print a table."""
    tracers = TracerProvider()
    tracers.add_span_processor(Processor(Nowhere()))
    providers = {
        "tracer_provider": tracers,
        "meter_provider": MeterProvider(metric_readers=[InMemoryMetricReader()]),
    }
    print("| client | bare, per chunk | llmtrace adds | bare, per call | llmtrace adds |\n|---|---|---|---|---|")
    for made in (*by_funnel.DRIVERS, *by_method.DRIVERS, *by_library.DRIVERS):
        with Replay() as replay:
            driver = made(made.kinds[0], replay.url)
            body = b"".join(driver.events([f"word {i}" for i in range(CHUNKS)]))
            streamed = driver.script([(0.0, body)])
            replay.serve(streamed)
            chunk, per_chunk = compare(driver, lambda driver=driver: driver.read(), providers)
            replay.serve(driver.whole())
            call, per_call = compare(driver, lambda driver=driver: driver.run(driver.ask, False), providers)
            row = f"{chunk / CHUNKS:.1f} µs | {per_chunk / CHUNKS:+.2f} µs | {call:.0f} µs | {per_call:+.0f} µs"
            print(f"| {made.__name__} | {row} |", flush=True)
            driver.shut()


if __name__ == "__main__":
    main()
