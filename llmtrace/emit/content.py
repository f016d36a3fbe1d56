"""Content capture: off unless ``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`` or a setting asks for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opentelemetry.trace import Span

from llmtrace.emit import events, names
from llmtrace.emit.values import safe_structure


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
    events.emit(names.DETAILS_EVENT, span, at, events.DEBUG, attributes, content)
