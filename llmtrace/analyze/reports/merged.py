"""Phases that were not told apart: merged phases by the reason that they carry."""

from __future__ import annotations

from typing import Any

import ibis

from llmtrace.analyze import contract
from llmtrace.analyze.book import Book
from llmtrace.analyze.contract import MERGED
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
        detail=phases.merged_detail.argmax(phases.start_ns),
    )
    rows: list[list[Any]] = []
    reason_rows = book.rows(by_reason.order_by(ibis.desc("calls"), "why"))
    if all(row[0] == UNSAID for row in reason_rows):
        reason_rows = []
    for why, calls, routes, seconds, detail in reason_rows:
        rows.append([why, calls, calls / whole, routes, seconds, sentence(why, detail)])
    return Section(
        "Not told apart",
        [
            Column("because"), Column("calls", "count"), Column("of all", "share"), Column("routes", "count"),
            Column("time", "s"), Column("why, and what would help"),
        ],
        rows,
        "Calls whose queue and prefill (queue_prefill), or all of whose time (opaque), is one span. The figures are "
        "those of the last such call.",
    )  # fmt: skip


def sentence(because: str, detail: str | None) -> str | None:
    """Why phases were merged, and what would help, in a sentence."""
    if because == UNSAID:
        return "spans of schema version 1 do not say it"
    return contract.because(because, detail)


def summed(reasons: Section) -> str:
    """The reasons in a line: ``few_calls 12, no_stream 3``."""
    return ", ".join(f"{row[0]} {row[1]:,}" for row in reasons.rows)
