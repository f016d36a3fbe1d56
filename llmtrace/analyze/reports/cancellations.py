"""The cost of calls that were cut short: the tokens delivered, those billed, and what was billed for nothing."""

from __future__ import annotations

from typing import Any, Final

import ibis

from llmtrace.analyze import told
from llmtrace.analyze.book import Book
from llmtrace.analyze.expressions import first, most, when
from llmtrace.analyze.report import Column, Report, Section, Stack, cell
from llmtrace.analyze.reports import Options
from llmtrace.wording import plural

CUT_SHORT = ("closed_early", "abandoned", "cancelled", "timed_out", "error", "never_consumed")
CAUSES: Final = {
    "closed": "user stop",
    "answer_cancelled": "user stop",
    "task_cancelled": "user stop",
    "interrupted": "user stop",
    "deadline": "timeout",
    "client_timeout": "timeout",
    "connection_lost": "disconnect",
    "server_error": "server error",
    "dropped": "abandoned",
}
"""Who ended the call, by ``llmtrace.cancellation.cause``."""
_BY_OUTCOME: Final = {
    "closed_early": "user stop",
    "cancelled": "user stop",
    "timed_out": "timeout",
    "error": "server error",
    "abandoned": "abandoned",
    "never_consumed": "abandoned",
}


def make(book: Book, options: Options) -> Report:
    """Build the report."""
    calls = book.calls
    cut = told.bounded(book.spans, calls.filter(calls.outcome.isin(CUT_SHORT)))
    came = first(cut.delivered_tokens, 0)
    cut = cut.mutate(
        usd_lower=first(cut.billed_usd, cut.lower * cut.usd_output + cut.input_cost),
        usd_upper=first(cut.billed_usd, cut.upper * cut.usd_output + cut.input_cost),
        ended_by=first(
            when(cut.is_refused, "refused"),
            cut.cancel_cause.cases(*CAUSES.items()),
            cut.outcome.cases(*_BY_OUTCOME.items()),
        ),
        tax=most(cut.exact - came, 0),
        tax_lower=when(cut.exact.isnull(), most(first(cut.lower, 0) - came, 0)),
        tax_upper=when(cut.exact.isnull(), most(cut.upper - came, 0)),
        is_open=cut.exact.isnull() & cut.upper.isnull(),
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
    sections = [_tax(book, cut, options), _summary(book, cut, options), _longest(book, cut, options)]
    report = Report("cancellations", "What cut-short calls cost", sections)
    report.headline = f"{cut_calls or 0:,} of {plural(whole, 'call')} did not complete" + _headline(book, cut)
    report.notes.append(
        "billed: exact where the provider's usage told, a server span in the same trace, another span with the same "
        "response id, or an export that `llmtrace reconcile` joined, and 0 where the call was refused (4xx); else "
        "between the tokens delivered and made until the socket closed (lower) and the request's max_tokens (upper, a "
        "dash where the request has none). Whether a provider stops the model when the socket closes, none of them "
        "promises: `llmtrace probe cancel` finds out."
    )
    return report


def _sums(cut: Any) -> dict[str, Any]:
    """The tax of some calls, the exactly known ones and the others apart. What has no upper bound has none together."""
    endless = cut.is_open.sum() > 0
    return {
        "calls": cut.count(),
        "known": cut.exact.count(),
        "tax": cut.tax.sum(),
        "usd": when(cut.exact.count() > 0, (cut.tax * cut.usd_output).sum()),
        "bounded": cut.count() - cut.exact.count(),
        "low": cut.tax_lower.sum(),
        "high": when(endless, None, cut.tax_upper.sum()),
        "usd_low": (cut.tax_lower * cut.usd_output).sum(),
        "usd_high": when(endless, None, (cut.tax_upper * cut.usd_output).sum()),
    }


def _headline(book: Book, cut: Any) -> str:
    ((calls, known, tax, usd, bounded, low, high, usd_low, usd_high),) = book.rows(cut.agg(**_sums(cut)))
    if not calls:
        return ""
    parts: list[str] = []
    if known:
        money = "" if usd is None else f" ({cell(usd, 'usd')})"
        parts.append(f"exactly {cell(tax or 0, 'count')} tokens{money} in {plural(known, 'call')}")
    if bounded:
        highest = "no known bound" if high is None else f"{cell(high, 'count')} tokens"
        money = "" if usd_low is None or usd_high is None else f" ({cell(usd_low, 'usd')} to {cell(usd_high, 'usd')})"
        parts.append(f"{cell(low or 0, 'count')} to {highest}{money} in {plural(bounded, 'call')}")
    return f"; billed for nothing: {', and '.join(parts)}"


def _tax(book: Book, cut: Any, options: Options) -> Section:
    summed = cut.group_by("ended_by", "route", "hop").agg(**_sums(cut))
    rows = book.rows(summed.order_by(ibis.desc("calls"), "ended_by", "route", "hop").limit(options.top))
    return Section(
        "The cancellation tax, by cause, route and who told it",
        [
            Column("cause"), Column("route"), Column("told by"), Column("calls", "count"),
            Column("exactly known", "count"), Column("tax", "count"), Column("tax USD", "usd"),
            Column("bounded", "count"), Column("tax ≥", "count"), Column("tax ≤", "count"), Column("USD ≥", "usd"),
            Column("USD ≤", "usd"),
        ],
        rows,
        note="the tax: output tokens that were billed beyond those that had come",
    )  # fmt: skip


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
