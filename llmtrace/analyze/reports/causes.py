"""Why calls were slow or odd: the verdicts on calls, by route, and the time beyond that of a calm call."""

from __future__ import annotations

from typing import Any

import ibis

from llmtrace.analyze.book import Book
from llmtrace.analyze.expressions import count_of, most
from llmtrace.analyze.report import Column, Report, Section, Stack
from llmtrace.analyze.reports import Options
from llmtrace.wording import plural


def make(book: Book, options: Options) -> Report:
    """Build the report."""
    calls = book.calls
    calm = calls.filter(calls.diagnosis.isnull()).group_by("route").agg(calm=calls.duration.median())
    calm = calm.rename(calm_route="route")
    judged = calls.left_join(calm, [("route", "calm_route")])
    by_cause = judged.filter(judged.diagnosis.notnull() & (judged.diagnosis != "")).select(
        "route",
        "trace_id",
        "start_ns",
        "duration",
        "calm",
        "ttft",
        "diagnosis",
        cause=judged.diagnosis.split(",").unnest(),
        beyond=most(judged.duration - judged.calm, 0.0),
    )
    ((whole, judged_count),) = book.rows(
        calls.agg(n=calls.count(), told=count_of(calls.diagnosis.notnull()))
    )  # fmt: skip
    report = Report("causes", "Why calls were slow", [_by_cause(book, by_cause, whole)])
    if not judged_count:
        report.headline = f"no call of {whole:,} carries a verdict"
        if not book.stats.versions:
            report.notes.append(
                "llmtrace.diagnosis is on no span, nor is any other attribute of llmtrace: another tracer wrote these, "
                "and verdicts can't be had from durations alone. `llmtrace report phases` and `floor` use what is here"
            )
        return report
    report.headline = f"{judged_count:,} of {plural(whole, 'call')} with a verdict ({judged_count / whole:.1%})"
    report.sections.append(_by_route(book, by_cause, options))
    report.sections.append(_worst(book, by_cause, options))
    return report


def _by_cause(book: Book, by_cause: Any, whole: int) -> Section:
    summed = by_cause.group_by("cause").agg(
        calls=by_cause.count(),
        routes=by_cause.route.nunique(),
        p50=by_cause.duration.median(),
        calm=by_cause.calm.median(),
        beyond=by_cause.beyond.sum(),
        last=by_cause.start_ns.max(),
    )
    rows = [
        [cause, calls, calls / whole, routes, p50, calm, beyond, last]
        for cause, calls, routes, p50, calm, beyond, last in book.rows(summed.order_by(ibis.desc("beyond")))
    ]
    return Section(
        "By cause",
        [
            Column("cause"), Column("calls", "count"), Column("of all", "share"), Column("routes", "count"),
            Column("p50", "s"), Column("calm p50", "s"), Column("beyond calm", "s"), Column("last seen", "time"),
        ],
        rows,
        "beyond calm: time over the median of the route's calls without a verdict, summed. A call with two causes "
        "counts for both.",
        Stack("Time beyond calm calls, by cause", "s", [(row[0], {row[0]: float(row[6] or 0)}) for row in rows]),
    )  # fmt: skip


def _by_route(book: Book, by_cause: Any, options: Options) -> Section:
    summed = by_cause.group_by("route", "cause").agg(
        calls=by_cause.count(), p50=by_cause.duration.median(), sum=by_cause.beyond.sum()
    )
    rows = book.rows(summed.order_by(ibis.desc("sum")).limit(options.top))
    return Section(
        "By route",
        [Column("route"), Column("cause"), Column("calls", "count"), Column("p50", "s"), Column("beyond calm", "s")],
        rows,
    )


def _worst(book: Book, by_cause: Any, options: Options) -> Section:
    calls = by_cause.drop("cause").distinct().order_by(ibis.desc("beyond")).limit(min(options.top, 10))
    costliest = calls.select("trace_id", "start_ns", "route", "diagnosis", "duration", "ttft")
    return Section(
        "The costliest calls",
        [
            Column("trace"), Column("when", "time"), Column("route"), Column("causes"), Column("took", "s"),
            Column("TTFT", "s"),
        ],
        book.rows(costliest),
        "Look one up with `llmtrace show FILE --trace ID`: it tells the evidence too.",
    )  # fmt: skip
