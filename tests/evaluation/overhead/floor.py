"""The SDK's own cost: the spans and histogram records of one call, with no client and no instrumentation."""

from __future__ import annotations

import time
from collections.abc import Callable

from opentelemetry import trace

from tests.evaluation.overhead.sinks import Sinks

CHILDREN = 4
AT_START = {f"gen_ai.request.{key}": value for key, value in (("model", "m"), ("a", 1), ("b", 0.5), ("c", "x"))}
AT_END = {f"gen_ai.response.attribute_{i}": i for i in range(12)}
ON_CHILD = {f"llmtrace.phase.attribute_{i}": i for i in range(4)}
ON_RECORD = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "m"}


def floor(sinks: Sinks, records: int) -> Callable[[int], None]:
    """A load: per time, a parent with attributes, four children with explicit times, and ``records`` records."""
    tracer = sinks.tracer_provider.get_tracer("bench")
    assert sinks.meter_provider
    histogram = sinks.meter_provider.get_meter("bench").create_histogram("bench.duration", "s")

    def load(times: int) -> None:
        for _ in range(times):
            start = time.time_ns()
            parent = tracer.start_span("chat", kind=trace.SpanKind.CLIENT, attributes=AT_START, start_time=start)
            context = trace.set_span_in_context(parent)
            for i in range(CHILDREN):
                child = tracer.start_span("llm.phase", context, attributes=ON_CHILD, start_time=start + i)
                child.end(start + i + 1)
            parent.set_attributes(AT_END)
            parent.end(start + CHILDREN)
            for i in range(records):
                histogram.record(0.5, ON_RECORD | {"phase": i})

    return load
