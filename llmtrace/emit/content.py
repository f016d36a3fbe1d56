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
    """What was said in one call, in the conventions' shapes; None or empty where there was nothing."""

    instructions: Any
    """What the model was told apart from the history: parts."""
    tools: Any
    """The tools that it might use: type and name of each."""
    sent: Any
    received: Any

    def attributes(self, semconv: str) -> dict[str, Any]:
        """By attribute. A message's own finish reason is deprecated in v0.1.0: the span says it."""
        received = self.received
        if semconv == names.V0_1_0 and received:
            received = [{name: message[name] for name in message if name != "finish_reason"} for message in received]
        told = {
            names.SYSTEM_INSTRUCTIONS: self.instructions,
            names.TOOL_DEFINITIONS: self.tools,
            names.INPUT_MESSAGES: self.sent,
            names.OUTPUT_MESSAGES: received,
        }
        return {name: safe_structure(value) for name, value in told.items() if value}


def on_span(span: Span, content: Mapping[str, Any]) -> None:
    """Write content as JSON strings on the span, as the conventions allow where structure cannot be kept."""
    for name, value in content.items():
        span.set_attribute(name, json.dumps(value, default=str))


def as_event(span: Span, at: int, attributes: Mapping[str, Any], content: Mapping[str, Any]) -> None:
    """Emit the conventions' details event: the call's ``attributes``, and its content in structure. ``at``: epoch
    ns."""
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
    """The same through the API for events, in which structure goes into the body."""
    from opentelemetry import _events as events  # type: ignore[attr-defined]  # gone from later versions

    of: Any = events
    context = span.get_span_context()
    of.get_event_logger("llmtrace", VERSION).emit(
        of.Event(
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
