"""Turns OTLP/JSON into columns: regular lines and documents by faster ways, all others through the careful reader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import orjson
from msgspec import UNSET

from llmtrace.analyze import engine_spans, jaeger, otlp, regular, whole_span
from llmtrace.analyze.contract import TELLING
from llmtrace.analyze.schema import FIXED, Column

_KINDS = dict(enumerate(otlp.KINDS))
_STATUSES = dict(enumerate(otlp.STATUSES))
_ENGINE = (-1, False)
"""Marks the attributes of engines' own spans that fill no column."""
_LATEST = 1 << 63
_ODD = (KeyError, TypeError, ValueError, AttributeError)
_WORTHWHILE = 8 << 10
"""Bytes. A line that is shorter has few spans, and a step for each of their columns takes longer than one for each span."""
_REMEMBERED = 10_000
"""Resources, and lists of attributes' names, that are remembered."""
Row = tuple[Any, ...]
"""A span's values of ``FIXED``."""


class _Resource(NamedTuple):
    """What is taken from a resource."""

    service: str | None
    served_by: Sequence[tuple[int, str]]
    """The columns that it fills, and what with."""


class _Plan(NamedTuple):
    """What spans with certain attributes, in a certain order, fill."""

    is_engine: bool
    """Whether they may be an engine's own."""
    filled: Sequence[tuple[int, int, bool]]
    """Where an attribute stands, its column, and whether no other attribute takes its place there."""


class Sparse:
    """A column that few spans fill: the rows that have a value, and the values; the last value of a row counts."""

    __slots__ = ("rows", "values")

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.values: list[Any] = []

    def extend(self, rows: Iterable[int], values: Iterable[Any]) -> None:
        """Fill ``rows``, whatever they are filled with."""
        self.rows += rows
        self.values += values

    def put(self, row: int, value: Any, best: bool) -> None:
        """Fill ``row``; where another attribute has filled it already, only the ``best`` one takes its place."""
        if self.rows and self.rows[-1] == row:
            if best:
                self.values[-1] = value
            return
        self.rows.append(row)
        self.values.append(value)

    def fill(self, row: int, value: Any) -> None:
        """Fill ``row`` unless it is filled."""
        if not self.rows or self.rows[-1] != row:
            self.rows.append(row)
            self.values.append(value)


class Flattener:
    """Collects documents and returns them as columns; what cannot be read is listed in ``problems``."""

    def __init__(self, columns: Sequence[Column], whole: bool = False) -> None:
        """``columns``: the columns to fill. ``whole``: also keep each whole span as text, in ``whole_span.COLUMNS``."""
        self.columns = (*columns, *whole_span.COLUMNS) if whole else tuple(columns)
        self._whole = whole
        self._asked = tuple(columns)[len(FIXED) :]
        self.problems: list[otlp.Problem] = []
        self._places: dict[str, tuple[int, bool]] = {}
        for place, column in enumerate(self._asked):
            for rank, attribute in enumerate(column.attributes):
                self._places.setdefault(attribute, (place, rank == 0))
        self._of_resource = [(place, column.resource) for place, column in enumerate(self._asked) if column.resource]
        for mark in engine_spans.MARKS:
            self._places.setdefault(mark, _ENGINE)
        self._resources: dict[bytes, _Resource] = {}
        self._plans: dict[tuple[str, ...], _Plan] = {}
        self._clear()

    def _clear(self) -> None:
        self._fixed: list[list[Any]] = [[] for _ in FIXED]
        self._sparse = [Sparse() for _ in self._asked]
        self._texts: list[whole_span.Texts] = []

    def __len__(self) -> int:
        return len(self._fixed[0])

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

    def add_line(self, text: bytes) -> bool:
        """Add the document in ``text`` if it is a regular one; else add nothing and return False."""
        if self._whole or len(text) < _WORTHWHILE:
            return False
        document = regular.read(text)
        if document is None:
            return False
        rows_before = len(self)
        try:
            for part in document.resourceSpans:
                resource = self._resource(bytes(part.resource))
                for scope in part.scopeSpans:
                    maker = "" if scope.scope is None else scope.scope.name
                    if engine_spans.may_tell(maker, resource.service or ""):
                        raise ValueError
                    if scope.spans:
                        self._alike(scope.spans, resource)
        except _ODD:
            self.cut(rows_before)
            return False
        return True

    def cut(self, length: int) -> None:
        """Drop all rows after the first ``length``."""
        for values in (*self._fixed, self._texts):
            del values[length:]
        for column in self._sparse:
            while column.rows and column.rows[-1] >= length:
                column.rows.pop()
                column.values.pop()

    def take(self) -> tuple[list[Sequence[Any]], list[Sparse], list[Sequence[Any]]]:
        """Return the values of ``FIXED``, the columns asked for and ``whole_span.COLUMNS``, and drop them here."""
        texts = _columns(self._texts, len(whole_span.COLUMNS) if self._whole else 0)
        fixed, sparse = [*self._fixed], self._sparse
        self._clear()
        return fixed, sparse, texts

    def _regular(self, document: Any) -> None:
        """Add the rows of a regular document; raises one of ``_ODD`` where the document is not regular."""
        rows: list[Row] = []
        before, sparse, whole = len(self), self._sparse, self._whole
        place_of = self._places.get
        last_trace = trace_id = ""
        for resource in document["resourceSpans"]:
            texts = _texts(resource.get("resource"))
            service, served_by = texts.get("service.name"), self._served_by(texts)
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
                        if len(trace) != 32:
                            raise ValueError
                        bytes.fromhex(trace)  # raises where it is no hexadecimal
                        last_trace, trace_id = trace, trace.lower()
                    if len(own) != 16 or not 0 < start < _LATEST or not 0 < end < _LATEST:
                        raise ValueError
                    bytes.fromhex(own)
                    parent = span.get("parentSpanId")
                    status = span.get("status")
                    row = before + len(rows)
                    rows.append(
                        (
                            trace_id,
                            own.lower(),
                            parent.lower() if parent else None,
                            span.get("name", ""),
                            _KINDS[span.get("kind", 0)],
                            start,
                            end,
                            _STATUSES[status.get("code", 0)] if status else "unset",
                            service,
                        )
                    )
                    span_attributes = span.get("attributes", ())
                    events = span.get("events")
                    for attributes in (span_attributes,) if not events else (*_moved(events), span_attributes):
                        for attribute in attributes:
                            where = place_of(attribute["key"])
                            if where is not None:
                                place, best = where
                                if place < 0:
                                    engine = True
                                    continue
                                ((kind, value),) = attribute["value"].items()
                                if kind in _READ:
                                    value = _READ[kind](value)
                                column = sparse[place]
                                filled = column.rows
                                if filled and filled[-1] == row:
                                    column.put(row, value, best)
                                else:
                                    filled.append(row)
                                    column.values.append(value)
                    for place, value in served_by:
                        sparse[place].fill(row, value)
                    if whole:
                        self._texts.append(whole_span.texts(span, about, maker))
                    if engine:
                        known, beneath = engine_spans.expanded_json(span, scope["spans"], maker, service or "")
                        self._know(row, known)
                        made.extend(beneath)
        self._extend(zip(*rows, strict=True))

    def _extend(self, columns: Iterable[Iterable[Any]]) -> None:
        """Add rows of ``FIXED``, which come as columns; none where there is no column."""
        for values, more in zip(self._fixed, columns, strict=False):
            values += more

    def _resource(self, text: bytes) -> _Resource:
        resource = self._resources.get(text)
        if resource is None:
            texts = _texts(orjson.loads(text))
            if len(self._resources) >= _REMEMBERED:
                self._resources.clear()
            resource = self._resources[text] = _Resource(texts.get("service.name"), self._served_by(texts))
        return resource

    def _alike(self, spans: Sequence[regular.Span], resource: _Resource) -> None:
        """Add a row for each span, column by column; raises one of ``_ODD`` where one is not regular."""
        count, first = len(spans), len(self)
        traces, owns = [span.traceId for span in spans], [span.spanId for span in spans]
        lower = {trace: _lower(trace) for trace in set(traces)}
        digits = "".join(owns)
        if set(map(len, owns)) != {16} or len(bytes.fromhex(digits)) != 8 * count:
            raise ValueError
        starts = [int(span.startTimeUnixNano) for span in spans]
        ends = [int(span.endTimeUnixNano) for span in spans]
        if not (0 < min(starts) and max(starts) < _LATEST and 0 < min(ends) and max(ends) < _LATEST):
            raise ValueError
        self._extend(
            (
                [lower[trace] for trace in traces],
                owns if digits == digits.lower() else map(str.lower, owns),
                [span.parentSpanId.lower() if span.parentSpanId else None for span in spans],
                [span.name for span in spans],
                [_KINDS[span.kind] for span in spans],
                starts,
                ends,
                ["unset" if span.status is None else _STATUSES[span.status.code] for span in spans],
                [resource.service] * count,
            )
        )
        for place, value in resource.served_by:  # before their own attributes, which win
            self._sparse[place].extend(range(first, first + count), [value] * count)
        groups: dict[tuple[str, ...], tuple[list[int], list[Sequence[regular.Attribute]]]] = {}
        for row, span in enumerate(spans, first):
            attributes = span.attributes if not span.events else [*_telling(span.events), *span.attributes]
            names = tuple([attribute.key for attribute in attributes])
            group = groups.get(names)
            if group is None:
                group = groups[names] = ([], [])
            group[0].append(row)
            group[1].append(attributes)
        for names, (rows, lists) in groups.items():
            plan = self._plan(names)
            if plan.is_engine:
                raise ValueError
            for position, place, wins in plan.filled:
                values = _unwrapped([attributes[position].value for attributes in lists])
                if wins:
                    self._sparse[place].extend(rows, values)

    def _plan(self, names: tuple[str, ...]) -> _Plan:
        plan = self._plans.get(names)
        if plan is None:
            wanted = [(position, *self._places[name]) for position, name in enumerate(names) if name in self._places]
            winners: dict[int, int] = {}
            for position, place, best in wanted:
                if best or place not in winners:
                    winners[place] = position
            if len(self._plans) >= _REMEMBERED:
                self._plans.clear()
            plan = self._plans[names] = _Plan(
                any(place < 0 for _, place, _ in wanted),
                [(position, place, winners[place] == position) for position, place, _ in wanted],
            )
        return plan

    def _know(self, row: int, known: Mapping[str, Any]) -> None:
        """Fill in what an engine's span is known by, where its own attributes say nothing of it."""
        for name, value in known.items():
            where = self._places.get(name)
            if where is not None:
                self._sparse[where[0]].fill(row, value)

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
        self._extend([value] for value in values)
        for column, sparse in zip(self._asked, self._sparse, strict=True):
            for attribute in column.attributes:
                value = attributes.get(attribute)
                if value is not None:
                    sparse.put(row, _joined(value) if isinstance(value, tuple) else value, True)
                    break
        for place, value in self._served_by(span.resource):
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


def _lower(trace: str) -> str:
    """A trace id in lower case; raises ValueError where it is none."""
    if len(trace) != 32 or len(bytes.fromhex(trace)) != 16:
        raise ValueError
    return trace.lower()


def _telling(events: Iterable[regular.Event]) -> Iterable[regular.Attribute]:
    """As ``_moved``."""
    for event in events:
        beginning = TELLING.get(event.name)
        if beginning is not None:
            yield from (attribute for attribute in event.attributes if attribute.key.startswith(beginning))


def _unwrapped(values: Sequence[regular.Value]) -> Sequence[Any]:
    """What the values are, most often all of one kind; raises ValueError where one is of no kind that fills columns."""
    first = values[0]
    plain: list[Any] = [UNSET]
    if first.stringValue is not UNSET:
        plain = [value.stringValue for value in values]
    elif first.boolValue is not UNSET:
        plain = [value.boolValue for value in values]
    elif first.intValue is not UNSET:
        plain = [value.intValue for value in values]
        if UNSET not in plain:
            return list(map(int, plain))
    elif first.doubleValue is not UNSET:
        plain = [value.doubleValue for value in values]
    return list(map(_plain, values)) if UNSET in plain else plain


def _plain(value: regular.Value) -> Any:
    if value.stringValue is not UNSET:
        return value.stringValue
    if value.boolValue is not UNSET:
        return value.boolValue
    if value.intValue is not UNSET:
        return int(value.intValue)
    if value.doubleValue is not UNSET:
        return value.doubleValue
    if value.arrayValue is not UNSET:
        return _members(value.arrayValue.values)
    raise ValueError


def _joined(values: Any) -> str:
    return ",".join(str(value) for value in values)


def _members(values: Iterable[Mapping[str, Any]]) -> str:
    return _joined(item for member in values for (item,) in (member.values(),))


def _array(value: Any) -> str:
    return _members(value.get("values", ()))


_READ: dict[str, Callable[[Any], Any]] = {"intValue": int, "arrayValue": _array}
