"""``/api/otlp``: the stored traces as OTLP/JSON, a line each, for ``llmtrace report`` and whoever wants them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import orjson

from llmtrace.analyze.otlp import KINDS, STATUSES, pairs_of
from llmtrace.view.serve.filters import Pairs, count, only
from llmtrace.view.serve.store import Store

_MOST: Final = 1_000_000
_COLUMNS: Final[tuple[str, ...]] = (
    "span_id", "parent_id", "name", "kind", "status", "status_message", "scope", "start_ns", "end_ns", "attributes",
    "resource", "events", "links",
)  # fmt: skip
_TRACES: Final = """
SELECT trace_id, start_ns, end_ns FROM traces WHERE end_ns >= ? AND start_ns <= ?
AND (? = '' OR trace_id IN (SELECT trace_id FROM spans WHERE service = ?)) ORDER BY start_ns DESC LIMIT ?"""
_SPANS: Final = f"""
SELECT {", ".join(_COLUMNS)} FROM spans
WHERE start_ns BETWEEN ? AND ? AND trace_id = ? ORDER BY start_ns"""


def lines(store: Store, pairs: Pairs) -> Iterator[bytes]:
    """Each trace of the window as a line, the newest first; the last line is ``{"more": true}`` where there are more.

    Raises:
        RefusedError: a parameter that is none.
    """
    given = only(pairs, ("since_us", "until_us", "service", "limit"))
    since, until = (count(name, given.get(name), 0 if name == "since_us" else 1 << 62, 1 << 62, least=0)
                    for name in ("since_us", "until_us"))  # fmt: skip
    limit = count("limit", given.get("limit"), 1000, _MOST)
    service = given.get("service", "")
    return _lines(store, since * 1000, min(until * 1000, (1 << 63) - 1), service, limit)


def _lines(store: Store, since_ns: int, until_ns: int, service: str, limit: int) -> Iterator[bytes]:
    with store.reading() as cursor:
        traces = cursor.execute(_TRACES, [since_ns, until_ns, service, service, limit + 1]).fetchall()
        for trace, start, end in traces[:limit]:
            rows = cursor.execute(_SPANS, [start, end, trace]).fetchall()
            spans: list[dict[str, Any]] = [dict(zip(_COLUMNS, row, strict=True)) for row in rows]
            yield orjson.dumps({"resourceSpans": [_document(trace.hex, span) for span in spans]}) + b"\n"
        if len(traces) > limit:
            yield b'{"more": true}\n'


def _document(trace_id: str, span: dict[str, Any]) -> dict[str, Any]:
    written = {
        "traceId": trace_id,
        "spanId": f"{span['span_id']:016x}",
        "parentSpanId": "" if span["parent_id"] is None else f"{span['parent_id']:016x}",
        "name": span["name"],
        "kind": KINDS.index(span["kind"]) if span["kind"] in KINDS else 0,
        "startTimeUnixNano": str(span["start_ns"]),
        "endTimeUnixNano": str(span["end_ns"]),
        "status": {
            "code": STATUSES.index(span["status"]) if span["status"] in STATUSES else 0,
            "message": span["status_message"] or "",
        },
        "attributes": _pairs(span["attributes"]),
        "events": [
            {"name": event["name"], "timeUnixNano": str(event["time_ns"]), "attributes": pairs_of(event["attributes"])}
            for event in orjson.loads(span["events"] or "[]")
        ],
        "links": [
            {"traceId": link["trace_id"], "spanId": link["span_id"], "attributes": pairs_of(link["attributes"])}
            for link in orjson.loads(span["links"] or "[]")
        ],
    }
    scope = {"scope": {"name": span["scope"] or ""}, "spans": [written]}
    return {"resource": {"attributes": _pairs(span["resource"])}, "scopeSpans": [scope]}


def _pairs(text: str | None) -> list[dict[str, Any]]:
    return pairs_of(orjson.loads(text or "{}"))
