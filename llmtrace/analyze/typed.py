"""Regular lines of OTLP/JSON, decoded into typed objects, become columns: a step for each column, not for each span.

Such objects take far less memory than dicts, and memory is what takes the time. Only what fills the table is decoded;
the rest has to be JSON, but may hold numbers beyond a float's. A line that is written otherwise than exporters write it
is refused as a whole: the caller then reads it as any JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import orjson
from msgspec import UNSET, Raw, Struct, UnsetType

from llmtrace.analyze import engine_spans, otlp
from llmtrace.analyze.contract import TELLING
from llmtrace.analyze.sparse import Sparse

KINDS: Final = dict(enumerate(otlp.KINDS))
STATUSES: Final = dict(enumerate(otlp.STATUSES))
_REMEMBERED: Final = 10_000
"""Resources, and lists of attributes' names, that are remembered."""
LATEST: Final = 1 << 63
"""Nanoseconds. No moment is as late."""
NOBODY: Final = "0" * 16
"""An id that is none."""

_Int = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""Of longer ones orjson makes floats."""


class _Array(Struct, gc=False):
    values: list[dict[str, bool | _Int | float | str]] = []


class _Value(Struct, gc=False):
    """A value, of one of the kinds that fill columns."""

    stringValue: str | UnsetType = UNSET
    boolValue: bool | UnsetType = UNSET
    intValue: _Int | str | UnsetType = UNSET
    doubleValue: _Int | float | str | UnsetType = UNSET
    arrayValue: _Array | UnsetType = UNSET


class _Attribute(Struct, gc=False):
    key: str
    value: _Value


class _Event(Struct, gc=False):
    name: str = ""
    attributes: list[_Attribute] = []


class _Status(Struct, gc=False):
    code: int = 0


class _Span(Struct, gc=False):
    traceId: str
    spanId: str
    startTimeUnixNano: str | int
    endTimeUnixNano: str | int
    parentSpanId: str | None = None
    name: str = ""
    kind: int = 0
    attributes: list[_Attribute] = []
    events: list[_Event] | None = None
    status: _Status | None = None


class _Scope(Struct, gc=False):
    name: str = ""


class _ScopeSpans(Struct, gc=False):
    spans: list[_Span]
    scope: _Scope | None = None


class _ResourceSpans(Struct, gc=False):
    scopeSpans: list[_ScopeSpans]
    resource: Raw = Raw(b"null")


class _Document(Struct, gc=False):
    resourceSpans: list[_ResourceSpans]


_decoder: Final = msgspec.json.Decoder(_Document)
_Group = tuple[list[int], list[Sequence[_Attribute]]]
"""Rows, and the attributes of each."""


class Resource(NamedTuple):
    """What is taken from a resource."""

    service: str | None
    served_by: Sequence[tuple[int, str]]
    """The columns that it fills, and what with."""


class _Plan(NamedTuple):
    """What spans with certain attributes, in a certain order, fill."""

    is_engine: bool
    """Whether they may be an engine's own."""
    filled: Sequence[tuple[int, int, bool]]
    """Where an attribute stands, its column, and whether none of the others takes its place there."""


class Lines:
    """Reads regular lines."""

    def __init__(self, places: Mapping[str, tuple[int, int]], resource: Callable[[Any], Resource]) -> None:
        """``places``: by attribute its column, below 0 where it marks engines' own spans, and its rank
        among those that fill it. ``resource``: what is taken from a resource as JSON has it.
        """
        self._places = places
        self._read_resource = resource
        self._resources: dict[bytes, Resource] = {}
        self._plans: dict[tuple[str, ...], _Plan] = {}

    def add(self, text: bytes, fixed: Sequence[list[Any]], sparse: Sequence[Sparse]) -> None:
        """Add the spans of a line to the columns; ``fixed`` are those of ``schema.FIXED``.

        Raises ValueError, KeyError, TypeError or AttributeError where the line is not regular; some of it has been
        added then.
        """
        for part in _read(text).resourceSpans:
            resource = self._resource(bytes(part.resource))
            for scope in part.scopeSpans:
                maker = "" if scope.scope is None else scope.scope.name
                if engine_spans.may_tell(maker, resource.service or ""):
                    raise ValueError("spans that may be an engine's own")
                if scope.spans:
                    first = len(fixed[0])
                    for column, values in zip(fixed, _fixed(scope.spans, resource.service), strict=True):
                        column.extend(values)
                    for place, value in resource.served_by:  # the spans' own attributes come after these, and win
                        sparse[place].extend(range(first, len(fixed[0])), [value] * len(scope.spans))
                    self._fill(scope.spans, first, sparse)

    def _resource(self, text: bytes) -> Resource:
        resource = self._resources.get(text)
        if resource is None:
            if len(self._resources) >= _REMEMBERED:
                self._resources.clear()
            resource = self._resources[text] = self._read_resource(orjson.loads(text))
        return resource

    def _fill(self, spans: Sequence[_Span], first: int, sparse: Sequence[Sparse]) -> None:
        """What the attributes of ``spans``, whose rows begin with ``first``, fill."""
        groups: dict[tuple[str, ...], _Group] = {}
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
                raise ValueError("spans that may be an engine's own")
            for position, place, wins in plan.filled:
                values = _plain([attributes[position].value for attributes in lists])
                if wins:
                    sparse[place].extend(rows, values)

    def _plan(self, names: tuple[str, ...]) -> _Plan:
        plan = self._plans.get(names)
        if plan is None:
            wanted = [(position, *self._places[name]) for position, name in enumerate(names) if name in self._places]
            winners: dict[int, tuple[int, int]] = {}
            for position, place, rank in wanted:
                if place not in winners or rank <= winners[place][0]:
                    winners[place] = (rank, position)
            if len(self._plans) >= _REMEMBERED:
                self._plans.clear()
            plan = self._plans[names] = _Plan(
                any(place < 0 for _, place, _ in wanted),
                [(position, place, winners[place] == (rank, position)) for position, place, rank in wanted],
            )
        return plan


def _read(text: bytes) -> _Document:
    """The document in ``text``. Raises ValueError where it is not regular, or no JSON."""
    if not text.isascii():
        text.decode()  # the decoder does not look at texts that it skips
    try:
        return _decoder.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError("not regular") from error


def _fixed(spans: Sequence[_Span], service: str | None) -> tuple[Iterable[Any], ...]:
    """The columns of every span. Raises ValueError or KeyError where one is not regular."""
    traces, owns = [span.traceId for span in spans], [span.spanId for span in spans]
    lower = {trace: _lower(trace) for trace in set(traces)}
    digits = "".join(owns)
    if any(len(own) != 16 for own in owns) or NOBODY in owns or len(bytes.fromhex(digits)) != 8 * len(owns):
        raise ValueError("a span id")
    starts = [int(span.startTimeUnixNano) for span in spans]
    ends = [int(span.endTimeUnixNano) for span in spans]
    moments = starts + ends
    if min(moments) <= 0 or max(moments) >= LATEST:
        raise ValueError("a moment")
    return (
        [lower[trace] for trace in traces],
        owns if digits == digits.lower() else [own.lower() for own in owns],
        [parent(span.parentSpanId) for span in spans],
        [span.name for span in spans],
        [KINDS[span.kind] for span in spans],
        starts,
        ends,
        ["unset" if span.status is None else STATUSES[span.status.code] for span in spans],
        [service] * len(spans),
    )


def _lower(trace: str) -> str:
    if len(trace) != 32 or not any(raw := bytes.fromhex(trace)) or len(raw) != 16:
        raise ValueError("a trace id")
    return trace.lower()


def parent(own: str | None) -> str | None:
    """A parent's id; None where it is missing or all zeros. Raises ValueError where it is not regular."""
    if not own or own == NOBODY:
        return None
    if len(own) != 16:
        raise ValueError("a parent's id")
    return own.lower()


def _telling(events: Iterable[_Event]) -> Iterable[_Attribute]:
    """The attributes of events that count as their span's own."""
    for event in events:
        beginning = TELLING.get(event.name)
        if beginning is not None:
            yield from (attribute for attribute in event.attributes if attribute.key.startswith(beginning))


def _plain(values: Sequence[_Value]) -> Sequence[Any]:
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
    return [_one(value) for value in values] if UNSET in plain else plain


def _one(value: _Value) -> Any:
    if value.stringValue is not UNSET:
        return value.stringValue
    if value.boolValue is not UNSET:
        return value.boolValue
    if value.intValue is not UNSET:
        return int(value.intValue)
    if value.doubleValue is not UNSET:
        return value.doubleValue
    if value.arrayValue is not UNSET:
        return members(value.arrayValue.values)
    raise ValueError("a value of another kind")


def members(values: Iterable[Mapping[str, Any]]) -> str:
    """The members of an OTLP/JSON list as text. Raises ValueError where one is not of one kind."""
    return ",".join(str(item) for member in values for (item,) in (member.values(),))
