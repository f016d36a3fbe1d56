"""The table that the OpenTelemetry Collector's ClickHouse exporter writes, as the table of spans that reports read.

Attributes are maps of texts there: numbers, booleans and lists are read out of their text. Nothing is copied; the
engine reads only the columns that a report asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import ibis

from llmtrace.analyze.expressions import first, when
from llmtrace.analyze.plausible import WHOLE
from llmtrace.analyze.schema import COLUMNS, FIXED, Column
from llmtrace.errors import LlmtraceError

NAME: Final = "otel_traces"
"""The table's name unless the exporter is told otherwise."""
_MARKS: Final = frozenset(("TraceId", "SpanId", "ParentSpanId", "SpanAttributes", "Duration"))
_LISTS: Final = ("diagnosis", "merged_because", "finish")
"""Columns whose attribute may be a list, which the exporter writes as JSON."""


@ibis.udf.scalar.builtin(name="toUnixTimestamp64Nano", signature=(("timestamp(9)",), "int64"))
def _nanoseconds(time: Any) -> Any:
    """A time in ns since the epoch, by ClickHouse's own function."""


def is_collectors(table: Any) -> bool:
    """Whether a table is one that the Collector's exporter made."""
    return set(table.columns) >= _MARKS


def spans(
    table: Any, columns: Sequence[Column] = COLUMNS, *, hours: float | None = None, service: str | None = None
) -> Any:
    """The table of spans. ``hours``: only those of so many hours until now; ``service``: only this service's.

    Raises:
        LlmtraceError: the exporter wrote attributes as JSON, not as maps.
    """
    if not table.SpanAttributes.type().is_map():
        raise LlmtraceError(
            "this table's attributes are JSON; set `json: false` in the exporter, which writes maps then"
        )
    if hours is not None:
        now: Any = ibis.now()
        table = table.filter(table.Timestamp >= now - ibis.interval(seconds=round(hours * 3600)))
    if service is not None:
        table = table.filter(table.ServiceName == service)
    start = _nanoseconds(table.Timestamp)
    fixed = {
        "trace_id": table.TraceId,
        "span_id": table.SpanId,
        "parent_id": table.ParentSpanId.nullif(""),
        "name": table.SpanName,
        "kind": table.SpanKind.lower().replace("span_kind_", ""),
        "start_ns": start,
        "end_ns": start + table.Duration.cast("int64"),
        "status": table.StatusCode.lower().replace("status_code_", ""),
        "service": table.ServiceName.nullif(""),
    }
    about = table.ResourceAttributes if "ResourceAttributes" in table.columns else None
    asked = {column.name: _value(table.SpanAttributes, about, column) for column in columns[len(FIXED) :]}
    return table.select(**fixed, **asked)


def _value(attributes: Any, resource: Any | None, column: Column) -> Any:
    told = [attributes[name].nullif("") for name in column.attributes]
    if resource is not None:
        told += [resource[name].nullif("") for name in column.resource]
    text = first(*told, ibis.null("string"))
    if column.name in WHOLE:
        number = text.try_cast("float64")
        whole = number.try_cast("int64")  # rounded, by some engines
        return when(whole == number, whole)
    if column.kind == "int":
        return first(text.try_cast("int64"), text.try_cast("float64").cast("int64"))
    if column.kind == "float":
        return text.try_cast("float64")
    if column.kind == "bool":
        return when(text.isin(("true", "false")), text == "true")
    if column.name in _LISTS:
        return when(text.startswith("["), text.re_replace(r'[\[\]"\s]', ""), text)
    return text
