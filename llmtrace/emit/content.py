"""Content capture: off unless ``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`` or a setting asks for it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opentelemetry._logs import LogRecord, SeverityNumber, get_logger
from opentelemetry.trace import Span, set_span_in_context
from opentelemetry.version import __version__ as api_version

from llmtrace.emit import names
from llmtrace.emit.values import safe_attributes, safe_structure
from llmtrace.version import VERSION

_EVENTS_APART = tuple(int(part) for part in api_version.split(".")[:2]) < (1, 37)
"""Before 1.37 an event goes through an API of its own: log records have no name, or the SDK does not take the API's."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Content:
    """The content of one call in the conventions' shapes; None or empty where there is none."""

    instructions: Any
    """The system instructions, as parts."""
    tools: Any
    """The tools that the model may use: type and name of each."""
    sent: Any
    """The messages sent to the model."""
    received: Any
    """The messages received from the model."""

    def attributes(self, semconv: str) -> dict[str, Any]:
        """The content by attribute name. The finish reason of each message is left out in v0.1.0: the span has it."""
        received = self.received
        if semconv == names.V0_1_0 and received:
            received = [{name: message[name] for name in message if name != "finish_reason"} for message in received]
        values = {
            names.SYSTEM_INSTRUCTIONS: self.instructions,
            names.TOOL_DEFINITIONS: self.tools,
            names.INPUT_MESSAGES: self.sent,
            names.OUTPUT_MESSAGES: received,
        }
        return {name: safe_structure(value) for name, value in values.items() if value}


def on_span(span: Span, content: Mapping[str, Any]) -> None:
    """Write content as JSON strings on the span, as the conventions allow where structure cannot be kept."""
    for name, value in content.items():
        span.set_attribute(name, json.dumps(value, default=str))


def as_event(span: Span, at: int, attributes: Mapping[str, Any], content: Mapping[str, Any]) -> None:
    """Emit the conventions' details event: the call's ``attributes``, and its content in structure.

    ``at``: the event's time in epoch nanoseconds.
    """
    if _EVENTS_APART:
        _as_old_event(span, at, attributes, content)
        return
    get_logger("llmtrace", VERSION).emit(
        LogRecord(
            timestamp=at,
            observed_timestamp=time.time_ns(),
            context=set_span_in_context(span),
            severity_number=SeverityNumber.DEBUG,
            event_name=names.DETAILS_EVENT,
            attributes={**safe_attributes(attributes), **content},
        )
    )


def _as_old_event(span: Span, at: int, attributes: Mapping[str, Any], content: Mapping[str, Any]) -> None:
    """Emit the details event through the older API for events, in which structure goes into the body."""
    from opentelemetry import _events as events  # type: ignore[attr-defined]  # gone from later versions

    api: Any = events
    context = span.get_span_context()
    api.get_event_logger("llmtrace", VERSION).emit(
        api.Event(
            names.DETAILS_EVENT,
            timestamp=at,
            trace_id=context.trace_id,
            span_id=context.span_id,
            trace_flags=context.trace_flags,
            severity_number=SeverityNumber.DEBUG,
            attributes=safe_attributes(attributes),
            body=dict(content),
        )
    )
