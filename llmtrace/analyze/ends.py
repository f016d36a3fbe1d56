"""The requests of a set of traces, to be walked: all where there are few, an even sample where there are many."""

from __future__ import annotations

from typing import Any, Final

from llmtrace.analyze import critical, tables
from llmtrace.analyze.book import Book
from llmtrace.analyze.contract import FAILED
from llmtrace.analyze.expressions import first, when

SPANS: Final = 300_000
"""The most spans that are walked (some seconds); beyond that, an even sample of the traces is walked."""


def requests(
    book: Book, most: int = SPANS, by_task: bool = False, cost: str | None = None
) -> tuple[list[critical.Request], float]:
    """The requests of the traces with a call in them, and the share of traces looked at.

    ``most``: spans to walk. ``cost``: another attribute that has what a span cost, USD.
    """
    ((whole,),) = book.rows_of_calls(lambda: _with_calls(book).agg(n=lambda spans: spans.count()), "counted")
    every = max(1, -(-whole // most))
    rows = book.rows_of_calls(lambda: _walked(book, every, cost), "walked", every, cost)
    return critical.requests(rows, by_task), 1 / every


def _with_calls(book: Book) -> Any:
    """The spans of the traces with a call in them."""
    trace_ids = book.calls.select(wanted="trace_id").distinct()
    return book.spans.semi_join(trace_ids, [("trace_id", "wanted")])


def _walked(book: Book, every: int, cost: str | None) -> Any:
    """The columns of ``critical`` of every span, or of one in so many traces."""
    spans = _with_calls(book)
    if every > 1:
        spans = spans.filter(first(spans.trace_id.hash().abs() % every == 0, False))
    calls = book.calls.select(
        "trace_id", "span_id", "attempts", price=book.calls.cost,
        is_repair=when(book.calls.repairs.fill_null(0) > 0, 1, 0),
        tokens=book.calls.input_tokens.fill_null(0) + book.calls.output_tokens.fill_null(0), ended=book.calls.outcome,
    )  # fmt: skip
    calls = calls.inner_join(book.components, [("trace_id", "call_trace"), ("span_id", "call_span")])
    calls = calls.drop("trace_id", "span_id")
    spans = book.described(spans).left_join(calls, [("trace_id", "call_trace"), ("span_id", "call_span")])
    spans = spans.mutate(
        failed=(first(spans.ended.isin(FAILED), False) | first(spans.status == "error", False)).cast("int64"),
        attempts=spans.attempts.fill_null(1),
        repaired=spans.is_repair.fill_null(0),
        tokens=spans.tokens.fill_null(0),
        cost=first(spans.price, when(spans.phase.isnull(), tables.declared_cost(spans, cost)), 0.0),
    )
    return spans.select(*critical.COLUMNS).order_by("trace_id", "start_ns", "span_id")
