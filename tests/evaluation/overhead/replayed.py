"""What the SDK takes for the very spans, attributes, events and values that llmtrace gives it for one call.

The floor of a parent and four children is the same whatever llmtrace does; this one says how much of llmtrace's cost is
its own work, and how much the SDK's with what it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry.context import Context
from opentelemetry.metrics import MeterProvider, NoOpCounter, NoOpHistogram, NoOpMeter
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, set_span_in_context

import llmtrace
from llmtrace.emit import later
from tests.evaluation.overhead import inmemory
from tests.evaluation.overhead.inmemory import Action
from tests.evaluation.overhead.sinks import Sinks

_KNOWN = 80
"""Calls before the one that is kept: by then the estimator knows the route."""

Value = tuple[type, str, float, dict[str, Any]]
"""The kind of instrument, its name, the value, its attributes."""


class _Histogram(NoOpHistogram):
    def __init__(self, name: str, values: list[Value]) -> None:
        super().__init__(name)
        self._kept, self._called = values, name

    def record(self, amount: float, attributes: Any = None, context: Context | None = None) -> None:
        self._kept.append((_Histogram, self._called, amount, dict(attributes or {})))


class _Counter(NoOpCounter):
    def __init__(self, name: str, values: list[Value]) -> None:
        super().__init__(name)
        self._kept, self._called = values, name

    def add(self, amount: float, attributes: Any = None, context: Context | None = None) -> None:
        self._kept.append((_Counter, self._called, amount, dict(attributes or {})))


class _Meter(NoOpMeter):
    def __init__(self, values: list[Value]) -> None:
        super().__init__("kept")
        self._kept = values

    def create_histogram(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return _Histogram(name, self._kept)

    def create_counter(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return _Counter(name, self._kept)


class _Values(MeterProvider):
    """Keeps each value that is recorded."""

    def __init__(self) -> None:
        self.kept: list[Value] = []

    def get_meter(self, *args: Any, **kwargs: Any) -> Any:
        return _Meter(self.kept)


class _Spans(SpanExporter):
    def __init__(self) -> None:
        self.kept: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.kept.extend(spans)
        return SpanExportResult.SUCCESS


def of_a_call(sinks: Sinks, with_metrics: bool) -> Callable[[], None]:
    """Do with the SDK alone, into ``sinks``, what llmtrace does with it for one call with all its phases."""
    return _replayed(sinks, *_kept(with_metrics, inmemory.call()))


def of_a_stream(sinks: Sinks) -> Callable[[], None]:
    """The same for one of the row of concurrent streams."""
    with inmemory.concurrent_calls(1) as action:
        return _replayed(sinks, *_kept(True, action))


def _replayed(sinks: Sinks, spans: Sequence[ReadableSpan], values: Sequence[Value]) -> Callable[[], None]:
    tracer = sinks.tracer_provider.get_tracer("floor")
    own = next(span for span in spans if span.parent is None)
    given = list((own.attributes or {}).items())
    at_start, at_end = dict(given[:5]), dict(given[5:])
    children = [span for span in spans if span is not own]
    records = _recorders(sinks, values)

    def call() -> None:
        parent = tracer.start_span(own.name, kind=SpanKind.CLIENT, attributes=at_start, start_time=own.start_time)
        context = set_span_in_context(parent)
        parent.set_attributes(at_end)
        for event in own.events:
            parent.add_event(event.name, event.attributes, event.timestamp)
        for each in children:
            child = tracer.start_span(each.name, context, attributes=each.attributes, start_time=each.start_time)
            for event in each.events:
                child.add_event(event.name, event.attributes, event.timestamp)
            child.end(each.end_time)
        for record, value, attributes in records:
            record(value, attributes, context=context)
        parent.end(own.end_time)

    return call


def _recorders(sinks: Sinks, values: Sequence[Value]) -> list[tuple[Callable[..., None], float, dict[str, Any]]]:
    if sinks.meter_provider is None:
        return []
    meter = sinks.meter_provider.get_meter("floor")
    instruments: dict[str, Callable[..., None]] = {}
    for kind, name, _, _ in values:
        if name not in instruments:
            histogram = kind is _Histogram
            instruments[name] = meter.create_histogram(name).record if histogram else meter.create_counter(name).add
    return [(instruments[name], value, attributes) for _, name, value, attributes in values]


def _kept(with_metrics: bool, action: Action) -> tuple[list[ReadableSpan], list[Value]]:
    """The spans and the values of the one call that ``action`` makes."""
    exporter, meters = _Spans(), _Values()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    more: dict[str, Any] = {"meter_provider": meters} if with_metrics else {"metrics": False}
    llmtrace.instrument("openai", tracer_provider=provider, **more)
    for _ in range(_KNOWN):
        action()
    later.settle()
    exporter.kept.clear()
    meters.kept.clear()
    action()
    later.settle()
    llmtrace.uninstrument()
    return exporter.kept, meters.kept
