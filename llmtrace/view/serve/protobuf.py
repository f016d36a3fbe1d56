"""Turns OTLP's protobuf into the OTLP/JSON document that every reader here takes."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from llmtrace.errors import LlmtraceError


class NotOtlpError(LlmtraceError):
    """A body that is not OTLP."""


def document(body: bytes) -> dict[str, Any]:
    """The request of ``/v1/traces`` as OTLP/JSON. Raises NotOtlpError."""
    try:
        request: Any = ExportTraceServiceRequest.FromString(body)
    except DecodeError as error:
        raise NotOtlpError("the body is no OTLP protobuf (ExportTraceServiceRequest)") from error
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes(resource.resource.attributes)},
                "scopeSpans": [
                    {
                        "scope": {"name": scope.scope.name, "version": scope.scope.version},
                        "spans": [_span(span) for span in scope.spans],
                    }
                    for scope in resource.scope_spans
                ],
            }
            for resource in request.resource_spans
        ]
    }


def response(rejected: int, reason: str) -> bytes:
    """The receiver's answer: empty, or the number of rejected spans and the reason."""
    if not rejected:
        return b""
    partial = ExportTracePartialSuccess(rejected_spans=rejected, error_message=reason)
    return ExportTraceServiceResponse(partial_success=partial).SerializeToString()


def status(reason: str) -> bytes:
    """A ``google.rpc.Status`` with this message: its field 2, a string."""
    text = reason.encode()
    length, size = b"", len(text)
    while size > 0x7F:
        length += bytes((size & 0x7F | 0x80,))
        size >>= 7
    return b"\x12" + length + bytes((size,)) + text


def _span(span: Any) -> dict[str, Any]:
    span_json: dict[str, Any] = {
        "traceId": span.trace_id.hex(),
        "spanId": span.span_id.hex(),
        "name": span.name,
        "kind": span.kind,
        "startTimeUnixNano": span.start_time_unix_nano,
        "endTimeUnixNano": span.end_time_unix_nano,
        "attributes": _attributes(span.attributes),
    }
    if span.parent_span_id:
        span_json["parentSpanId"] = span.parent_span_id.hex()
    if span.HasField("status"):
        span_json["status"] = {"code": span.status.code, "message": span.status.message}
    if span.events:
        span_json["events"] = [
            {"name": event.name, "timeUnixNano": event.time_unix_nano, "attributes": _attributes(event.attributes)}
            for event in span.events
        ]
    if span.links:
        span_json["links"] = [
            {
                "traceId": link.trace_id.hex(),
                "spanId": link.span_id.hex(),
                "attributes": _attributes(link.attributes),
            }
            for link in span.links
        ]
    return span_json


def _attributes(pairs: Iterable[Any]) -> list[dict[str, Any]]:
    return [{"key": pair.key, "value": _value(pair.value)} for pair in pairs]


def _value(value: Any) -> dict[str, Any]:
    kind = value.WhichOneof("value")
    if kind == "string_value":
        return {"stringValue": value.string_value}
    if kind == "int_value":
        return {"intValue": value.int_value}
    if kind == "double_value":
        return {"doubleValue": value.double_value}
    if kind == "bool_value":
        return {"boolValue": value.bool_value}
    if kind == "array_value":
        return {"arrayValue": {"values": [_value(member) for member in value.array_value.values]}}
    if kind == "kvlist_value":
        return {"kvlistValue": {"values": _attributes(value.kvlist_value.values)}}
    if kind == "bytes_value":
        return {"bytesValue": base64.b64encode(value.bytes_value).decode()}
    return {"stringValue": ""}
