"""Objectives: goodput, the error budget, and which phases and causes spent it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import ibis

from llmtrace.analyze import judged
from llmtrace.analyze.book import Book
from llmtrace.analyze.expressions import count_of, first
from llmtrace.analyze.report import Column, Report, Section, Stack
from llmtrace.analyze.reports import Options
from llmtrace.errors import LlmtraceError
from llmtrace.estimate.floors import LEAST_CALLS
from llmtrace.phases.objectives import FLOOR, OBJECTIVES, UNKNOWN, Patterns
from llmtrace.wording import plural

NO_TARGET: Final = (
    "no call has an objective: name one (--slo-ttft 2, for instance, in s), or set LLMTRACE_SLO_TTFT where the calls "
    "are made"
)
_NONE_JUDGED: Final = (
    "no call here can be judged by these objectives: none is of a route or model that their patterns match, or none "
    "has what they are about (no TTFT without a stream, no ITL without output tokens, nothing at all in other "
    "tracers' spans, which do not tell how a call ended)"
)
_FIXED: Final = 6
"""The first columns of an aggregate: calls, met, failed, and what missed each objective."""


def make(book: Book, options: Options) -> Report:
    """Build the report.

    Raises:
        LlmtraceError: no call has a target.
    """
    rows = book.hold(judged.judged(book.calls, options.objectives))
    by_route = rows.group_by("route").agg(**judged.counted(rows))
    routes = book.rows(by_route.order_by(ibis.desc(by_route.calls - by_route.met)).limit(options.top))
    (whole,) = book.rows(rows.aggregate(**judged.counted(rows)))
    if not whole[0]:
        raise LlmtraceError(none_judged(options.objectives))
    budget = 1 - options.slo
    charged = _charged(whole)
    report = Report(
        "slo",
        f"Objectives, which {percent(options.slo)} of calls are to meet",
        [_routes(routes, budget), _spenders(charged), *_causes(book, rows, options.top)],
        headline=_headline(whole, budget, charged),
    )
    _notes(book, report, whole, charged)
    return report


def none_judged(objectives: Mapping[str, Patterns]) -> str:
    """Why no call could be judged. ``objectives``: those that the command was given."""
    return _NONE_JUDGED if objectives else NO_TARGET


def share_met(share: float) -> str:
    """``98.3%``; not 100% where some did not."""
    text = f"{share:.1%}"
    return f"{share * 100:.6g}%" if text == "100.0%" and share < 1 else text


def percent(share: float) -> str:
    """99% or 99.95%: as many figures as the share has."""
    return f"{share * 100:.6g}%"


def _charged(row: Sequence[Any]) -> dict[str, float]:
    """Seconds charged by phase, the largest first."""
    values = zip(judged.CHARGED, row[_FIXED : _FIXED + len(judged.CHARGED)], strict=True)
    charged = {name: float(seconds) for name, seconds in values if seconds and seconds > 1e-9}
    return dict(sorted(charged.items(), key=lambda item: -item[1]))


def _headline(whole: Sequence[Any], budget: float, charged: dict[str, float]) -> str:
    calls, met = whole[0], whole[1]
    spent = (calls - met) / calls / budget
    allowed = f"the {percent(budget)} that may miss"
    if met == calls:
        spending = "none missed any"
    elif spent <= 1:
        spending = f"{spent * 100:.3g}% of the budget is spent ({allowed})"
    else:
        spending = f"the budget ({allowed}) is spent {_times(spent)} times"
    text = f"goodput {share_met(met / calls)} of {plural(calls, 'call')}: {spending}"
    if charged:
        name, seconds = next(iter(charged.items()))
        by = "phases unknown" if name == UNKNOWN else name
        text += f", {seconds / sum(charged.values()):.0%} of the time beyond the targets by {by}"
    return text


def _times(number: float) -> str:
    return f"{number:.3g}" if number < 100 else f"{number:,.0f}"


def _routes(routes: Sequence[Sequence[Any]], budget: float) -> Section:
    table: list[list[Any]] = []
    bars: list[tuple[str, dict[str, float]]] = []
    for row in routes:
        route, calls, met, failed, *late = row[: 1 + _FIXED]
        table.append([route, calls, met / calls, (calls - met) / calls / budget, *late, failed])
        bars.append((route, {name: seconds / calls for name, seconds in _charged(row[1:]).items()}))
    return Section(
        "By route",
        [
            Column("route"), Column("calls", "count"), Column("goodput", "share"), Column("budget spent", "number"),
            *(Column(f"late {name.upper() if name != 'total' else name}", "count") for name in OBJECTIVES),
            Column("failed", "count"),
        ],
        table,
        "Goodput: the share of calls that met all their objectives. Budget spent: the share that did not, over the "
        "share that may; above 1 the budget is overspent.",
        Stack("Time beyond the targets, a mean call", "s", bars),
    )  # fmt: skip


def _spenders(charged: dict[str, float]) -> Section:
    whole = sum(charged.values())
    return Section(
        "Who spent it",
        [Column("phase", "phase"), Column("beyond the targets", "s"), Column("share", "share")],
        [[name, seconds, seconds / whole] for name, seconds in charged.items()],
        "What a call took beyond a target is charged to its phases in proportion to what each took beyond its floor, "
        f"the route's own 5th percentile. {FLOOR}: the target is below what the call needed at its best. {UNKNOWN}: "
        f"the route has shown no floor yet, which takes {LEAST_CALLS} completed calls with phases and counted output "
        "tokens.",
    )


def _causes(book: Book, rows: Any, top: int) -> list[Section]:
    missed = rows.filter(~rows.met)
    cause = first(missed.diagnosis.split(",")[0], "none named")
    total = sum((missed[f"c_{name}"] for name in judged.CHARGED[1:]), missed[f"c_{judged.CHARGED[0]}"])
    prepared = missed.mutate(cause=cause, beyond=total)
    by_cause = prepared.group_by("cause").agg(
        calls=prepared.count(), failed=count_of(prepared.failed), beyond=prepared.beyond.sum()
    )
    found = book.rows(by_cause.order_by(ibis.desc("beyond"), ibis.desc("calls")).limit(top))
    if not found:
        return []
    columns = [Column("cause"), Column("calls", "count"), Column("failed", "count"), Column("beyond the targets", "s")]
    return [Section("By diagnosis", columns, found, "The first cause that the diagnosis named of a call that missed.")]


def _notes(book: Book, report: Report, whole: Sequence[Any], charged: dict[str, float]) -> None:
    ((every,),) = book.rows(book.calls.aggregate(n=book.calls.count()))
    if whole[0] < every:
        report.notes.append(
            f"{every - whole[0]:,} of {plural(every, 'call')} not judged: no objective, cut short before it was "
            "decided, or without what it is about (TTFT of a whole answer, ITL without output tokens)"
        )
    if whole[2]:
        report.notes.append(f"{plural(whole[2], 'failed call')} met nothing and charged nobody: no latency to speak of")
    if charged.get(FLOOR, 0.0) > sum(charged.values()) / 3:
        report.notes.append(
            "much of it is the floor: these targets are below what the routes have shown; shorter prompts and answers, "
            "another route or another target would help"
        )
