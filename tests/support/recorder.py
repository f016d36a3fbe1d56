"""Spans of known times, in the shapes of either version of the span contract: the real SDK, and our own exporter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
Event = tuple[str, dict[str, Any]]


class CountingIds(RandomIdGenerator):
    """Ids in order, so that output can be compared with a stored text."""

    def __init__(self, traces: int = 0) -> None:
        self.spans = 0
        self.traces = traces

    def generate_span_id(self) -> int:
        self.spans += 1
        return 0xA000000000000000 + self.spans

    def generate_trace_id(self) -> int:
        self.traces += 1
        return 0x4BF92F3577B34DA600000000 << 32 | self.traces


class Recorder:
    """Makes calls with phases, as llmtrace emits them in a ``version`` of the contract."""

    def __init__(self, version: int = 2, traces: int = 0) -> None:
        """``traces``: how many there are elsewhere, so that ids are others than theirs."""
        self.version = version
        self.memory = InMemorySpanExporter()
        provider = TracerProvider(
            id_generator=CountingIds(traces), resource=Resource({"service.name": "demo"}), shutdown_on_exit=False
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
        events: Sequence[Event] = (),
    ) -> Span:
        """``events`` lie in the middle of the span."""
        context = set_span_in_context(parent) if parent is not None else None
        span = self.tracer.start_span(name, context=context, kind=kind, start_time=start, attributes=attributes)
        for event, event_attributes in events:
            span.add_event(event, event_attributes, start + duration // 2)
        if error:
            span.set_status(Status(StatusCode.ERROR, error))
        span.end(start + duration)
        return span

    def phases(
        self,
        parent: Span,
        start: int,
        phases: Sequence[Phase],
        more: Mapping[str, dict[str, Any]] | None = None,
        verdicts: Mapping[str, dict[str, Any]] | None = None,
    ) -> int:
        """``more``: further attributes, ``verdicts``: what the diagnosis's event tells, both by phase."""
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
            attributes.update((more or {}).get(name, {}))
            events = [verdict(evidence) for phase, evidence in (verdicts or {}).items() if phase == name]
            self.span(f"llm.{name}", at, round(ms * MS), parent, attributes=attributes, events=events)
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
        more: Mapping[str, dict[str, Any]] | None = None,
        verdicts: Mapping[str, dict[str, Any]] | None = None,
        gap: int = 250 * MS,
    ) -> Span:
        """A call and its phases; ``more`` and ``verdicts`` are by phase, and version 1 has the latter on the call."""
        start = self.clock
        causes = [evidence["cause"] for evidence in (verdicts or {}).values()]
        judged: dict[str, Any] = {"llmtrace.diagnosis": causes} if causes else {}
        if causes and self.version > 1:
            judged["llmtrace.diagnosis.cause"] = causes[0]
        events = [verdict(evidence) for evidence in (verdicts or {}).values()] if self.version == 1 else []
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
                "llmtrace.schema_version": self.version,
                **({"error.type": error} if error else {}),
                **judged,
                **(attributes or {}),
            },
            f"{error} after 12 tokens" if error else None,
            events,
        )
        self.phases(span, start, phases, more, verdicts if self.version > 1 else None)
        self.clock = start + duration + gap
        return span


def verdict(evidence: Mapping[str, Any]) -> Event:
    """The event of a verdict."""
    return "llmtrace.diagnosis", {f"llmtrace.diagnosis.{name}": value for name, value in evidence.items()}


def usage(tokens_in: int, cached: int | None, out: int) -> dict[str, Any]:
    attributes = {"gen_ai.usage.input_tokens": tokens_in, "gen_ai.usage.output_tokens": out}
    if cached is not None:
        attributes["gen_ai.usage.cache_read.input_tokens"] = cached
    return attributes


LONG_PROMPT = {"cause": "prefill_surge", "excess": 1.088, "time_per_token": 0.001136, "confidence": 0.97}
FEW_CALLS = {
    "llmtrace.phase.merged_because": "few_calls",
    "llmtrace.phase.merged_because.detail": "12 of 30 calls on this route; 18 more, or a saved baseline, would help",
}
NO_STREAM = {"llmtrace.phase.merged_because": "no_stream"}


def overhead(version: int, ms: float, unsure: float) -> list[Phase]:
    """The phases before the server's own time: in version 1 all of it was network."""
    if version == 1:
        return [("network", ms, "client", unsure, None)]
    return [("network", 0.14, "client", None, None), ("unattributed", round(ms - 0.14, 6), "client", unsure, None)]


def demo_calls(recorder: Recorder) -> Recorder:
    """One call of every kind that a run of the demo makes."""
    version = recorder.version
    few_calls = {"queue_prefill": FEW_CALLS} if version > 1 else None
    recorder.call(
        [
            *overhead(version, 2.14, 0.31),
            ("queue", 1.2, "server", None, None),
            ("prefill", 96.4, "device", None, 42),
            ("decode", 612.0, "client", 1.1, 48),
        ],
        attributes=usage(42, 0, 48),
    )
    recorder.call(
        [
            *overhead(version, 2.4, 0.31),
            ("queue", 0.9, "server", None, None),
            ("prefill", 1184.0, "device", None, 1042),
            ("decode", 644.0, "client", 1.1, 48),
        ],
        attributes=usage(1042, 0, 48),
        verdicts={"prefill": LONG_PROMPT},
    )
    recorder.call(
        [
            *overhead(version, 2.2, 0.3),
            ("queue", 0.7, "server", None, None),
            ("kv_cache_hit", 3.4, "device", None, 1024),
            ("prefill", 88.0, "device", None, 18),
            ("decode", 631.0, "client", 1.1, 48),
        ],
        attributes=usage(1042, 1024, 48),
    )
    recorder.call(
        [
            *overhead(version, 2.0, 0.3),
            ("queue", 843.0, "estimate", 92.0, None),
            ("prefill", 118.0, "estimate", 24.0, 56),
            ("decode", 702.0, "client", 1.2, 48),
        ],
        attributes=usage(56, 0, 48),
    )
    recorder.call(
        [
            *overhead(version, 2.0, 0.3),
            ("queue_prefill", 411.0, "client", 0.4, None),
            ("decode", 188.0, "client", 1.2, 12),
        ],
        outcome="cancelled",
        attributes={"llmtrace.cancellation.phase": "decode", "llmtrace.cancellation.delivered_tokens": 12},
        more=few_calls,
    )
    recorder.call(
        [("opaque", 934.0, "client", 0.2, None)],
        attributes=usage(128, None, 32),
        more={"opaque": NO_STREAM} if version > 1 else None,
    )
    retried(recorder)
    recorder.call(
        [
            *overhead(version, 2.0, 0.3),
            ("queue_prefill", 207.0, "client", 0.4, None),
            ("decode", 96.0, "client", None, 12),
        ],
        outcome="error",
        error="APIError",
        more=few_calls,
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
            "llmtrace.schema_version": recorder.version,
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
            *overhead(recorder.version, 2.0, 0.3),
            ("queue", 1.0, "server", None, None),
            ("prefill", 97.0, "device", None, 42),
            ("decode", 480.0, "client", 1.0, 48),
        ],
    )
    recorder.clock = start + total + 250 * MS
    return span
