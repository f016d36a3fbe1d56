"""The whole contents of a span as JSON text, for the view of one trace, beside the columns that reports read."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import orjson

from llmtrace.analyze import otlp
from llmtrace.analyze.schema import Column

COLUMNS: Final = (
    Column("status_message", "text"),
    Column("scope", "text"),
    Column("resource", "text"),
    Column("attributes", "text"),
    Column("events", "text"),
    Column("links", "text"),
)
"""Attributes and resource are JSON objects; events ``[{name, time_ns, attributes}]`` and links ``[{trace_id, span_id,
attributes}]``, absent where there are none; the scope is a name."""

_PLAIN: Final = {"stringValue", "boolValue", "doubleValue"}
Texts = tuple[str | None, str, str, str, str | None, str | None]


def resource_text(resource: Any) -> str:
    """The attributes of a resource as JSON text."""
    return _text(_attributes((resource or {}).get("attributes", ())))


def scope_text(scope: Any) -> str:
    """The name of a scope."""
    return (scope or {}).get("name", "")


def texts(span: Mapping[str, Any], resource: str, scope: str) -> Texts:
    """The values of ``COLUMNS`` for a span as OTLP/JSON spells it."""
    status, events, links = span.get("status"), span.get("events"), span.get("links")
    return (
        (status.get("message") or None) if status else None,
        scope,
        resource,
        _text(_attributes(span.get("attributes", ()))),
        _text([_event(event, span["startTimeUnixNano"]) for event in events]) if events else None,
        _text([_link(link) for link in links]) if links else None,
    )


def texts_of_read(span: otlp.Span) -> Texts:
    """The values of ``COLUMNS`` for a span that the careful reader has read."""
    events = [{"name": event.name, "time_ns": event.time_ns, "attributes": event.attributes} for event in span.events]
    links = [{"trace_id": link.trace_id, "span_id": link.span_id, "attributes": link.attributes} for link in span.links]
    return (
        span.status.message or None,
        span.scope.name,
        _text(span.resource),
        _text(span.attributes),
        _text(events) if events else None,
        _text(links) if links else None,
    )


def _attributes(pairs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    for pair in pairs:
        item = pair["value"]
        ((kind, value),) = item.items()
        attributes[pair["key"]] = value if kind in _PLAIN else otlp.value_of(item)
    return attributes


def _event(event: Mapping[str, Any], start: Any) -> dict[str, Any]:
    return {
        "name": event.get("name", ""),
        "time_ns": int(event.get("timeUnixNano") or start),
        "attributes": _attributes(event.get("attributes", ())),
    }


def _link(link: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "trace_id": link["traceId"].lower(),
        "span_id": link["spanId"].lower(),
        "attributes": _attributes(link.get("attributes", ())),
    }


def _text(item: Mapping[str, Any] | Sequence[Any]) -> str:
    try:
        return orjson.dumps(item, default=_bytes, option=orjson.OPT_NON_STR_KEYS).decode()
    except (TypeError, ValueError, orjson.JSONEncodeError):
        # A number beyond 64 bits, or text that is no Unicode: the slow writer takes the first and escapes the second.
        return json.dumps(item, default=_bytes, ensure_ascii=True)


def _bytes(value: Any) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)
