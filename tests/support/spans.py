"""Reading what was exported: span trees, metrics, and the contract that every call's tree must hold."""

from __future__ import annotations

import difflib
import itertools
import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from llmtrace.calls import finalizers
from tests.support.jaeger import off_the_path

SECRETS = ("PROMPT-SENTINEL", "SYSTEM-SENTINEL", "sk-sentinel-key")
"""What the tests put into prompts and keys: none of it may reach a span or a metric unless a setting asks."""

OUTCOMES = {"completed", "closed_early", "abandoned", "cancelled", "timed_out", "error", "never_consumed"}
SOURCES = {"device", "server", "client", "estimate"}
RANK = {
    "network": 0,
    "gateway": 1,
    "unattributed": 2,
    "model_load": 3,
    "queue": 4,
    "queue_prefill": 4,
    "kv_cache_hit": 5,
    "prefill": 6,
    "decode": 7,
    "opaque": 8,
}
MERGED = {"queue_prefill", "opaque"}
IN_PROCESS = {"transformers", "transformers.js", "webllm"}
"""Providers without a server."""
PARTS = {
    "llm.decode": {"reasoning", "output"},
    "llm.model_load": {"download", "read", "to_device", "compile", "warm_up"},
}
REASONS = {"no_usage", "few_calls", "narrow_spread", "buffered", "no_stream", "cut_short", "ambiguous"}
SHORTEST_NS = 2_000
"""Starts of spans that last so long can always be moved so that they fall below the microsecond."""

STATUSES = {
    "completed": {StatusCode.UNSET},
    "closed_early": {StatusCode.UNSET},
    "abandoned": {StatusCode.UNSET},
    "never_consumed": {StatusCode.UNSET},
    "error": {StatusCode.ERROR},
    "cancelled": {StatusCode.UNSET, StatusCode.ERROR},
    "timed_out": {StatusCode.UNSET, StatusCode.ERROR},
}

REQUIRED = (
    "gen_ai.operation.name",
    "gen_ai.provider.name",
    "gen_ai.request.model",
    "server.address",
    "server.port",
    "llmtrace.schema_version",
    "llmtrace.call.outcome",
)


class Spans:
    """A tracer provider of its own with an in-memory exporter, and questions about what arrived there."""

    def __init__(self, **provider: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(**provider)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def finished(self) -> list[ReadableSpan]:
        """Everything exported so far, earliest start first (of two at once, the empty one). Flushes nothing, but waits
        for the thread that ends dropped streams."""
        finalizers.settle()
        return sorted(self.exporter.get_finished_spans(), key=lambda s: (s.start_time or 0, s.end_time or 0))

    def flush(self) -> None:
        self.provider.force_flush()

    def clear(self) -> None:
        self.exporter.clear()

    def parents(self) -> list[ReadableSpan]:
        """The call spans, earliest first."""
        return [span for span in self.finished() if "gen_ai.operation.name" in attributes(span)]

    def children(self, span: ReadableSpan) -> list[ReadableSpan]:
        """Direct children, in the order of their starts."""
        return [child for child in self.finished() if child.parent and child.parent.span_id == span.context.span_id]

    def tree(self, span: ReadableSpan) -> list[Any]:
        """Nested names: ``[name, child, child, ...]``, each child the same."""
        return [span.name, *(self.tree(child) for child in self.children(span))]

    def phases(self, parent: ReadableSpan) -> dict[str, ReadableSpan]:
        """The phases of a call by short name, wherever they lie."""
        phases: dict[str, ReadableSpan] = {}
        for child in self.children(parent):
            if child.name == "llm.attempt":
                phases |= {p.name.removeprefix("llm."): p for p in self.children(child)}
            elif "llmtrace.phase" in attributes(child):
                phases[child.name.removeprefix("llm.")] = child
        return phases

    def one(self, outcome: str | Iterable[str] | None = None) -> ReadableSpan:
        """The only call span there is, its contract checked."""
        parents = self.parents()
        assert len(parents) == 1, [(p.name, dict(attributes(p))) for p in parents]
        self.check(parents[0])
        if outcome is not None:
            allowed = {outcome} if isinstance(outcome, str) else set(outcome)
            assert attributes(parents[0])["llmtrace.call.outcome"] in allowed
        return parents[0]

    def check_all(self) -> None:
        for parent in self.parents():
            self.check(parent)

    def check(self, parent: ReadableSpan, *, content: bool = False) -> None:
        assert_contract(self, parent, content=content)


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def outcome(span: ReadableSpan) -> str:
    return attributes(span)["llmtrace.call.outcome"]


def seconds(span: ReadableSpan) -> float:
    assert span.end_time is not None
    assert span.start_time is not None
    return (span.end_time - span.start_time) / 1e9


def assert_contract(spans: Spans, parent: ReadableSpan, *, content: bool = False) -> None:
    """DESIGN.md section 2, for one call: every name, every nanosecond."""
    attrs = attributes(parent)
    local = attrs.get("gen_ai.provider.name") in IN_PROCESS
    missing = [name for name in REQUIRED if name not in attrs and not (local and name.startswith("server."))]
    assert not missing, (missing, attrs)
    assert parent.name == f"{attrs['gen_ai.operation.name']} {attrs['gen_ai.request.model']}"
    assert parent.kind is (SpanKind.INTERNAL if local else SpanKind.CLIENT)
    assert attrs["llmtrace.schema_version"] == 2
    assert attrs.get("llmtrace.diagnosis.cause") == next(iter(attrs.get("llmtrace.diagnosis", ())), None)
    ended = attrs["llmtrace.call.outcome"]
    assert ended in OUTCOMES
    assert parent.status.status_code in STATUSES[ended], (ended, parent.status)
    assert ("error.type" in attrs) == (parent.status.status_code is StatusCode.ERROR), (ended, attrs)
    assert parent.end_time is not None
    assert parent.start_time is not None
    assert parent.end_time >= parent.start_time
    assert attrs.get("gen_ai.request.stream") in (None, True), "set only where the call streams"
    first = attrs.get("gen_ai.response.time_to_first_chunk")
    if first is not None:
        assert attrs.get("gen_ai.request.stream") is True
        assert 0 <= first <= seconds(parent) + 1e-6
    below = _below(spans, parent)
    for span in below:
        assert span.name.startswith("llm."), span.name
        assert span.kind is SpanKind.INTERNAL
        assert span.context.trace_id == parent.context.trace_id
        assert span.instrumentation_scope == parent.instrumentation_scope
        assert "gen_ai.operation.name" not in attributes(span), "one span per call"
    for span in [parent, *below]:
        _assert_values(span, content=content)
    _assert_phases(spans, parent)


def _below(spans: Spans, parent: ReadableSpan) -> list[ReadableSpan]:
    descendants: list[ReadableSpan] = []
    for child in spans.children(parent):
        if child.instrumentation_scope != parent.instrumentation_scope:
            continue  # another instrumentation's span, say httpx's
        descendants += [child, *_below(spans, child)]
    return descendants


def _assert_phases(spans: Spans, parent: ReadableSpan) -> None:
    ours = [c for c in spans.children(parent) if c.instrumentation_scope == parent.instrumentation_scope]
    attempts = [child for child in ours if child.name == "llm.attempt"]
    holder = parent
    if attempts:
        assert len(attempts) > 1, "an attempt span is only there where the client retried"
        assert ours == attempts, "phases lie under the attempt that answered"
        holders = [attempt for attempt in attempts if spans.children(attempt)]
        assert len(holders) <= 1
        before = parent.start_time
        for attempt in attempts:
            assert before <= attempt.start_time <= attempt.end_time <= parent.end_time  # type: ignore[operator]
            before = attempt.end_time
        assert holders in ([], [attempts[-1]]), "the attempt that answered is the last one"
        if not holders:
            assert attributes(parent)["llmtrace.call.outcome"] not in ("completed", "closed_early", "abandoned")
            return
        holder = holders[0]
    phases = [child for child in spans.children(holder) if "llmtrace.phase" in attributes(child)]
    assert phases, f"no phase under {holder.name}"
    assert len(phases) == len([c for c in spans.children(holder) if c.name.startswith("llm.")])
    assert_contiguous(holder, phases)
    ranks = [RANK[attributes(phase)["llmtrace.phase"]] for phase in phases]
    assert ranks == sorted(set(ranks)), [phase.name for phase in phases]
    names = {attributes(phase)["llmtrace.phase"] for phase in phases}
    assert not ({"queue_prefill"} & names and {"queue", "prefill", "kv_cache_hit"} & names), names
    assert not ({"opaque"} & names and names - {"opaque", "network", "gateway", "unattributed", "model_load"}), names
    _assert_falling([parent, *attempts, *phases])
    for phase in phases:
        attrs = attributes(phase)
        assert phase.name == f"llm.{attrs['llmtrace.phase']}"
        assert attrs["llmtrace.phase.source"] in SOURCES
        assert attrs["llmtrace.side"] == "client"
        assert phase.status.status_code is StatusCode.UNSET or phase is phases[-1]
        assert (attrs.get("llmtrace.phase.merged_because") in REASONS) == (attrs["llmtrace.phase"] in MERGED), attrs
        assert bool(attrs.get("llmtrace.phase.merged_because.detail")) == (attrs["llmtrace.phase"] in MERGED), attrs
        if estimated := {name for name in attrs if name.startswith("llmtrace.estimate.")}:
            assert attrs["llmtrace.phase"] in ("queue", "prefill"), "no other phase is estimated"
            assert attrs["llmtrace.phase.source"] in ("server", "device"), "graded is what an engine told"
            assert estimated in (ESTIMATE, ESTIMATE | ESTIMATE_SIDES)
        low, high = (attrs.get(f"llmtrace.phase.uncertainty.{side}") for side in ("low", "high"))
        assert (low is None) == (high is None)
        if low is not None and high is not None:
            assert 0 <= low <= seconds(phase) + 1e-9
            assert max(low, high) == attrs["llmtrace.phase.uncertainty"]
        elif "llmtrace.phase.uncertainty" in attrs:
            assert 0 <= attrs["llmtrace.phase.uncertainty"] <= seconds(phase) + 1e-9
        parts = spans.children(phase)
        if parts:
            assert {part.name.removeprefix(f"{phase.name}.") for part in parts} <= PARTS[phase.name]
            assert_contiguous(phase, parts)


def _assert_falling(spans: Sequence[ReadableSpan]) -> None:
    """The starts' parts below a microsecond fall from the call over its attempts to its phases.

    Two spans that start together (the call and its first phase, a phase of no length and the next) share theirs.
    """
    assert spans[0].start_time is not None
    assert spans[0].start_time % 1000 == 999, "a call starts at the top of a microsecond"
    lasting = [span for span in spans if span.end_time != span.start_time]
    starts = sorted({span.start_time or 0 for span in lasting})
    if any(after - before < SHORTEST_NS for before, after in itertools.pairwise([*starts, spans[0].end_time or 0])):
        return
    assert [start % 1000 for start in starts] == sorted({start % 1000 for start in starts}, reverse=True)
    assert off_the_path(spans) == [], "Jaeger's critical path passes through all that lasts"


def assert_contiguous(holder: ReadableSpan, parts: Sequence[ReadableSpan]) -> None:
    """``parts`` fill ``holder`` without a gap, an overlap or a nanosecond over."""
    at = holder.start_time
    for part in parts:
        assert part.start_time == at, (holder.name, part.name)
        assert part.end_time is not None
        assert part.end_time >= part.start_time  # type: ignore[operator]
        at = part.end_time
    assert at == holder.end_time, (holder.name, [part.name for part in parts])


_COUNTS = (".tokens", "_tokens", ".count", ".delivered_tokens", ".billed_tokens")
_SECONDS = (
    "llmtrace.phase.uncertainty",
    "llmtrace.phase.uncertainty.low",
    "llmtrace.phase.uncertainty.high",
    "llmtrace.phase.time_per_token",
    "gen_ai.response.time_to_first_chunk",
    "llmtrace.decode.itl.p50",
    "llmtrace.decode.itl.p99",
    "llmtrace.decode.itl.max",
    "llmtrace.decode.chunk_gap.p50",
    "llmtrace.decode.chunk_gap.p99",
    "llmtrace.decode.chunk_gap.max",
    "llmtrace.decode.stall.duration",
    "llmtrace.decode.consumer_wait",
    "llmtrace.kv_cache.time_saved",
    "llmtrace.estimate.duration",
    "llmtrace.estimate.uncertainty",
    "llmtrace.estimate.uncertainty.low",
    "llmtrace.estimate.uncertainty.high",
)
ESTIMATE = {f"llmtrace.estimate.{name}" for name in ("duration", "error", "uncertainty")}
ESTIMATE_SIDES = {"llmtrace.estimate.uncertainty.low", "llmtrace.estimate.uncertainty.high"}


def _assert_values(span: ReadableSpan, *, content: bool) -> None:
    """Types and signs of numbers; nothing sensitive anywhere."""
    for name, value in attributes(span).items():
        assert name.startswith(
            ("gen_ai.", "llmtrace.", "server.", "error.type", "openai.", "anthropic.", "azure.", "http.")
        ), name
        if isinstance(value, float):
            assert math.isfinite(value), (name, value)
        if name.endswith(_COUNTS) and not isinstance(value, str):
            assert type(value) is int, (name, value)
            assert value >= 0, (name, value)
        if name in _SECONDS:
            assert type(value) is float, (name, value)
            assert value >= 0, (name, value)
    if not content:
        text = json.dumps([span.name, attributes(span), [(e.name, dict(e.attributes or {})) for e in span.events]])
        text += span.status.description or ""
        for secret in SECRETS:
            assert secret not in text, (span.name, secret)


class Metrics:
    """A meter provider of its own with an in-memory reader."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider(metric_readers=[self.reader])

    def collect(self) -> dict[str, Any]:
        """Metrics by name, those too that a thread of ours adds."""
        finalizers.settle()
        data = self.reader.get_metrics_data()
        if data is None:
            return {}
        return {m.name: m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics}

    def points(self, name: str) -> list[Any]:
        metric = self.collect().get(name)
        return [] if metric is None else list(metric.data.data_points)


def spent(metrics: Metrics, kind: str) -> int:
    """Tokens that were counted, of whatever modality. ``kind``: ``input``, ``output``, ``cache_read.input`` ..."""
    return sum(point.value for point in metrics.points(f"gen_ai.client.inference.usage.{kind}_tokens"))


# Golden trees: names, nesting, kinds, statuses and attribute names; no times, no values.

GOLDEN = Path(__file__).resolve().parents[1] / "instrumentation" / "golden"


_OF_THE_PACE = ("llmtrace.decode.", "llmtrace.diagnosis", "llmtrace.phase.uncertainty")


def shape(spans: Spans, span: ReadableSpan, in_step: bool = True) -> dict[str, Any]:
    """What the contract pins of a span and everything below it.

    ``in_step``: server and reader kept step. Else what depends on whether they did is left out.
    """
    names = [name for name in attributes(span) if in_step or not name.startswith(_OF_THE_PACE)]
    return {
        "name": span.name,
        "kind": span.kind.name,
        "status": span.status.status_code.name,
        "attributes": sorted(names),
        "children": [shape(spans, child, in_step) for child in spans.children(span)],
    }


def assert_golden(name: str, tree: dict[str, Any]) -> None:
    """Compare with ``golden/<name>.json``; ``LLMTRACE_GOLDEN=write`` writes it (then read the diff)."""
    file = GOLDEN / f"{name}.json"
    if os.environ.get("LLMTRACE_GOLDEN") == "write":
        file.write_text(json.dumps(tree, indent=1) + "\n")
    golden = json.loads(file.read_text())
    differs = difflib.unified_diff(*(json.dumps(one, indent=1).splitlines() for one in (golden, tree)), lineterm="")
    assert tree == golden, "\n".join(differs)
