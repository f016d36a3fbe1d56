"""Jaeger's own JSON (its HTTP API's and its UI's download) as OTLP. Times in it are whole microseconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_KINDS = {"internal": 1, "server": 2, "client": 3, "producer": 4, "consumer": 5}
_VALUES = {"bool": "boolValue", "int64": "intValue", "float64": "doubleValue"}


def is_jaeger(document: Any) -> bool:
    """Whether this is what ``/api/traces`` answers."""
    return isinstance(document, dict) and isinstance(document.get("data"), list) and "resourceSpans" not in document


def to_otlp(document: Mapping[str, Any]) -> dict[str, Any]:
    """The spans as an OTLP/JSON object. Raises KeyError, TypeError or ValueError where it is not Jaeger's JSON."""
    return {"resourceSpans": [entry for trace in document["data"] for entry in _trace(trace)]}


def _trace(trace: Mapping[str, Any]) -> list[dict[str, Any]]:
    by_process: dict[str, list[dict[str, Any]]] = {}
    for span in trace["spans"]:
        by_process.setdefault(span.get("processID", ""), []).append(_span(span))
    processes = trace.get("processes") or {}
    entries: list[dict[str, Any]] = []
    for key, spans in by_process.items():
        process = processes.get(key) or {}
        service = {"key": "service.name", "value": {"stringValue": process.get("serviceName", "")}}
        attributes = [service, *map(_attribute, process.get("tags") or ())]
        entries.append({"resource": {"attributes": attributes}, "scopeSpans": [{"spans": spans}]})
    return entries


def _span(span: Mapping[str, Any]) -> dict[str, Any]:
    tags = span.get("tags") or ()
    tag_values = {tag["key"]: tag.get("value") for tag in tags}
    start = int(span["startTime"]) * 1000
    parents = [link["spanID"] for link in span.get("references") or () if link.get("refType") == "CHILD_OF"]
    failed = tag_values.get("error") in (True, "true") or tag_values.get("otel.status_code") == "ERROR"
    return {
        "traceId": span["traceID"].zfill(32),
        "spanId": span["spanID"].zfill(16),
        "parentSpanId": parents[0].zfill(16) if parents else "",
        "name": span.get("operationName", ""),
        "kind": _KINDS.get(str(tag_values.get("span.kind", "")), 0),
        "startTimeUnixNano": start,
        "endTimeUnixNano": start + int(span["duration"]) * 1000,
        "status": {"code": 2 if failed else 0},
        "attributes": [_attribute(tag) for tag in tags],
        "events": [_event(log) for log in span.get("logs") or ()],
    }


def _event(log: Mapping[str, Any]) -> dict[str, Any]:
    fields = log.get("fields") or ()
    name = next((field.get("value") for field in fields if field.get("key") == "event"), "")
    return {
        "name": name if isinstance(name, str) else "",
        "timeUnixNano": int(log["timestamp"]) * 1000,
        "attributes": [_attribute(field) for field in fields if field.get("key") != "event"],
    }


def _attribute(tag: Mapping[str, Any]) -> dict[str, Any]:
    value, kind = tag.get("value"), _VALUES.get(tag.get("type", "string"), "stringValue")
    if kind == "stringValue" and isinstance(value, str) and value[:1] == "[" and value[-1:] == "]":
        # Jaeger writes a list as JSON text; its members are joined as the table wants them.
        value = ",".join(part.strip().strip('"') for part in value[1:-1].split(","))
    return {"key": tag["key"], "value": {kind: value}}
