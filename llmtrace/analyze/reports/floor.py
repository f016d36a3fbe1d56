"""How far calls are above their floor: the best network, prefill rate and ITL that the route itself has shown.

floor = network floor + prefill floor x uncached tokens + ITL floor x (output tokens - 1), each the route's 5th
percentile. What a call took beyond it is excess, by phase: all of queue, what network, prefill and decode took over
their floors, and the time in which the application held the stream.
"""

from __future__ import annotations

from typing import Any, Final

import ibis

from llmtrace.analyze.book import Book
from llmtrace.analyze.expressions import least, most, when
from llmtrace.analyze.report import Column, Report, Section, Stack
from llmtrace.analyze.reports import Options

RANK: Final = 0.05
LEAST_CALLS: Final = 20
"""Calls on a route below which its percentiles are no floor."""
LEAST_TOKENS: Final = 64
"""Uncached tokens of a call whose prefill rate says something: below it the fixed cost does."""
_EXCESS = ("network", "queue", "prefill", "decode", "application")


def make(book: Book, options: Options) -> Report:
    """Build the report."""
    calls = book.calls
    usable = calls.filter(
        calls.has_phases & calls.outcome.isin(("completed",)) & (calls.s_opaque == 0) & calls.output_tokens.notnull()
    )
    usable = usable.mutate(
        wait=usable.wait.fill_null(0.0),
        uncached=usable.uncached_tokens.fill_null(0),
        steps=most(usable.output_tokens - 1, 0),
        filling=usable.s_prefill + usable.s_queue_prefill,
    )
    usable = usable.mutate(making=most(usable.s_decode - usable.wait, 0.0))
    floors = _floors(usable).filter(lambda table: table.n >= LEAST_CALLS).rename(floor_route="route")
    joined = usable.inner_join(floors, [("route", "floor_route")])
    priced = joined.mutate(
        low_network=least(joined.s_network, joined.f_network.fill_null(0.0)),
        low_prefill=least(joined.filling, joined.f_prefill.fill_null(0.0) * joined.uncached),
        low_decode=least(joined.making, joined.f_itl.fill_null(0.0) * joined.steps),
    )
    by_route = priced.group_by("route").agg(
        calls=priced.count(),
        mean=priced.duration.mean(),
        f_network=priced.low_network.mean(),
        f_prefill=priced.low_prefill.mean() + priced.s_kv_cache_hit.mean(),
        f_decode=priced.low_decode.mean(),
        e_network=(priced.s_network - priced.low_network).mean(),
        e_queue=priced.s_queue.mean(),
        e_prefill=(priced.filling - priced.low_prefill).mean(),
        e_decode=(priced.making - priced.low_decode).mean(),
        e_application=least(priced.wait, priced.s_decode).mean(),
        rate=priced.f_prefill.max(),
        itl=priced.f_itl.max(),
    )
    rows = book.rows(by_route.order_by(ibis.desc(by_route.mean * by_route.calls)).limit(options.top))
    report = Report("floor", "How far calls are above their floor", [_section(rows)])
    _say(book, report, rows)
    return report


def _floors(usable: Any) -> Any:
    told = (usable.uncached >= LEAST_TOKENS) & (usable.filling > 0)
    rate = when(told, usable.filling / most(usable.uncached, 1), None)
    itl = when((usable.steps >= 8) & (usable.making > 0), usable.making / most(usable.steps, 1), None)
    network = when(usable.s_network > 0, usable.s_network, None)
    prepared = usable.mutate(rate=rate, pace=itl, wire=network)
    return prepared.group_by("route").agg(
        n=prepared.count(),
        f_network=prepared.wire.quantile(RANK),
        f_prefill=prepared.rate.quantile(RANK),
        f_itl=prepared.pace.quantile(RANK),
    )


def _section(rows: list[tuple[Any, ...]]) -> Section:
    shown: list[list[Any]] = []
    bars: list[tuple[str, dict[str, float]]] = []
    for route, calls, mean, f_network, f_prefill, f_decode, *excess, rate, itl in rows:
        floor = (f_network or 0.0) + (f_prefill or 0.0) + (f_decode or 0.0)
        shown.append([route, calls, mean, floor, mean / floor if floor else None, *excess, rate, itl])
        parts = {"floor": floor, **dict(zip(_EXCESS, excess, strict=True))}
        bars.append((route, {name: float(value) for name, value in parts.items() if value and value > 0}))
    return Section(
        "By route, a mean call",
        [
            Column("route"), Column("calls", "count"), Column("took", "s"), Column("floor", "s"),
            Column("times floor", "number"), *(Column(f"+ {name}", "s") for name in _EXCESS),
            Column("prefill floor /token", "per_token"), Column("ITL floor", "s"),
        ],
        shown,
        "The floor is the route's own 5th percentile of network, prefill per uncached token and ITL, so it is what "
        "this provider has shown it can do, not what the hardware could. Queue and prefill that were not told apart "
        "count as prefill.",
        Stack("A mean call: floor, and what came on top", "s", bars),
    )  # fmt: skip


def _say(book: Book, report: Report, rows: list[tuple[Any, ...]]) -> None:
    ((whole,),) = book.rows(book.calls.agg(n=book.calls.count()))
    used = sum(row[1] for row in rows)
    if not rows:
        report.headline = "no route has a floor yet"
        report.notes.append(
            f"a floor takes {LEAST_CALLS} completed calls on a route with phases and output tokens; "
            f"none of {whole:,} calls is on such a route"
            + ("" if book.stats.versions else ". No span here is llmtrace's: durations alone have no floor")
        )
        return
    floor = sum(row[1] * sum(row[3:6]) for row in rows)
    took = sum(row[1] * row[2] for row in rows)
    report.headline = f"calls take {took / floor:.2f} times their floor" if floor else "no floor above zero"
    if used < whole:
        report.notes.append(
            f"{whole - used:,} of {whole:,} calls are not in it: not completed, not split into phases, without output "
            f"tokens, or on a route with fewer than {LEAST_CALLS} such calls"
        )
