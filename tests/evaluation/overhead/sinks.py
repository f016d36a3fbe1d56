"""Where a worker's telemetry goes: spans are counted and dropped, metrics are collected in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON


class Dropper(SpanExporter):
    """Counts spans and lets go of them."""

    def __init__(self) -> None:
        self.spans = 0
        self.attributes = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.spans += len(spans)
        for span in spans:
            self.attributes += len(span.attributes or ())
        return SpanExportResult.SUCCESS


class Sinks:
    """The providers of one worker, the same for every subject.

    ``everywhere``: they are OpenTelemetry's global providers too, which a process can set once.
    """

    def __init__(
        self, *, sampled: bool, with_metrics: bool, own_processor: bool = False, everywhere: bool = True
    ) -> None:
        self.dropper = Dropper()
        self.tracer_provider = TracerProvider(sampler=ALWAYS_ON if sampled else ALWAYS_OFF)
        if not own_processor:
            self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.dropper))
        if everywhere:
            trace.set_tracer_provider(self.tracer_provider)
        self.reader = InMemoryMetricReader() if with_metrics else None
        self.meter_provider = MeterProvider([self.reader]) if self.reader else None
        if self.meter_provider and everywhere:
            metrics.set_meter_provider(self.meter_provider)

    def collect(self) -> Any:
        """One collection of the metrics, as a periodic reader would make."""
        return self.reader.get_metrics_data() if self.reader else None


def records(data: Any) -> int:
    """How many histogram records ``data`` adds up to since the process began."""
    total = 0
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                total += sum(getattr(point, "count", 0) for point in metric.data.data_points)
    return total
