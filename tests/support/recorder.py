"""Spans of known times, made by the real SDK and written by our own exporter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context

from llmtrace.emit.otlp_json import OtlpJsonFileExporter

MS = 1_000_000
START = 1_760_000_000_000_000_000

# phase, milliseconds, source, uncertainty in ms, tokens
Phase = tuple[str, float, str | None, float | None, int | None]


class CountingIds(RandomIdGenerator):
    """Ids in order, so that output can be compared with a stored text."""

    def __init__(self) -> None:
        self.spans = 0
        self.traces = 0

    def generate_span_id(self) -> int:
        self.spans += 1
        return 0xA000000000000000 + self.spans

    def generate_trace_id(self) -> int:
        self.traces += 1
        return 0x4BF92F3577B34DA600000000 << 32 | self.traces


class Recorder:
    """Makes calls with phases, as llmtrace emits them."""

    def __init__(self) -> None:
        self.memory = InMemorySpanExporter()
        provider = TracerProvider(
            id_generator=CountingIds(), resource=Resource({"service.name": "demo"}), shutdown_on_exit=False
        )
        provider.add_span_processor(SimpleSpanProcessor(self.memory))
        self.tracer = provider.get_tracer("llmtrace", "0.1.0", schema_url="https://opentelemetry.io/schemas/1.40.0")
        self.clock = START

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self.memory.get_finished_spans()

    def save(self, path: Path) -> Path:
        exporter = OtlpJsonFileExporter(path)
        for span in self.spans:
            exporter.export([span])
        exporter.shutdown()
        return path

    def span(
        self,
        name: str,
        start: int,
        duration: int,
        parent: Span | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: dict[str, Any] | None = None,
        error: str | None = None,
    ) -> Span:
        context = set_span_in_context(parent) if parent is not None else None
        span = self.tracer.start_span(name, context=context, kind=kind, start_time=start, attributes=attributes)
        if error:
            span.set_status(Status(StatusCode.ERROR, error))
        span.end(start + duration)
        return span

    def phases(self, parent: Span, start: int, phases: Sequence[Phase]) -> int:
        at = start
        for name, ms, source, unsure, tokens in phases:
            attributes: dict[str, Any] = {"llmtrace.phase": name}
            if source:
                attributes["llmtrace.phase.source"] = source
            if unsure:
                attributes["llmtrace.phase.uncertainty"] = unsure / 1e3
            if tokens is not None:
                attributes["llmtrace.phase.tokens"] = tokens
                if tokens:
                    attributes["llmtrace.phase.time_per_token"] = ms / 1e3 / tokens
            self.span(f"llm.{name}", at, round(ms * MS), parent, attributes=attributes)
            at += round(ms * MS)
        return at

    def call(
        self,
        phases: Sequence[Phase],
        *,
        name: str = "chat smol-135m",
        outcome: str = "completed",
        error: str | None = None,
        parent: Span | None = None,
        attributes: dict[str, Any] | None = None,
        gap: int = 250 * MS,
    ) -> Span:
        start = self.clock
        duration = sum(round(ms * MS) for _, ms, _, _, _ in phases)
        span = self.span(
            name,
            start,
            duration,
            parent,
            SpanKind.CLIENT,
            {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": "openai",
                "gen_ai.request.model": "smol-135m",
                "gen_ai.request.stream": True,
                "server.address": "127.0.0.1",
                "server.port": 8321,
                "llmtrace.call.outcome": outcome,
                "llmtrace.schema_version": 1,
                **({"error.type": error} if error else {}),
                **(attributes or {}),
            },
            f"{error} after 12 tokens" if error else None,
        )
        self.phases(span, start, phases)
        self.clock = start + duration + gap
        return span


def usage(tokens_in: int, cached: int | None, out: int) -> dict[str, Any]:
    told = {"gen_ai.usage.input_tokens": tokens_in, "gen_ai.usage.output_tokens": out}
    if cached is not None:
        told["gen_ai.usage.cache_read.input_tokens"] = cached
    return told


def demo_calls(recorder: Recorder) -> Recorder:
    """One call of every kind that a run of the demo makes."""
    recorder.call(
        [
            ("network", 2.14, "client", 0.31, None),
            ("queue", 1.2, "server", None, None),
            ("prefill", 96.4, "device", None, 42),
            ("decode", 612.0, "client", 1.1, 48),
        ],
        attributes=usage(42, 0, 48),
    )
    recorder.call(
        [
            ("network", 2.4, "client", 0.31, None),
            ("queue", 0.9, "server", None, None),
            ("prefill", 1184.0, "device", None, 1042),
            ("decode", 644.0, "client", 1.1, 48),
        ],
        attributes={**usage(1042, 0, 48), "llmtrace.diagnosis": "long prompt"},
    )
    recorder.call(
        [
            ("network", 2.2, "client", 0.3, None),
            ("queue", 0.7, "server", None, None),
            ("kv_cache_hit", 3.4, "device", None, 1024),
            ("prefill", 88.0, "device", None, 18),
            ("decode", 631.0, "client", 1.1, 48),
        ],
        attributes=usage(1042, 1024, 48),
    )
    recorder.call(
        [
            ("network", 2.0, "client", 0.3, None),
            ("queue", 843.0, "estimate", 92.0, None),
            ("prefill", 118.0, "estimate", 24.0, 56),
            ("decode", 702.0, "client", 1.2, 48),
        ],
        attributes=usage(56, 0, 48),
    )
    recorder.call(
        [
            ("network", 2.0, "client", 0.3, None),
            ("queue_prefill", 411.0, "client", 0.4, None),
            ("decode", 188.0, "client", 1.2, 12),
        ],
        outcome="cancelled",
        attributes={"llmtrace.cancellation.phase": "decode", "llmtrace.cancellation.delivered_tokens": 12},
    )
    recorder.call([("opaque", 934.0, "client", 0.2, None)], attributes=usage(128, None, 32))
    retried(recorder)
    recorder.call(
        [
            ("network", 2.0, "client", 0.3, None),
            ("queue_prefill", 207.0, "client", 0.4, None),
            ("decode", 96.0, "client", None, 12),
        ],
        outcome="error",
        error="APIError",
    )
    return recorder


def retried(recorder: Recorder) -> Span:
    """Two refused attempts, then one that answers: phases lie under it."""
    start = recorder.clock
    total = 1480 * MS
    span = recorder.span(
        "chat smol-135m",
        start,
        total,
        kind=SpanKind.CLIENT,
        attributes={
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "smol-135m",
            "llmtrace.call.outcome": "completed",
            **usage(42, 0, 48),
        },
    )
    for at, length in ((0, 8), (512, 7)):
        recorder.span(
            "llm.attempt",
            start + at * MS,
            length * MS,
            span,
            attributes={"http.response.status_code": 429, "error.type": "429"},
            error="rate limited",
        )
    answered = recorder.span(
        "llm.attempt", start + 900 * MS, 580 * MS, span, attributes={"http.response.status_code": 200}
    )
    recorder.phases(
        answered,
        start + 900 * MS,
        [
            ("network", 2.0, "client", 0.3, None),
            ("queue", 1.0, "server", None, None),
            ("prefill", 97.0, "device", None, 42),
            ("decode", 480.0, "client", 1.0, 48),
        ],
    )
    recorder.clock = start + total + 250 * MS
    return span
