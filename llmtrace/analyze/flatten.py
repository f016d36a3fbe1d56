"""Turns OTLP/JSON into columns: regular lines and documents by faster ways, all others through the careful reader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from llmtrace.analyze import engine_spans, jaeger, otlp, whole_span
from llmtrace.analyze.contract import TELLING
from llmtrace.analyze.schema import FIXED, Column
from llmtrace.analyze.sparse import Sparse
from llmtrace.analyze.typed import KINDS, LATEST, NOBODY, STATUSES, Lines, Resource, members, parent

_ENGINE = (-1, 0)
"""Marks the attributes of engines' own spans that fill no column."""
_ODD = (KeyError, TypeError, ValueError, AttributeError)
Row = tuple[Any, ...]
"""A span's values of ``FIXED``."""


class Flattener:
    """Collects documents and returns them as columns; what cannot be read is listed in ``problems``."""

    def __init__(self, columns: Sequence[Column], whole: bool = False) -> None:
        """``columns``: the columns to fill. ``whole``: also keep each whole span as text, in ``whole_span.COLUMNS``."""
        self.columns = (*columns, *whole_span.COLUMNS) if whole else tuple(columns)
        self._whole = whole
        self._asked = tuple(columns)[len(FIXED) :]
        self.problems: list[otlp.Problem] = []
        self.odd = 0
        """Values that cannot be (``plausible``), as far as they have become columns."""
        self._places: dict[str, tuple[int, int]] = {}
        for place, column in enumerate(self._asked):
            for rank, attribute in enumerate(column.attributes):
                self._places.setdefault(attribute, (place, rank))
        self._of_resource = [(place, column.resource) for place, column in enumerate(self._asked) if column.resource]
        for mark in engine_spans.MARKS:
            self._places.setdefault(mark, _ENGINE)
        self._lines = Lines(self._places, self._of)
        self._moments: engine_spans.Moments = {}
        self._clear()

    def _clear(self) -> None:
        self._fixed: list[list[Any]] = [[] for _ in FIXED]
        self._sparse = [Sparse() for _ in self._asked]
        self._texts: list[whole_span.Texts] = []

    def __len__(self) -> int:
        return len(self._fixed[0])

    def add_line(self, text: bytes) -> bool:
        """Add the document in ``text`` if it is a regular one; else add nothing and return False."""
        if self._whole:
            return False
        rows_before = len(self)
        try:
            self._lines.add(text, self._fixed, self._sparse)
        except _ODD:
            self.cut(rows_before)
            return False
        return True

    def add(self, document: Any, line: int) -> None:
        """Add one document: an OTLP object, or a list of them."""
        rows_before = len(self)
        try:
            if jaeger.is_jaeger(document):
                document = jaeger.to_otlp(document)
            self._regular(document)
        except _ODD:
            self.cut(rows_before)
            spans: list[otlp.Span] = []
            otlp.read_document(document, line, spans, self.problems)
            for span in engine_spans.expanded(spans):
                self._from_span(span)

    def cut(self, length: int) -> None:
        """Drop all rows after the first ``length``."""
        for values in (*self._fixed, self._texts):
            del values[length:]
        for column in self._sparse:
            column.cut(length)

    def take(self) -> tuple[Sequence[Sequence[Any]], list[Sparse], list[Sequence[Any]]]:
        """Return the values of ``FIXED``, the columns asked for and ``whole_span.COLUMNS``, and drop them here."""
        fixed, sparse = self._fixed, self._sparse
        texts = _columns(self._texts, len(whole_span.COLUMNS) if self._whole else 0)
        self._clear()
        return fixed, sparse, texts

    def _regular(self, document: Any) -> None:
        """Add the rows of a regular document; raises one of ``_ODD`` where the document is not regular."""
        rows: list[Row] = []
        first, sparse, whole = len(self), self._sparse, self._whole
        place_of = self._places.get
        last_trace, trace_id = None, ""
        for resource in document["resourceSpans"]:
            service, served_by = self._of(resource.get("resource"))
            about = whole_span.resource_text(resource.get("resource")) if self._whole else ""
            for scope in resource["scopeSpans"]:
                maker = whole_span.scope_text(scope.get("scope"))
                may_tell = engine_spans.may_tell(maker, service or "")
                made: list[dict[str, Any]] = []  # by what engines' own spans tell
                for span in chain(scope["spans"], made):
                    engine = may_tell
                    trace, own = span["traceId"], span["spanId"]
                    start, end = int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])
                    if trace != last_trace:  # the spans of a trace mostly come together
                        if len(trace) != 32 or not any(bytes.fromhex(trace)):  # raises where it is no hexadecimal
                            raise ValueError
                        last_trace, trace_id = trace, trace.lower()
                    if len(own) != 16 or own == NOBODY or not 0 < start < LATEST or not 0 < end < LATEST:
                        raise ValueError
                    bytes.fromhex(own)
                    status = span.get("status")
                    row = first + len(rows)
                    rows.append(
                        (
                            trace_id,
                            own.lower(),
                            parent(span.get("parentSpanId")),
                            span.get("name", ""),
                            KINDS[span.get("kind", 0)],
                            start,
                            end,
                            STATUSES[status.get("code", 0)] if status else "unset",
                            service,
                        )
                    )
                    span_attributes = span.get("attributes", ())
                    events = span.get("events")
                    for attributes in (span_attributes,) if not events else (*_moved(events), span_attributes):
                        for attribute in attributes:
                            where = place_of(attribute["key"])
                            if where is not None:
                                place, rank = where
                                if place < 0:
                                    engine = True
                                    continue
                                ((kind, value),) = attribute["value"].items()
                                if kind in _READ:
                                    value = _READ[kind](value)
                                elif value is None:
                                    raise ValueError
                                column = sparse[place]
                                filled = column.rows
                                if filled and filled[-1] == row:
                                    column.put(row, value, rank)
                                else:
                                    filled.append(row)
                                    column.values.append(value)
                                    column.rank = rank
                    for place, value in served_by:
                        sparse[place].fill(row, value)
                    if whole:
                        self._texts.append(whole_span.texts(span, about, maker))
                    if engine:
                        known, beneath = engine_spans.expanded_json(
                            span, scope["spans"], maker, service or "", self._moments
                        )
                        self._know(row, known)
                        made.extend(beneath)
        self._extend(rows)

    def _extend(self, rows: Iterable[Row]) -> None:
        for column, values in zip(self._fixed, zip(*rows, strict=True), strict=False):
            column.extend(values)

    def _know(self, row: int, known: Mapping[str, Any]) -> None:
        """Fill in what an engine's span is known by, where its own attributes say nothing of it."""
        for name, value in known.items():
            where = self._places.get(name)
            if where is not None:
                self._sparse[where[0]].fill(row, value)

    def _of(self, resource: Any) -> Resource:
        """What is taken from a resource."""
        texts = _texts(resource)
        return Resource(texts.get("service.name"), self._served_by(texts))

    def _served_by(self, about: Mapping[str, Any]) -> list[tuple[int, str]]:
        """The columns that a resource fills, and what with."""
        filled: list[tuple[int, str]] = []
        for place, attributes in self._of_resource:
            value = next((about[name] for name in attributes if about.get(name)), None)
            if value is not None:
                filled.append((place, str(value)))
        return filled

    def _from_span(self, span: otlp.Span) -> None:
        service = span.resource.get("service.name")
        attributes = span.everything
        row = len(self)
        self.odd += span.odd
        values = (
            span.trace_id,
            span.span_id,
            span.parent_id,
            span.name,
            span.kind,
            span.start_ns,
            span.end_ns,
            span.status.code,
            service if isinstance(service, str) else None,
        )
        self._extend([values])
        for column, sparse in zip(self._asked, self._sparse, strict=True):
            for attribute in column.attributes:
                value = attributes.get(attribute)
                if value is not None:
                    sparse.put(row, ",".join(map(str, value)) if isinstance(value, tuple) else value, 0)
                    break
        texts = {name: value for name, value in span.resource.items() if isinstance(value, str)}
        for place, value in self._served_by(texts):
            self._sparse[place].fill(row, value)
        if self._whole:
            self._texts.append(whole_span.texts_of_read(span))


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[Sequence[Any]]:
    return list(zip(*rows, strict=True)) if rows else [() for _ in range(width)]


def _texts(resource: Any) -> dict[str, Any]:
    """The attributes of a resource that are texts."""
    return {each["key"]: each["value"].get("stringValue") for each in (resource or {}).get("attributes", ())}


def _moved(events: Sequence[Any]) -> list[Any]:
    """The attributes of events that count as their span's own; those on the span win."""
    telling = [(event.get("attributes", ()), TELLING.get(event.get("name"))) for event in events]
    return [
        [each for each in attributes if each["key"].startswith(beginning)] if beginning else attributes
        for attributes, beginning in telling
        if beginning is not None
    ]


def _array(value: Any) -> str:
    return members(value.get("values", ()))


_READ: dict[str, Callable[[Any], Any]] = {"intValue": int, "arrayValue": _array}
