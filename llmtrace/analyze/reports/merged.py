"""Phases that were not told apart: merged phases by the reason that they carry."""

from __future__ import annotations

from typing import Any

import ibis

from llmtrace.analyze.book import Book
from llmtrace.analyze.contract import MERGED, REASONS
from llmtrace.analyze.expressions import first
from llmtrace.analyze.report import Column, Section

UNSAID = "not said"


def section(book: Book, whole: int) -> Section:
    """Calls with a merged phase by reason, among ``whole`` calls. No rows where none has a reason."""
    phases = book.phases.filter(book.phases.phase.isin(MERGED))
    phases = phases.mutate(why=first(phases.merged_because, UNSAID))
    by_reason = phases.group_by("why").agg(
        calls=phases.count(),
        routes=phases.route.nunique(),
        seconds=phases.seconds.sum(),
        detail=phases.merged_detail.max(),
    )
    rows: list[list[Any]] = []
    reason_rows = book.rows(by_reason.order_by(ibis.desc("calls"), "why"))
    if all(row[0] == UNSAID for row in reason_rows):
        reason_rows = []
    for why, calls, routes, seconds, detail in reason_rows:
        means, helps = described(why)
        rows.append([why, calls, calls / whole, routes, seconds, means, helps, detail])
    return Section(
        "Not told apart",
        [
            Column("because"), Column("calls", "count"), Column("of all", "share"), Column("routes", "count"),
            Column("time", "s"), Column("meaning"), Column("would help"), Column("for instance"),
        ],
        rows,
        "Calls whose queue and prefill (queue_prefill), or all of whose time (opaque), is one span.",
    )  # fmt: skip


def described(because: str) -> tuple[str, str]:
    """The meaning of a reason and what would help; of several reasons, all of both."""
    if because == UNSAID:
        return "spans of schema version 1 do not say it", ""
    descriptions = [REASONS[reason] for reason in because.split(",") if reason in REASONS]
    return "; ".join(means for means, _ in descriptions), "; ".join(helps for _, helps in descriptions)


def summed(reasons: Section) -> str:
    """The reasons in a line: ``few_calls 12, no_stream 3``."""
    return ", ".join(f"{row[0]} {row[1]:,}" for row in reasons.rows)
