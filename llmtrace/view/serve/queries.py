"""The page's queries about calls: lists, facets, percentiles, and two calls side by side."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any, Final

import orjson

from llmtrace.analyze import contract
from llmtrace.analyze.contract import DETAILS, OVERHEAD_NOTE, are_mixed, figures
from llmtrace.analyze.critical import RETRY
from llmtrace.phases.model import PHASES
from llmtrace.view.serve.bodies import RefusedError
from llmtrace.view.serve.columns import CALL_TYPES
from llmtrace.view.serve.filters import LISTS, Filters, Pairs, count, only, parse
from llmtrace.view.serve.store import Store

ORDERS: Final = {
    "newest": "start_us",
    "slowest": "duration_s",
    "ttft": "coalesce(ttft_s, -1)",
    "tokens": "coalesce(input_tokens, 0) + coalesce(output_tokens, 0)",
    "cost": "coalesce(cost_usd, -1)",
}
"""The orders of the list, each with the largest first."""
FACET_VALUES: Final = 50
SAMPLE: Final = 50_000
"""The most calls that percentiles are computed from; of more, an even sample. Counts and sums are of all calls."""
_PAGE: Final = 100
_LARGEST_PAGE: Final = 1000
_SHARES: Final = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
_BEYOND: Final = 3
"""A percentile is told where so many calls may be expected beyond it: p90 of 30 calls, p95 of 60, p99 of 300."""
_NO_TTFT: Final[dict[str, float | None]] = {"p50": None, "p95": None}
_ERROR: Final = "(status = 'error' OR outcome IN ('error', 'timed_out'))"
_SHOWN: Final = tuple(CALL_TYPES)[2 : -3 * len(PHASES)]
CALL_COLUMNS: Final = (
    "replace(trace_id::VARCHAR, '-', '') AS trace_id, printf('%016x', span_id) AS span_id, " + ", ".join(_SHOWN)
)
_CALL_NAMES: Final = ("trace_id", "span_id", *_SHOWN)


def call(row: tuple[Any, ...]) -> dict[str, Any]:
    """A row of ``CALL_COLUMNS`` as the page wants it."""
    columns = dict(zip(_CALL_NAMES, row, strict=True))
    columns["phases"] = _phases(columns["phases"] or "[]", columns["attempts"] or 0)
    columns["causes"] = columns["causes"] or []
    columns["confidence"] = [_number(text) for text in (columns["confidence"] or "").split(",") if text]
    return columns


def _phases(text: str, attempts: int) -> orjson.Fragment | list[dict[str, Any]]:
    """A call's phases: a merged one says in a sentence why it is, and failed attempts with their waits come first."""
    if "merged_because" not in text and attempts < 2:
        return orjson.Fragment(text)
    phases = orjson.loads(text)
    before = phases[0]["start_s"] if phases and attempts > 1 else 0.0
    if before > 0:
        retries = {"start_s": 0.0, "duration_s": before, "source": "client", "uncertainty_s": None}
        phases.insert(0, {"name": RETRY, **retries})
    for phase in phases:
        because = contract.because(phase.get("merged_because"), phase.get("merged_detail"))
        if because is not None:
            phase["because"] = because
    return phases


def calls(store: Store, pairs: Pairs) -> dict[str, Any]:
    """A page of calls, largest first by ``order``; ``next`` is the cursor of the page behind it."""
    filters, rest = parse(pairs, ("order", "after", "limit"))
    order = rest.get("order", "newest")
    if order not in ORDERS:
        raise RefusedError(400, f"unknown order {order[:40]!r}: there are {', '.join(ORDERS)}")
    limit = count("limit", rest.get("limit"), _PAGE, _LARGEST_PAGE)
    where, values = filters.where()
    key = ORDERS[order]
    behind, at = "", []
    if "after" in rest:
        behind, at = f" AND ({key}, trace_id, span_id) < (?, ?::UUID, ?)", _cursor(rest["after"])
    with store.reading() as cursor:
        ((total,),) = cursor.execute(f"SELECT count(*) FROM calls WHERE {where}", values).fetchall()
        # Which rows first, and then what is in them: wide columns are read for one page only.
        rows = cursor.execute(
            f"SELECT {CALL_COLUMNS}, {key} AS key_ FROM calls WHERE rowid IN (SELECT rowid FROM calls "
            f"WHERE {where}{behind} ORDER BY {key} DESC, calls.trace_id DESC, calls.span_id DESC LIMIT {limit + 1}) "
            f"ORDER BY key_ DESC, calls.trace_id DESC, calls.span_id DESC",
            [*values, *at],
        ).fetchall()
        roots = _roots(cursor, [row[0] for row in rows[:limit]])
    page = rows[:limit]
    following = None
    if len(rows) > limit:
        last = page[-1]
        following = base64.urlsafe_b64encode(json.dumps([last[-1], last[0], int(last[1], 16)]).encode()).decode()
    return {
        "calls": [{**call(row[:-1]), "root": roots.get(row[0])} for row in page],
        "next": following,
        "total": total,
    }


def _roots(cursor: Any, traces: list[str]) -> dict[str, str]:
    """The name of each trace's first span without a parent."""
    if not traces:
        return {}
    wanted = "SELECT trace_id, start_ns FROM traces WHERE trace_id IN (SELECT unnest(?::UUID[]))"
    rows = cursor.execute(
        f"WITH w AS ({wanted}), bounds AS (SELECT min(start_ns) AS first, max(start_ns) AS last FROM w) "
        "SELECT replace(s.trace_id::VARCHAR, '-', ''), min(s.name) FROM spans s, bounds, w "
        "WHERE s.trace_id = w.trace_id AND s.start_ns = w.start_ns AND s.parent_id IS NULL "
        "AND s.start_ns BETWEEN bounds.first AND bounds.last GROUP BY s.trace_id",
        [traces],
    ).fetchall()
    return dict(rows)


def _cursor(text: str) -> list[Any]:
    try:
        value, trace, span = json.loads(base64.urlsafe_b64decode(text))
        if not (isinstance(value, (int, float)) and isinstance(span, int) and 0 <= span < 1 << 64):
            raise ValueError
        return [value, f"{int(trace, 16):032x}"[:32], span]
    except (ValueError, TypeError) as error:
        raise RefusedError(400, "after is no cursor that /api/calls gave") from error


def facets(store: Store, pairs: Pairs) -> dict[str, Any]:
    """The number of calls for each value of each list, under all filters except the list's own."""
    filters, _ = parse(pairs)
    counts: dict[str, Any] = {}
    with store.reading() as cursor:
        for name in LISTS:
            where, values = filters.where(without=name)
            column = "unnest(causes)" if name == "cause" else name
            rows = cursor.execute(
                f"SELECT value, count(*) AS n FROM (SELECT {column} AS value FROM calls WHERE {where}) "
                f"WHERE value IS NOT NULL GROUP BY value ORDER BY n DESC, value LIMIT {FACET_VALUES}",
                values,
            ).fetchall()
            counts[name] = [{"value": value, "count": n} for value, n in rows]
    return counts


def percentiles(store: Store, pairs: Pairs) -> dict[str, Any]:
    """Percentiles in seconds of durations, first-token times and phases, in all and over time."""
    filters, rest = parse(pairs, ("buckets",))
    buckets = count("buckets", rest.get("buckets"), 60, 500)
    where, values = filters.where()
    shares = f"[{', '.join(map(str, _SHARES.values()))}]"
    parts: list[str] = []
    for name in ("duration_s", "ttft_s"):
        parts += [f"quantile_cont({name}, {shares}) FILTER (drawn)", f"count({name})"]
    with store.reading() as cursor:
        ((call_count, versions),) = cursor.execute(
            f"SELECT count(*), list(DISTINCT schema_version) FROM calls WHERE {where}", values
        ).fetchall()
        mixed = are_mixed(version for version in versions or () if version is not None)
        members_by_figure = figures(mixed)
        for members in members_by_figure.values():
            length, source, unsure = (_of(name, members) for name in ("s", "source", "uncertainty"))
            parts += [f"quantile_cont({length}, {shares}) FILTER (drawn)", f"count({length})", f"sum({length})"]
            parts += [f"histogram({source})", f"median({unsure}) FILTER (drawn)"]
        drawn = _drawn(call_count)
        row = cursor.execute(
            f"SELECT count(*), min(start_us), max(start_us), {', '.join(parts)} FROM {drawn} WHERE {where}", values
        ).fetchone()
        count_, first, last, duration, timed, ttft, with_ttft, *figures_row = row
        phases: list[dict[str, Any]] = []
        for at, phase in enumerate(members_by_figure):
            spread, n, total, sources, uncertainty = figures_row[5 * at : 5 * at + 5]
            if n:
                about = {"sum_s": total, "sources": dict(sources), "uncertainty_s": uncertainty}
                phases.append({"name": phase, "count": n, **_spread(spread, n), **about})
        spent = {str(part["name"]): _of("s", members_by_figure[str(part["name"])]) for part in phases}
        over_time = _over_time(cursor, filters, drawn, first, last, buckets, spent)
    return {
        "count": count_,
        "duration": _spread(duration, timed),
        "ttft": _spread(ttft, with_ttft),
        "phases": phases,
        "over_time": over_time,
        "note": OVERHEAD_NOTE if mixed else None,
    }


def _of(what: str, phases: Sequence[str]) -> str:
    """SQL for a column of one phase (``s``, ``source``, ``uncertainty``), or of two phases that are shown as one."""
    if len(phases) == 1:
        return f"{what}_{phases[0]}"
    first, second = (f"{what}_{phase}" for phase in phases)
    if what == "s":
        return f"coalesce({first} + {second}, {first}, {second})"
    return f"greatest({first}, {second})" if what == "uncertainty" else f"coalesce({second}, {first})"


def _drawn(calls: int) -> str:
    """SQL for the calls with a column ``drawn``: true for all, or for an even sample of at most ``SAMPLE``."""
    every = max(1, -(-calls // SAMPLE))
    return f"(SELECT *, hash(span_id) % {every} = 0 AS drawn FROM calls)"


def _over_time(
    cursor: Any, filters: Filters, drawn: str, first: int | None, last: int | None, buckets: int, phases: dict[str, str]
) -> list[dict[str, Any]]:
    if first is None or last is None:
        return []
    start = int(filters.numbers.get("since_us", first))
    end = int(filters.numbers.get("until_us", last))
    width = max(1, -(-(end + 1 - start) // buckets))
    where, values = filters.where()
    medians = "".join(f", median({seconds}) FILTER (drawn)" for seconds in phases.values())
    rows = cursor.execute(
        f"SELECT (start_us - {start}) // {width} AS bucket, count(*), count(*) FILTER ({_ERROR}), "
        f"quantile_cont(ttft_s, [0.5, 0.95]) FILTER (drawn){medians} FROM {drawn} WHERE {where} "
        "GROUP BY bucket ORDER BY bucket",
        values,
    ).fetchall()
    return [
        {
            "start_us": start + bucket * width,
            "width_us": width,
            "count": n,
            "errors": errors,
            "ttft": {"p50": ttft[0], "p95": ttft[1] if n * 0.05 >= _BEYOND else None} if ttft else _NO_TTFT,
            "phases": {phase: value for phase, value in zip(phases, phase_medians, strict=True) if value is not None},
        }
        for bucket, n, errors, ttft, *phase_medians in rows
    ]


def _spread(values: list[float] | None, calls: int) -> dict[str, float | None]:
    """Percentiles by name, None for those that so few calls do not tell."""
    given = zip(_SHARES.items(), values or [None] * len(_SHARES), strict=True)
    return {
        name: value if name == "p50" or calls * (1 - share) >= _BEYOND - 1e-9 else None
        for (name, share), value in given
    }


def compare(store: Store, pairs: Pairs) -> dict[str, Any]:
    """Two calls side by side, each named TRACE:SPAN; of their attributes only those that differ."""
    names = only(pairs, ("a", "b"))
    with store.reading() as cursor:
        (a, *of_a), (b, *of_b) = (_one(cursor, name, names.get(name)) for name in ("a", "b"))
    (left_s, left), (right_s, right) = of_a, of_b
    mixed = are_mixed(one["schema_version"] for one in (a, b) if one["schema_version"] is not None)
    spent = {name: (_sum(left_s, members), _sum(right_s, members)) for name, members in figures(mixed).items()}
    if RETRY in {*left_s, *right_s}:  # a call that was not retried spent no time on it
        spent = {RETRY: (left_s.get(RETRY, 0.0), right_s.get(RETRY, 0.0)), **spent}
    phases = [
        {"name": name, "a_s": a_s, "b_s": b_s, "difference_s": _difference(a_s, b_s)}
        for name, (a_s, b_s) in spent.items()
        if a_s is not None or b_s is not None
    ]
    return {
        "a": a,
        "b": b,
        "duration_difference_s": _difference(a["duration_s"], b["duration_s"]),
        "ttft_difference_s": _difference(a["ttft_s"], b["ttft_s"]),
        "phases": phases,
        "attributes": [
            {"key": key, "a": left.get(key), "b": right.get(key)}
            for key in sorted({*left, *right})
            if left.get(key) != right.get(key)
        ],
        "note": OVERHEAD_NOTE if mixed else None,
    }


def _sum(seconds: dict[str, float], phases: Sequence[str]) -> float | None:
    """Seconds that a call spent in all of ``phases``; None where it has none of them."""
    spent = [seconds[phase] for phase in phases if phase in seconds]
    return sum(spent) if spent else None


def _one(cursor: Any, name: str, text: str | None) -> tuple[dict[str, Any], dict[str, float], dict[str, Any]]:
    """A call, the seconds of its phases, and its span's attributes."""
    trace, _, span = (text or "").partition(":")
    call_ids = ids(trace, span)
    if call_ids is None:
        raise RefusedError(400, f"{name} is a call as TRACE:SPAN, both in hexadecimal")
    row = cursor.execute(
        f"SELECT {CALL_COLUMNS} FROM calls WHERE trace_id = ?::UUID AND span_id = ?", call_ids
    ).fetchone()
    if row is None:
        raise RefusedError(404, f"{name}: there is no call {text!r} in the store")
    facts = call(row)
    start = facts["start_us"] * 1000
    span = cursor.execute(
        "SELECT attributes, events FROM spans WHERE start_ns BETWEEN ? AND ? AND trace_id = ?::UUID AND span_id = ?",
        [start, start + 999, *call_ids],
    ).fetchone()
    phases = facts["phases"]
    if not isinstance(phases, list):
        phases = orjson.loads(row[_CALL_NAMES.index("phases")] or "[]")
    seconds = {part["name"]: part["duration_s"] for part in phases}
    return facts, seconds, _everything(*span) if span else {}


def _everything(attributes: str, events: str | None) -> dict[str, Any]:
    """A span's attributes, with those that version 1 of the span contract moved into an event."""
    details = [event["attributes"] for event in orjson.loads(events or "[]") if event["name"] == DETAILS]
    return {**(details[0] if details else {}), **orjson.loads(attributes)}


def ids(trace: str, span: str) -> list[Any] | None:
    """A trace id and a span id as queries take them; None where they are not valid."""
    try:
        whole, own = int(trace, 16), int(span, 16)
    except ValueError:
        return None
    return [f"{whole:032x}", own] if 0 <= whole < 1 << 128 and 0 <= own < 1 << 64 else None


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else b - a


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
