"""The cost of calls that were cut short: the tokens delivered, and bounds of the tokens billed."""

from __future__ import annotations

from typing import Any

import ibis

from llmtrace.analyze import tables
from llmtrace.analyze.book import Book
from llmtrace.analyze.expressions import first, when
from llmtrace.analyze.report import Column, Report, Section, Stack
from llmtrace.analyze.reports import Options
from llmtrace.wording import plural

CUT_SHORT = ("closed_early", "abandoned", "cancelled", "timed_out", "error", "never_consumed")


def make(book: Book, options: Options) -> Report:
    """Build the report."""
    calls = book.calls
    cut = tables.told_later(book.spans, calls.filter(calls.outcome.isin(CUT_SHORT)))
    exact = first(cut.told_tokens, cut.billed_tokens)
    lower = first(exact, cut.billed_lower, cut.delivered_tokens, cut.output_tokens)
    upper = first(exact, cut.billed_upper, cut.max_tokens)
    cut = cut.mutate(
        exact=exact,
        lower=lower,
        upper=upper,
        usd_lower=lower * cut.usd_output + cut.input_cost,
        usd_upper=upper * cut.usd_output + cut.input_cost,
    )
    ((whole, cut_calls),) = book.rows(
        calls.agg(n=calls.count(), cut=calls.outcome.isin(CUT_SHORT).sum())
    )  # fmt: skip
    if not book.stats.versions:
        report = Report("cancellations", "What cut-short calls cost", [])
        report.headline = f"no llmtrace span among {plural(whole, 'call')}"
        report.notes.append(
            "another tracer wrote these: it does not say how a call ended (llmtrace.call.outcome), and an aborted "
            "stream without that looks like a finished one"
        )
        return report
    cut = book.hold(cut)
    sections = [_summary(book, cut, options), _longest(book, cut, options)]
    report = Report("cancellations", "What cut-short calls cost", sections)
    report.headline = f"{cut_calls or 0:,} of {plural(whole, 'call')} did not complete"
    report.notes.append(
        "billed: exact where the provider's usage told, or a server span in the same trace, or another span with the "
        "same response id; else between the tokens delivered and made until the socket "
        "closed (lower) and the request's max_tokens (upper, a dash where the request has none). Whether a provider "
        "stops the model when the socket closes, none of them promises."
    )
    return report


def _summary(book: Book, cut: Any, options: Options) -> Section:
    summed = cut.group_by("route", "outcome", "cancel_phase").agg(
        calls=cut.count(),
        exact=cut.exact.count(),
        spent=cut.duration.sum(),
        close=cut.time_to_close.median(),
        delivered=cut.delivered_tokens.sum(),
        low=cut.lower.sum(),
        high=when(cut.upper.isnull().any(), None, cut.upper.sum()),
        usd_low=cut.usd_lower.sum(),
        usd_high=when(cut.usd_upper.isnull().any(), None, cut.usd_upper.sum()),
    )
    rows = book.rows(summed.order_by(ibis.desc("calls")).limit(options.top))
    bars = [(f"{row[0]} · {row[1]}", {row[2] or "phase not told": float(row[5] or 0)}) for row in rows]
    return Section(
        "By route, outcome and phase",
        [
            Column("route"), Column("outcome"), Column("in phase"), Column("calls", "count"),
            Column("exactly known", "count"), Column("time spent", "s"),
            Column("to close p50", "s"), Column("delivered", "count"), Column("billed ≥", "count"),
            Column("billed ≤", "count"), Column("cost ≥", "usd"), Column("cost ≤", "usd"),
        ],
        rows,
        chart=Stack("Time spent on calls that were cut short", "s", bars),
    )  # fmt: skip


def _longest(book: Book, cut: Any, options: Options) -> Section:
    longest = cut.order_by(ibis.desc("duration")).limit(min(options.top, 10))
    longest = longest.select(
        "trace_id", "start_ns", "route", "outcome", "cancel_cause", "cancel_phase", "duration", "delivered_tokens",
        "lower", "upper",
    )  # fmt: skip
    return Section(
        "The longest",
        [
            Column("trace"), Column("when", "time"), Column("route"), Column("outcome"), Column("cause"),
            Column("in phase"), Column("took", "s"), Column("delivered", "count"), Column("billed ≥", "count"),
            Column("billed ≤", "count"),
        ],
        book.rows(longest),
    )  # fmt: skip
