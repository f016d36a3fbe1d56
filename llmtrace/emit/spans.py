"""Phases to OpenTelemetry spans, by the public API alone: each child is started and ended through the tracer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    set_span_in_context,
)

from llmtrace.emit.values import safe_attributes

UNSET = Status(StatusCode.UNSET)

Event = tuple[str, Mapping[str, Any], int]
"""Name, attributes, monotonic ns."""


class Children:
    """Writes ended spans below one parent, with the times of one call."""

    __slots__ = ("_context", "_epoch_offset", "_tracer")

    def __init__(self, tracer: Tracer, parent: Span, epoch_offset: int) -> None:
        """``epoch_offset``: nanoseconds to add to the call's monotonic times to get epoch times."""
        self._tracer = tracer
        self._context = set_span_in_context(parent)
        self._epoch_offset = epoch_offset

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
        events: Sequence[Event] = (),
    ) -> SpanContext:
        """Emit one ended child (of the parent, or of ``under``); returns its context, for children of its own.

        ``start`` and ``end`` are in monotonic nanoseconds.
        """
        offset = self._epoch_offset
        span = self._tracer.start_span(
            name,
            context=self._context if under is None else set_span_in_context(NonRecordingSpan(under)),
            kind=kind,
            attributes=safe_attributes(attributes),
            start_time=start + offset,
        )
        for title, details, at in events:
            span.add_event(title, safe_attributes(details), at + offset)
        if status is not UNSET:
            span.set_status(status)
        span.end(end + offset)
        return span.get_span_context()
