"""Content capture: off unless ``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`` or a setting asks for it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from opentelemetry._logs import LogRecord, get_logger
from opentelemetry.trace import Span, set_span_in_context

from llmtrace.emit import names
from llmtrace.version import VERSION


def on_span(span: Span, sent: Any, received: Any) -> None:
    """Write messages as JSON strings on the span, as the conventions allow where structure cannot be kept."""
    if sent:
        span.set_attribute(names.INPUT_MESSAGES, json.dumps(sent, default=str))
    if received:
        span.set_attribute(names.OUTPUT_MESSAGES, json.dumps(received, default=str))


@dataclass(slots=True, eq=False, repr=False)
class Messages:
    """What was said, beside the call's attributes."""

    attributes: dict[str, Any]
    sent: Any
    received: Any


def as_event(span: Span, at: int, messages: Messages) -> None:
    """Emit the conventions' details event, with structured messages. ``at``: epoch ns."""
    body = dict(messages.attributes)
    if messages.sent:
        body[names.INPUT_MESSAGES] = messages.sent
    if messages.received:
        body[names.OUTPUT_MESSAGES] = messages.received
    get_logger("llmtrace", VERSION).emit(
        LogRecord(
            timestamp=at,
            observed_timestamp=time.time_ns(),
            context=set_span_in_context(span),
            event_name=names.DETAILS_EVENT,
            attributes=body,
        )
    )
