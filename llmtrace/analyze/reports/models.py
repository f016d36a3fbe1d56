"""The models that answered: versions and fingerprints over time, and answers by another model than asked for."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from llmtrace.analyze import contract
from llmtrace.analyze.book import Book
from llmtrace.analyze.expressions import first
from llmtrace.analyze.report import NOTHING, Column, Report, Section, Stack, cell
from llmtrace.analyze.reports import Options
from llmtrace.wording import plural

HOUR_NS = 3_600_000_000_000
_STEPS = (HOUR_NS, 6 * HOUR_NS, 24 * HOUR_NS, 7 * 24 * HOUR_NS)
_BARS = 48


def make(book: Book, options: Options) -> Report:
    """Build the report."""
    calls = book.calls
    answered = calls.mutate(answered=first(calls.response_model, "not told"), who=first(calls.fingerprint, "not told"))
    by_answer = answered.group_by("route", "request_model", "answered", "who").agg(
        calls=answered.count(),
        first=answered.start_ns.min(),
        last=answered.start_ns.max(),
        p50=answered.duration.median(),
        ttft=answered.ttft.median(),
    )
    rows = book.rows(by_answer.order_by("route", "first"))
    totals: dict[str, int] = {}
    for row in rows:
        totals[row[0]] = totals.get(row[0], 0) + row[4]
    table = [
        [route, answer, _upstream(who), _short(who), count, count / totals[route], first, last, p50, ttft]
        for route, _, answer, who, count, first, last, p50, ttft in rows
    ]
    versions = Section(
        "Who answered",
        [
            Column("route"), Column("answered"), Column("upstream"), Column("fingerprint"), Column("calls", "count"),
            Column("of the route", "share"), Column("first seen", "time"), Column("last seen", "time"),
            Column("p50", "s"), Column("TTFT p50", "s"),
        ],
        table[: 5 * options.top],
        chart=_over_time(book, answered),
    )  # fmt: skip
    report = Report("models", "Which model answered", [versions, _changes(rows)])
    other = sorted(
        {(row[1], row[2]) for row in rows if row[1] and row[2] != "not told" and not row[2].startswith(row[1])}
    )
    report.headline = f"{plural(len({row[2] for row in rows}), 'answered model')} on {plural(len(totals), 'route')}"
    if other:
        examples = "; ".join(f"{asked} → {answer}" for asked, answer in other[:8])
        report.notes.append(f"answered under another name than asked: {examples}")
    return report


def _short(who: str) -> str:
    """The fingerprint without the model and the upstream, which have columns of their own, and without its own name."""
    upstream = contract.upstream(who)
    shown = [f"{name}={upstream}" for name in contract.WHO]
    parts = [part for part in who.split(";") if not part.startswith("model=") and part not in shown]
    return ";".join(part.removeprefix("fingerprint=") for part in parts) or NOTHING


def _upstream(who: str) -> str:
    """Who answered behind a gateway, as far as one told."""
    return contract.upstream(who) or NOTHING


def _named(answered: str, who: str) -> str:
    """One of a route's answering parties, in a word."""
    parts = (answered, _upstream(who), _short(who))
    return " ".join(part for part in parts if part != NOTHING) or NOTHING


def _over_time(book: Book, answered: Any) -> Stack | None:
    ((first, last),) = book.rows(answered.agg(first=answered.start_ns.min(), last=answered.start_ns.max()))
    if first is None or last == first:
        return None
    step = next((step for step in _STEPS if (last - first) / step <= _BARS), _STEPS[-1])
    counted = answered.mutate(slot=(answered.start_ns // step).cast("int64")).group_by("slot", "answered")
    slots: dict[int, dict[str, float]] = {}
    for slot, model, calls in book.rows(counted.agg(calls=lambda table: table.count())):
        slots.setdefault(slot, {})[model] = calls
    bars = [(cell(slot * step, "time"), parts) for slot, parts in sorted(slots.items())[-_BARS:]]
    return Stack("Calls over time, by the model that answered (UTC)", "count", bars)


def _changes(rows: list[tuple[Any, ...]]) -> Section:
    """For each route, the times at which another model began to answer."""
    rows_by_route: dict[str, list[tuple[Any, ...]]] = {}
    for row in rows:
        rows_by_route.setdefault(row[0], []).append(row)
    changes: list[list[Any]] = []
    for route, route_rows in rows_by_route.items():
        for before, after in pairwise(route_rows):
            overlap = before[6] > after[5]
            changes.append(
                [route, after[5], _named(before[2], before[3]), _named(after[2], after[3]),
                 "both answer" if overlap else "replaced"]
            )  # fmt: skip
    changes.sort(key=lambda change: change[1])
    return Section(
        "Changes",
        [Column("route"), Column("since", "time"), Column("from"), Column("to"), Column("how")],
        changes[-50:],
        "both answer: the earlier one was still seen afterwards, a set that flaps rather than a change.",
    )
