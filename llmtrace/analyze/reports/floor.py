"""How far calls are above their floor: the best overhead, prefill rate and ITL that the route itself has shown.

floor = overhead floors (network, gateway, unattributed) + prefill floor x uncached tokens + ITL floor x (output tokens
- 1), each the route's 5th percentile. What a call took beyond it is excess, by phase: all of queue, what the others
took over their floors, and the time in which the application held the stream.
"""

from __future__ import annotations

from typing import Any, Final

import ibis

from llmtrace.analyze.book import Book
from llmtrace.analyze.contract import OVERHEAD, OVERHEAD_NOTE
from llmtrace.analyze.expressions import least, most, when
from llmtrace.analyze.report import Column, Report, Section, Stack
from llmtrace.analyze.reports import Options, merged
from llmtrace.estimate.floors import LEAST_CALLS, LEAST_STEPS, LEAST_TOKENS, RANK
from llmtrace.phases.model import GATEWAY, NETWORK, UNATTRIBUTED
from llmtrace.wording import plural

_OVERHEAD: Final = (NETWORK, GATEWAY, UNATTRIBUTED)
"""Phases whose time does not depend on the call's tokens."""
_EXCESS: Final = (*_OVERHEAD, "queue", "prefill", "decode", "application")


def make(book: Book, options: Options) -> Report:
    """Build the report."""
    calls = book.calls
    if book.mixed:
        calls = calls.mutate(s_network=calls.s_network + calls.s_unattributed, s_unattributed=0.0)
    whole = usable(calls)
    joined = whole.inner_join(floors(whole).rename(floor_route="route"), [("route", "floor_route")])
    priced = joined.mutate(
        **{f"low_{name}": least(joined[f"s_{name}"], joined[f"f_{name}"].fill_null(0.0)) for name in _OVERHEAD},
        low_prefill=least(joined.filling, filling_floor(joined)),
        low_decode=least(joined.making, joined.f_itl.fill_null(0.0) * joined.steps),
    )
    by_route = priced.group_by("route").agg(
        calls=priced.count(),
        mean=priced.duration.mean(),
        **{f"f_{name}": priced[f"low_{name}"].mean() for name in _OVERHEAD},
        f_prefill=priced.low_prefill.mean() + priced.s_kv_cache_hit.mean(),
        f_decode=priced.low_decode.mean(),
        **{f"e_{name}": (priced[f"s_{name}"] - priced[f"low_{name}"]).mean() for name in _OVERHEAD},
        e_queue=priced.s_queue.mean(),
        e_prefill=(priced.filling - priced.low_prefill).mean(),
        e_decode=(priced.making - priced.low_decode).mean(),
        e_application=least(priced.wait, priced.s_decode).mean(),
        rate=priced.f_prefill.max(),
        itl=priced.f_itl.max(),
    )
    rows = book.rows(by_route.order_by(ibis.desc(by_route.mean * by_route.calls)).limit(options.top))
    report = Report("floor", "How far calls are above their floor", [_section(rows, book.mixed)])
    _say(book, report, rows)
    if book.mixed:
        report.notes.append(OVERHEAD_NOTE)
    return report


def usable(calls: Any) -> Any:
    """The calls that floors can be had from: completed, split into phases, with their output tokens counted."""
    split = calls.filter(
        calls.has_phases & calls.outcome.isin(("completed",)) & (calls.s_opaque == 0) & calls.output_tokens.notnull()
    )
    split = split.mutate(
        wait=split.wait.fill_null(0.0),
        uncached=split.uncached_tokens.fill_null(0),
        steps=most(split.decoded_tokens - 1, 0),
        filling=split.s_prefill + split.s_queue_prefill,
    )
    return split.mutate(making=most(split.s_decode - split.wait, 0.0))


def floors(usable: Any) -> Any:
    """One row for each route with calls enough: ``n``, the floors ``f_<overhead phase>``, ``f_prefill`` (s per uncached
    token) and ``f_itl``, s."""
    has_rate = (usable.uncached >= LEAST_TOKENS) & (usable.filling > 0) & (usable.hidden_tokens == 0)
    rate = when(has_rate, usable.filling / most(usable.uncached, 1), None)
    itl = when((usable.steps >= LEAST_STEPS) & (usable.making > 0), usable.making / most(usable.steps, 1), None)
    overhead = {f"o_{name}": when(usable[f"s_{name}"] > 0, usable[f"s_{name}"], None) for name in _OVERHEAD}
    prepared = usable.mutate(rate=rate, pace=itl, **overhead)
    by_route = prepared.group_by("route").agg(
        n=prepared.count(),
        **{f"f_{name}": prepared[f"o_{name}"].quantile(RANK) for name in _OVERHEAD},
        f_prefill=prepared.rate.quantile(RANK),
        f_itl=prepared.pace.quantile(RANK),
    )
    return by_route.filter(by_route.n >= LEAST_CALLS)


def filling_floor(calls: Any) -> Any:
    """The least time, s, that filling the prompt takes, and making the reasoning that the stream does not show.

    ``calls``: those of ``tables.calls``, with the ``floors`` of their routes.
    """
    uncached = calls.uncached_tokens.fill_null(0)
    return calls.f_prefill.fill_null(0.0) * uncached + calls.f_itl.fill_null(0.0) * calls.hidden_tokens


def _section(rows: list[tuple[Any, ...]], mixed: bool) -> Section:
    table: list[list[Any]] = []
    bars: list[tuple[str, dict[str, float]]] = []
    titles = [OVERHEAD if mixed and name == NETWORK else name for name in _EXCESS]
    optional = {place for place, name in enumerate(_EXCESS) if name in (GATEWAY, UNATTRIBUTED)}
    places = [place for place in range(len(_EXCESS)) if place not in optional or any(_at(row, place) for row in rows)]
    for row in rows:
        route, calls, mean = row[:3]
        floor, excess, (rate, itl) = _floor_of(row), row[_EXCESS_AT:-2], row[-2:]
        shown_excess = [excess[place] for place in places]
        table.append([route, calls, mean, floor, mean / floor if floor else None, *shown_excess, rate, itl])
        parts = {"floor": floor, **{titles[place]: excess[place] for place in places}}
        bars.append((route, {name: float(value) for name, value in parts.items() if value and value > 0}))
    return Section(
        "By route, a mean call",
        [
            Column("route"), Column("calls", "count"), Column("took", "s"), Column("floor", "s"),
            Column("times floor", "number"), *(Column(f"+ {titles[place]}", "s") for place in places),
            Column("prefill floor /token", "per_token"), Column("ITL floor", "s"),
        ],
        table,
        "The floor is the route's own 5th percentile of its overhead (network, gateway, unattributed), prefill per "
        "uncached token and ITL, so it is what this provider has shown it can do, not what the hardware could. Queue "
        "and prefill that were not told apart count as prefill.",
        Stack("A mean call: floor, and what came on top", "s", bars),
    )  # fmt: skip


_FLOORS_AT, _EXCESS_AT = 3, 3 + len(_OVERHEAD) + 2
"""The first columns of a row that hold the parts of the floor, and the excess over them."""


def _floor_of(row: tuple[Any, ...]) -> float:
    return sum(part or 0.0 for part in row[_FLOORS_AT:_EXCESS_AT])


def _at(row: tuple[Any, ...], place: int) -> float:
    """Seconds that a mean call spent in an overhead phase: its floor plus its excess."""
    return (row[_FLOORS_AT + place] or 0.0) + (row[_EXCESS_AT + place] or 0.0)


def _say(book: Book, report: Report, rows: list[tuple[Any, ...]]) -> None:
    ((whole,),) = book.rows(book.calls.agg(n=book.calls.count()))
    used = sum(row[1] for row in rows)
    why = merged.summed(merged.section(book, whole))
    if why:
        report.notes.append(f"calls with phases that were not told apart, by reason: {why}")
    if not rows:
        report.headline = "no route has a floor yet"
        report.notes.append(
            f"a floor takes {LEAST_CALLS} completed calls on a route with phases and output tokens; "
            f"none of {plural(whole, 'call')} is on such a route"
            + ("" if book.stats.versions else ". No span here is llmtrace's: durations alone have no floor")
        )
        return
    floor = sum(row[1] * _floor_of(row) for row in rows)
    time_taken = sum(row[1] * row[2] for row in rows)
    report.headline = f"calls take {time_taken / floor:.2f} times their floor" if floor else "no floor above zero"
    if used < whole:
        report.notes.append(
            f"{whole - used:,} of {plural(whole, 'call')} left out: not completed, not split into phases, without "
            f"output tokens, or on a route with fewer than {LEAST_CALLS} such calls"
        )
