"""Spans as the Collector's ClickHouse exporter writes them: attributes as texts, lists as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.analyze.writing import Writer

_KINDS = ("Unspecified", "Internal", "Server", "Client", "Producer", "Consumer")


def rows_of(writer: Writer) -> Iterator[dict[str, Any]]:
    """The rows of ``otel_traces`` for the spans of a writer."""
    for span in writer.spans:
        start, end = int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])
        yield {
            "Timestamp": f"{start // 10**9}.{start % 10**9:09}",
            "TraceId": span["traceId"],
            "SpanId": span["spanId"],
            "ParentSpanId": span["parentSpanId"],
            "SpanName": span["name"],
            "SpanKind": _KINDS[span["kind"]],
            "ServiceName": writer.service,
            "ResourceAttributes": {"service.name": writer.service, **writer.about},
            "SpanAttributes": {each["key"]: _text(each["value"]) for each in span["attributes"]},
            "Duration": end - start,
            "StatusCode": "Unset",
        }


def _text(value: Any) -> str:
    ((kind, item),) = value.items()
    if kind == "arrayValue":
        return json.dumps([next(iter(member.values())) for member in item["values"]], separators=(",", ":"))
    return ("true" if item else "false") if kind == "boolValue" else str(item)
