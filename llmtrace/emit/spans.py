"""Phases -> OpenTelemetry spans: the parent started at the request, its children written once at the end.

Children of a sampled parent are not sampled again; where every processor merely collects ended spans, they are handed
to it ready-made, which costs a third of starting and ending each through the tracer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, Tracer
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    set_span_in_context,
)

from llmtrace.observe.clock import to_epoch

UNSET = Status(StatusCode.UNSET)
_IDLE_STARTS = (SpanProcessor.on_start, BatchSpanProcessor.on_start, SimpleSpanProcessor.on_start)
_KEEP_ATTRIBUTES = 32

_checked: tuple[Any, bool] = (None, False)


def only_collects(tracer: Any) -> bool:
    """Whether each of the tracer's processors ignores starts, so that ended spans may be handed over ready-made."""
    global _checked
    if not isinstance(tracer, Tracer):
        return False
    processors: Any = getattr(tracer.span_processor, "_span_processors", None)
    if processors is _checked[0]:
        return _checked[1]
    limit = getattr(tracer._span_limits, "max_span_attributes", None)
    verdict = (
        isinstance(processors, tuple)
        and (limit is None or limit >= _KEEP_ATTRIBUTES)
        and all(type(processor).on_start in _IDLE_STARTS and _ends_plainly(processor) for processor in processors)
    )
    _checked = (processors, verdict)
    return verdict


def _ends_plainly(processor: SpanProcessor) -> bool:
    ending: Any = getattr(type(processor), "_on_ending", None)
    return ending is None or ending.__module__.startswith("opentelemetry.")


class Children:
    """Writes finished spans below one parent, all with explicit monotonic times."""

    __slots__ = ("_fast", "_parent", "_tracer")

    def __init__(self, tracer: Any, parent: Span) -> None:
        self._tracer = tracer
        self._parent = parent
        self._fast = only_collects(tracer)

    def add(
        self,
        name: str,
        start: int,
        end: int,
        attributes: Mapping[str, Any],
        *,
        under: SpanContext | None = None,
        status: Status = UNSET,
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> SpanContext:
        """Emit one ended child (of the parent, or of ``under``) and return its context for its own children."""
        above = under if under is not None else self._parent.get_span_context()
        if self._fast:
            return self._ready_made(name, start, end, attributes, above, status, kind)
        span = self._tracer.start_span(
            name,
            context=set_span_in_context(NonRecordingSpan(above) if under is not None else self._parent),
            kind=kind,
            attributes=attributes,
            start_time=to_epoch(start),
        )
        if status is not UNSET:
            span.set_status(status)
        span.end(to_epoch(end))
        return span.get_span_context()

    def _ready_made(
        self,
        name: str,
        start: int,
        end: int,
        attributes: Mapping[str, Any],
        above: SpanContext,
        status: Status,
        kind: SpanKind,
    ) -> SpanContext:
        tracer: Tracer = self._tracer
        context = SpanContext(
            above.trace_id, tracer.id_generator.generate_span_id(), False, above.trace_flags, above.trace_state
        )
        tracer.span_processor.on_end(
            ReadableSpan(
                name,
                context=context,
                parent=above,
                resource=tracer.resource,
                attributes=attributes,
                kind=kind,
                status=status,
                start_time=to_epoch(start),
                end_time=to_epoch(end),
                instrumentation_scope=tracer._instrumentation_scope,
            )
        )
        return context
