"""The conventions' events, which are log records with a name; they go to the LoggerProvider, where there is one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from opentelemetry._logs import LogRecord, SeverityNumber, get_logger
from opentelemetry.trace import Span, set_span_in_context
from opentelemetry.version import __version__ as api_version

from llmtrace.emit import names
from llmtrace.emit.values import class_name, safe_attributes
from llmtrace.version import VERSION

DEBUG, WARN = SeverityNumber.DEBUG, SeverityNumber.WARN
_NOTHING: Mapping[str, Any] = {}
_EVENTS_APART = tuple(int(part) for part in api_version.split(".")[:2]) < (1, 37)
"""Before 1.37 an event goes through an API of its own: log records have no name, or the SDK does not take the API's."""


def emit(
    name: str,
    span: Span,
    at: int,
    severity: SeverityNumber,
    attributes: Mapping[str, Any],
    structure: Mapping[str, Any] = _NOTHING,
) -> None:
    """Emit one event in the context of ``span``.

    ``at``: its time in epoch nanoseconds; ``structure``: attributes that are nested mappings and lists, which the older
    API takes in the event's body only.
    """
    if _EVENTS_APART:
        _emit_apart(name, span, at, severity, attributes, structure)
        return
    get_logger("llmtrace", VERSION).emit(
        LogRecord(
            timestamp=at,
            observed_timestamp=time.time_ns(),
            context=set_span_in_context(span),
            severity_number=severity,
            event_name=name,
            attributes={**safe_attributes(attributes), **structure},
        )
    )


def _emit_apart(
    name: str,
    span: Span,
    at: int,
    severity: SeverityNumber,
    attributes: Mapping[str, Any],
    structure: Mapping[str, Any],
) -> None:
    from opentelemetry import _events as events  # type: ignore[attr-defined]  # gone from later versions

    api: Any = events
    context = span.get_span_context()
    api.get_event_logger("llmtrace", VERSION).emit(
        api.Event(
            name,
            timestamp=at,
            trace_id=context.trace_id,
            span_id=context.span_id,
            trace_flags=context.trace_flags,
            severity_number=severity,
            attributes=safe_attributes(attributes),
            body=dict(structure),
        )
    )


def exception(span: Span, at: int, error: BaseException) -> None:
    """Emit the conventions' event of an operation that an exception ended; ``at``: epoch ns.

    Its type alone: the message, with which the stack trace ends too, may quote the prompt.
    """
    emit(names.EXCEPTION_EVENT, span, at, WARN, {names.EXCEPTION_TYPE: class_name(error)})
