"""OTLP/JSON documents into columns: regular ones by a short way, whatever is odd through the careful reader."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llmtrace.analyze import jaeger, otlp, whole_span
from llmtrace.analyze.schema import FIXED, Column

_KINDS = dict(enumerate(otlp.KINDS))
_STATUSES = dict(enumerate(otlp.STATUSES))
_ODD = (KeyError, TypeError, ValueError, AttributeError)
Row = list[Any]


class Flattener:
    """Takes documents in and gives columns out; what cannot be read is listed in ``problems``."""

    def __init__(self, columns: Sequence[Column], whole: bool = False) -> None:
        """``columns``: what to take of each span. ``whole``: and all of it as text, in ``whole_span.COLUMNS``."""
        self.columns = (*columns, *whole_span.COLUMNS) if whole else tuple(columns)
        self._whole = whole
        self.problems: list[otlp.Problem] = []
        self._width = len(columns)
        self._places: dict[str, tuple[int, bool]] = {}
        for place, column in enumerate(columns):
            for rank, attribute in enumerate(column.attributes):
                self._places.setdefault(attribute, (place, rank == 0))
        self._rows: list[Row] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, document: Any, line: int) -> None:
        """Take in one document: an OTLP object, or a list of them."""
        try:
            if jaeger.is_jaeger(document):
                document = jaeger.to_otlp(document)
            self._rows.extend(self._regular(document))
        except _ODD:
            spans: list[otlp.Span] = []
            otlp.read_document(document, line, spans, self.problems)
            self._rows.extend(map(self._from_span, spans))

    def cut(self, length: int) -> None:
        """Forget the rows behind the first ``length``."""
        del self._rows[length:]

    def take(self) -> list[tuple[Any, ...]]:
        """The columns' values so far, which are then forgotten."""
        columns = list(zip(*self._rows, strict=True)) if self._rows else [() for _ in self.columns]
        self._rows = []
        return columns

    def _regular(self, document: Any) -> list[Row]:
        """The rows of a document in the encoding's own words; raises one of ``_ODD`` where it is not in them."""
        rows: list[Row] = []
        places, blank = self._places, [None] * (self._width - len(FIXED))
        for resource in document["resourceSpans"]:
            service = _service(resource.get("resource"))
            about = whole_span.resource_text(resource.get("resource")) if self._whole else ""
            for scope in resource["scopeSpans"]:
                maker = whole_span.scope_text(scope.get("scope")) if self._whole else ""
                for span in scope["spans"]:
                    trace, own = span["traceId"], span["spanId"]
                    start, end = int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])
                    if len(trace) != 32 or len(own) != 16 or not 0 < start < 1 << 63 or not 0 < end < 1 << 63:
                        raise ValueError
                    bytes.fromhex(trace + own)  # raises where they are no hexadecimal
                    parent = span.get("parentSpanId")
                    status = span.get("status")
                    row: Row = [
                        trace.lower(),
                        own.lower(),
                        parent.lower() if parent else None,
                        span.get("name", ""),
                        _KINDS[span.get("kind", 0)],
                        start,
                        end,
                        _STATUSES[status.get("code", 0)] if status else "unset",
                        service,
                        *blank,
                    ]
                    for attribute in span.get("attributes", ()):
                        where = places.get(attribute["key"])
                        if where is not None:
                            place, best = where
                            if best or row[place] is None:
                                ((kind, value),) = attribute["value"].items()
                                read = _READ.get(kind)
                                row[place] = value if read is None else read(value)
                    if self._whole:
                        row.extend(whole_span.texts(span, about, maker))
                    rows.append(row)
        return rows

    def _from_span(self, span: otlp.Span) -> Row:
        service = span.resource.get("service.name")
        row: Row = [
            span.trace_id,
            span.span_id,
            span.parent_id,
            span.name,
            span.kind,
            span.start_ns,
            span.end_ns,
            span.status.code,
            service if isinstance(service, str) else None,
            *[None] * (self._width - len(FIXED)),
        ]
        for column, place in zip(self.columns[len(FIXED) : self._width], range(len(FIXED), self._width), strict=True):
            for attribute in column.attributes:
                value = span.attributes.get(attribute)
                if value is not None:
                    row[place] = _joined(value) if isinstance(value, tuple) else value
                    break
        if self._whole:
            row.extend(whole_span.texts_of_read(span))
        return row


def _service(resource: Any) -> str | None:
    for attribute in (resource or {}).get("attributes", ()):
        if attribute["key"] == "service.name":
            return attribute["value"].get("stringValue")
    return None


def _joined(values: Any) -> str:
    return ",".join(str(value) for value in values)


def _array(value: Any) -> str:
    return _joined(next(iter(member.values())) for member in value.get("values", ()))


_READ: dict[str, Callable[[Any], Any]] = {"intValue": int, "arrayValue": _array}
