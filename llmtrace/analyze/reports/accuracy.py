"""How right the blind estimates were: beside each phase that an engine told, what was estimated without its word."""

from __future__ import annotations

from typing import Any, Final

import ibis

from llmtrace.analyze import tables
from llmtrace.analyze.book import Book
from llmtrace.analyze.expressions import first, most, when
from llmtrace.analyze.report import Column, Report, Section, cell
from llmtrace.analyze.reports import Options
from llmtrace.phases.model import DEVICE, PREFILL, QUEUE, SERVER
from llmtrace.wording import plural

GRADED: Final = (QUEUE, PREFILL)
"""Phases that are estimated."""
_SHIFT_S: Final = 2e-6
"""The ends of a phase are moved by less than a microsecond each, so that viewers see spans in order."""


def make(book: Book, options: Options) -> Report:
    """Build the report."""
    phases = _told(book)
    sums = {
        "told": phases.count(),
        "graded": phases.estimate_error.count(),
        "error": phases.off.median(),
        "error95": phases.off.quantile(0.95),
        "bias": phases.estimate_error.median(),
        "of_itself": phases.of_itself.median(),
        "mean": phases.off.mean(),
        "length": phases.length.mean(),
        "width": phases.half.mean(),
        "covered": phases.covered.mean(),
    }
    each = phases.group_by("route", "phase").agg(**sums)
    order = {name: place for place, name in enumerate(GRADED)}
    routes: dict[str, int] = {}
    rows: list[list[Any]] = []
    for route, phase, told, graded, *figures in book.rows(each.order_by(ibis.desc("told"), "route")):
        routes.setdefault(route, len(routes))
        rows.append([route, phase, told, graded, *_figures(*figures)])
    rows.sort(key=lambda row: (routes[row[0]], order[row[1]]))
    report = Report("accuracy", "How right the estimates are", [_section(rows[: len(GRADED) * options.top])])
    _say(book, report, phases, sums)
    return report


def _told(book: Book) -> Any:
    """The phases that an engine told, each with its call's route and with what was estimated of it."""
    calls = book.calls.select(call_trace="trace_id", call_span="span_id", route="route")
    phases = tables.owned_phases(book.spans)
    phases = phases.filter(phases.phase.isin(GRADED) & phases.source.isin((SERVER, DEVICE)))
    phases = phases.inner_join(calls, [("trace_id", "call_trace"), ("owner", "call_span")])
    error, half = phases.estimate_error, phases.estimate_uncertainty
    length = when(error.notnull(), most(phases.estimate_duration - error, 0.0))
    off = when(error < 0, -error, error)
    low, high = first(phases.estimate_low, half, 0.0), first(phases.estimate_high, half, 0.0)
    inside = (error <= low + _SHIFT_S) & (-error <= high + _SHIFT_S)
    made = phases.mutate(
        off=off,
        half=half,
        length=length,
        of_itself=when(length > 0, off / length),
        covered=when(error.notnull(), when(inside, 1.0, 0.0)),
    )
    columns = ("route", "phase", "estimate_error", "off", "half", "length", "of_itself", "covered")
    return book.hold(made.select(*columns))


def _figures(
    error: float | None,
    error95: float | None,
    bias: float | None,
    of_itself: float | None,
    mean: float | None,
    length: float | None,
    width: float | None,
    covered: float | None,
) -> list[float | None]:
    """The figures as the table has them: the mean error by the mean length beside the median of each by its own."""
    return [error, error95, bias, of_itself, mean / length if mean is not None and length else None, width, covered]


def _section(rows: list[list[Any]]) -> Section:
    return Section(
        "By route and phase",
        [
            Column("route"), Column("phase", "phase"), Column("told", "count"), Column("graded", "count"),
            Column("median error", "s"), Column("p95 error", "s"), Column("bias", "s"),
            Column("of itself, median", "share"), Column("of itself, mean", "share"), Column("half width", "s"),
            Column("interval holds", "share"),
        ],
        rows,
        "told: calls whose engine told the phase; graded: those of which an estimate was made too, without its word. "
        "Error: the estimate less what the engine told, without its sign; bias: the median with it, above 0 where the "
        "estimate says too much. Of itself: each error by the phase's own length, and the mean error by the mean "
        "length. interval holds: how often the told length lies in the estimate's 90 % interval.",
    )  # fmt: skip


def _say(book: Book, report: Report, phases: Any, sums: dict[str, Any]) -> None:
    ((told, graded),) = book.rows(phases.agg(told=phases.count(), graded=sums["graded"]))
    if not graded:
        report.headline = "no estimate could be graded"
        report.notes.append(
            f"an engine told {plural(told, 'phase')} here, and no estimate of them was made: it takes streamed calls "
            "with usage, of prompts of different lengths, and 30 of them on a route (settings min_calls, min_spread)"
            if told
            else "no engine told its queue or its prefill here: estimates are graded where one does"
        )
        return
    parts: list[str] = []
    for phase in GRADED:
        some = phases.filter(phases.phase == phase)
        ((count, error, covered),) = book.rows(
            some.agg(n=some.estimate_error.count(), error=some.off.median(), covered=some.covered.mean())
        )
        if count:
            parts.append(f"{phase} is off by {cell(error, 's')} and its interval holds {cell(covered, 'share')}")
    report.headline = f"{plural(graded, 'estimate')} graded: {'; '.join(parts)}"
    if graded < told:
        report.notes.append(
            f"{told - graded:,} of {plural(told, 'phase')} that an engine told without an estimate beside them: there "
            "were too few calls on their routes yet, or too little was known of the call"
        )
