"""One trace as the page draws it: a stretch of its spans in depth-first order, and what is odd about it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson

from llmtrace.analyze import contract
from llmtrace.emit import names
from llmtrace.view import about
from llmtrace.view.serve.arrange import Arranged, arrange
from llmtrace.view.serve.bodies import RefusedError
from llmtrace.view.serve.filters import Pairs, count, only
from llmtrace.view.serve.headline import headline
from llmtrace.view.serve.queries import ids
from llmtrace.view.serve.store import Store

_SPANS: Final = 2000
_MOST_SPANS: Final = 5000
PAGE_BYTES: Final = 16 << 20
"""Bytes of spans' text after which a page ends early; the next page goes on from there."""
_KEPT: Final = 4
_COLUMNS: Final = (
    "span_id", "parent_id", "name", "kind", "status", "status_message", "service", "scope", "phase", "source",
    "uncertainty", "start_ns", "end_ns", "attributes", "resource", "events", "links",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Whole:
    """A trace's shape, computed once for all its pages."""

    state: tuple[int, int, int]
    """First start and last end, ns, and the number of spans: another state is another shape."""
    span_ids: list[int]
    arranged: Arranged
    place: dict[int, int]
    """The place of each span id in the order."""
    services: list[str]
    clock_warnings: list[str]


class Traces:
    """Answers ``/api/traces/ID``; keeps the shapes of the last few traces."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: OrderedDict[str, _Whole] = OrderedDict()
        self._lock = threading.Lock()

    def page(self, trace_id: str, pairs: Pairs) -> dict[str, Any]:
        """A stretch of the trace. It may hold fewer spans than ``limit``: the next begins where it ends."""
        parameters = only(pairs, ("offset", "limit", "around"))
        parsed_ids = ids(trace_id, "0")
        if parsed_ids is None:
            raise RefusedError(400, "a trace id is 32 hexadecimal digits")
        trace = parsed_ids[0]
        limit = count("limit", parameters.get("limit"), _SPANS, _MOST_SPANS)
        offset = count("offset", parameters.get("offset"), 0, 1 << 62, least=0)
        with self._store.reading() as cursor:
            row = cursor.execute(
                "SELECT start_ns, end_ns, spans FROM traces WHERE trace_id = ?::UUID", [trace]
            ).fetchone()
            if row is None:
                raise RefusedError(404, f"there is no trace {trace} in the store")
            whole = self._whole(cursor, trace, row)
            if "around" in parameters:
                offset = self._around(whole, parameters["around"], limit)
            order = whole.arranged.order[offset : offset + limit]
            rows = self._rows(cursor, trace, whole, order)
            calls = {
                span
                for (span,) in cursor.execute("SELECT span_id FROM calls WHERE trace_id = ?::UUID", [trace]).fetchall()
            }
            brief = headline(cursor, trace) if offset == 0 or "around" in parameters else None
        start, end, _ = whole.state
        spans: list[dict[str, Any]] = []
        size = 0
        for at in order:
            row = rows.get(whole.span_ids[at])
            if row is None:  # dropped just now, to make room
                continue
            size += len(row["attributes"]) + len(row["resource"]) + len(row["events"] or "")
            if spans and size > PAGE_BYTES:
                break
            spans.append(_span(row, start, at, whole.arranged, calls))
        return {
            "trace_id": trace,
            "start_us": start // 1000,
            "duration_s": (end - start) / 1e9,
            "total": len(whole.span_ids),
            "headline": brief,
            "offset": offset,
            "services": whole.services,
            "orphans": sum(whole.arranged.orphan),
            "clock_warnings": whole.clock_warnings,
            "spans": spans,
        }

    @staticmethod
    def _around(whole: _Whole, span: str, limit: int) -> int:
        """The offset of the page that a span is on. Raises RefusedError (404)."""
        parsed_ids = ids("0", span)
        at = whole.place.get(parsed_ids[1]) if parsed_ids else None
        if at is None:
            raise RefusedError(404, f"there is no span {span[:40]!r} in this trace")
        return at // limit * limit

    def _whole(self, cursor: Any, trace: str, state: tuple[int, int, int]) -> _Whole:
        with self._lock:
            remembered = self._kept.get(trace)
            if remembered is not None and remembered.state == state:
                self._kept.move_to_end(trace)
                return remembered
        shape = cursor.execute(
            "SELECT span_id, coalesce(parent_id, 0) AS parent_id, parent_id IS NOT NULL AS has_parent, start_ns, "
            "end_ns, coalesce(service, '') AS service FROM spans "
            "WHERE start_ns BETWEEN ? AND ? AND trace_id = ?::UUID",
            [state[0], state[1], trace],
        ).fetchnumpy()
        columns = (shape["span_id"], shape["parent_id"], shape["has_parent"], shape["start_ns"], shape["end_ns"])
        arranged = arrange(*columns)
        span_ids = shape["span_id"].tolist()
        services = shape["service"]
        whole = _Whole(
            state,
            span_ids,
            arranged,
            {span_ids[at]: number for number, at in enumerate(arranged.order)},
            sorted({str(name) for name in set(services.tolist()) if name}),
            _clocks(*columns, services),
        )
        with self._lock:
            self._kept[trace] = whole
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return whole

    @staticmethod
    def _rows(cursor: Any, trace: str, whole: _Whole, order: list[int]) -> dict[int, dict[str, Any]]:
        condition = ""
        values: list[Any] = [whole.state[0], whole.state[1], trace]
        if len(order) < len(whole.span_ids):
            condition = " AND span_id IN (SELECT unnest(?::UBIGINT[]))"
            values.append([whole.span_ids[at] for at in order])
        rows = cursor.execute(
            f"SELECT {', '.join(_COLUMNS)} FROM spans WHERE start_ns BETWEEN ? AND ? AND trace_id = ?::UUID{condition}",
            values,
        ).fetchall()
        return {row[0]: dict(zip(_COLUMNS, row, strict=True)) for row in rows}


def _span(row: dict[str, Any], start: int, at: int, arranged: Arranged, calls: set[int]) -> dict[str, Any]:
    parent = row["parent_id"]
    return {
        "span_id": f"{row['span_id']:016x}",
        "parent_id": None if parent is None else f"{parent:016x}",
        **{
            name: row[name]
            for name in ("name", "service", "scope", "kind", "status", "status_message", "phase", "source")
        },
        "start_s": (row["start_ns"] - start) / 1e9,
        "duration_s": (row["end_ns"] - row["start_ns"]) / 1e9,
        "uncertainty_s": row["uncertainty"],
        "depth": arranged.depth[at],
        "descendants": arranged.descendants[at],
        "has_children": arranged.descendants[at] > 0,
        "orphan": arranged.orphan[at],
        "call": row["span_id"] in calls,
        **_in_words(row["attributes"] or ""),
        "attributes": orjson.Fragment(row["attributes"] or "{}"),
        "resource": orjson.Fragment(row["resource"] or "{}"),
        "events": [
            {"name": event["name"], "at_s": (event["time_ns"] - start) / 1e9, "attributes": event["attributes"]}
            for event in orjson.loads(row["events"] or "[]")
        ],
        "links": orjson.Fragment(row["links"] or "[]"),
    }


def _in_words(attributes: str) -> dict[str, str]:
    """What a span's attributes say that wants a sentence; nothing for most spans, whose text is not read."""
    if not any(name in attributes for name in (names.MERGED_BECAUSE, names.ESTIMATE_ERROR, names.LOST_BECAUSE)):
        return {}
    told = orjson.loads(attributes)
    because = contract.because(told.get(names.MERGED_BECAUSE), told.get(names.MERGED_DETAIL))
    said = {"because": because, "blind": about.blind(told), "lost": about.lost(told)}
    return {name: words for name, words in said.items() if words is not None}


def _clocks(span_ids: Any, parent_ids: Any, has_parent: Any, starts: Any, ends: Any, services: Any) -> list[str]:
    """Warnings about children of another service that lie outside their parent, one for each pair of services."""
    from llmtrace.analyze.tables import SKEW_NS  # with ibis behind it, which a start need not wait for

    order = np.argsort(span_ids)
    at = np.clip(np.searchsorted(span_ids, parent_ids, sorter=order), 0, len(span_ids) - 1)
    above = order[at]
    beside = has_parent & (span_ids[above] == parent_ids) & (services != services[above])
    early = np.where(beside, starts[above] - starts, 0)
    late = np.where(beside, ends - ends[above], 0)
    off = np.maximum(early, late)
    pairs: dict[tuple[str, str], tuple[int, int]] = {}
    for child_index in np.flatnonzero(off > SKEW_NS).tolist():
        key = (str(services[child_index]) or "?", str(services[above[child_index]]) or "?")
        number, most = pairs.get(key, (0, 0))
        pairs[key] = (number + 1, max(most, int(off[child_index])))
    return [
        f"{number} {'span' if number == 1 else 'spans'} of {child} {'begins' if number == 1 else 'begin'} before or "
        f"{'ends' if number == 1 else 'end'} after {'its' if number == 1 else 'their'} parent in {parent}, by up to "
        f"{most / 1e6:.1f} ms: their clocks may disagree"
        for (child, parent), (number, most) in sorted(pairs.items())
    ]
