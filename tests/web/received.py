"""What a page sent, as the spans that the contract's checks read: the very bodies of its requests."""

from __future__ import annotations

import json
from typing import Any

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from tests.support.spans import Spans


class Received(Spans):
    """The spans of OTLP/JSON bodies."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def take(self, body: str) -> None:
        """Add the spans of one request."""
        for resource in json.loads(body)["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                instrumentation = InstrumentationScope(scope["scope"]["name"])
                self.spans += [_span(span, instrumentation) for span in scope["spans"]]

    def finished(self) -> list[ReadableSpan]:
        return sorted(self.spans, key=lambda span: (span.start_time or 0, span.end_time or 0))


def _span(sent: dict[str, Any], scope: InstrumentationScope) -> ReadableSpan:
    status = sent.get("status", {})
    parent = sent.get("parentSpanId")
    return ReadableSpan(
        name=sent["name"],
        context=_context(sent["traceId"], sent["spanId"]),
        parent=_context(sent["traceId"], parent) if parent else None,
        attributes=_attributes(sent["attributes"]),
        events=[
            Event(event["name"], _attributes(event["attributes"]), int(event["timeUnixNano"]))
            for event in sent.get("events", ())
        ],
        kind=SpanKind(sent["kind"] - 1),
        status=Status(StatusCode(status.get("code", 0)), status.get("message")),
        start_time=int(sent["startTimeUnixNano"]),
        end_time=int(sent["endTimeUnixNano"]),
        instrumentation_scope=scope,
    )


def _context(trace: str, span: str) -> SpanContext:
    assert len(trace) == 32
    assert len(span) == 16
    return SpanContext(int(trace, 16), int(span, 16), is_remote=False, trace_flags=TraceFlags(1))


def _attributes(sent: list[dict[str, Any]]) -> dict[str, Any]:
    names = [each["key"] for each in sent]
    assert len(names) == len(set(names)), names
    return {each["key"]: _value(each["value"]) for each in sent}


def _value(value: dict[str, Any]) -> Any:
    ((kind, content),) = value.items()
    if kind == "arrayValue":
        return [_value(each) for each in content["values"]]
    if kind == "intValue":
        assert isinstance(content, str), "64 bits do not fit a number of JSON"
        return int(content)
    if kind == "doubleValue":
        return float(content)
    assert kind in ("stringValue", "boolValue"), kind
    return content
