"""The critical paths of whole traces: of all where there are few, of an even sample where there are many."""

from __future__ import annotations

from typing import Any, Final

from llmtrace.analyze import critical
from llmtrace.analyze.book import Book
from llmtrace.analyze.expressions import first

SPANS: Final = 300_000
"""The most spans that are walked (a few seconds); beyond that, an even sample of the traces is walked."""


def paths(book: Book) -> tuple[list[critical.Path], float]:
    """The critical paths of the traces with a call in them, and the share of traces looked at."""
    trace_ids = book.calls.select(wanted="trace_id").distinct()
    spans: Any = book.spans.semi_join(trace_ids, [("trace_id", "wanted")])
    ((whole,),) = book.rows(spans.aggregate(n=spans.count()))
    every = max(1, -(-whole // SPANS))
    if every > 1:
        spans = spans.filter(first(spans.trace_id.hash().abs() % every == 0, False))
    critical_paths = critical.paths(book.rows(spans.select(*critical.COLUMNS)))
    return critical_paths, 1 / every
