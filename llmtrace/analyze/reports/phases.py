"""Where the time went: durations, TTFT and each phase, by route."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ibis

from llmtrace.analyze.book import Book
from llmtrace.analyze.contract import FAILED, MERGED, OVERHEAD_NOTE, figures
from llmtrace.analyze.expressions import count_of, share_of, when
from llmtrace.analyze.report import Column, Report, Section, Stack
from llmtrace.analyze.reports import Options, merged
from llmtrace.wording import plural


def make(book: Book, options: Options) -> Report:
    """Build the report."""
    calls = book.calls
    parts_by_figure = figures(book.mixed)
    by_route = calls.group_by("route").agg(
        calls=calls.count(),
        **{f"p{q}": calls.duration.quantile(q / 100) for q in (50, 95, 99)},
        ttft50=calls.ttft.quantile(0.5),
        ttft95=calls.ttft.quantile(0.95),
        failed=share_of(calls.outcome.isin(FAILED)),
        split=share_of(calls.has_phases),
        whole=calls.duration.mean(),
        **{name: _seconds(calls, parts).mean() for name, parts in parts_by_figure.items()},
    )
    rows = book.rows(by_route.order_by(ibis.desc("calls")).limit(options.top))
    plain = [row[:8] for row in rows]
    bars = [(row[0], _parts(row, tuple(parts_by_figure))) for row in rows]
    overview = Section(
        "By route",
        [
            Column("route"), Column("calls", "count"), Column("p50", "s"), Column("p95", "s"), Column("p99", "s"),
            Column("TTFT p50", "s"), Column("TTFT p95", "s"), Column("failed", "share"),
        ],
        plain,
        chart=Stack("Mean call by phase", "s", bars),
    )  # fmt: skip
    report = Report("phases", "Where the time went", [overview, _phases(book, options)])
    _headline(book, report)
    if book.mixed:
        report.notes.append(OVERHEAD_NOTE)
    return report


def _seconds(calls: Any, phases: Sequence[str]) -> Any:
    """Seconds that a call spent in all of ``phases``."""
    return sum((calls[f"s_{phase}"] for phase in phases[1:]), calls[f"s_{phases[0]}"])


def _parts(row: tuple[Any, ...], names: Sequence[str]) -> dict[str, float]:
    *_, whole = row[: 10 + 1]
    parts: dict[str, float] = dict(zip(names, (float(value or 0) for value in row[-len(names) :]), strict=True))
    rest = float(whole or 0) - sum(parts.values())
    if rest > 1e-9:
        parts["other"] = rest
    return {name: value for name, value in parts.items() if value > 0}


def _phases(book: Book, options: Options) -> Section:
    phases = book.phases
    by_phase = phases.group_by("route", "phase").agg(
        calls=phases.count(),
        total=phases.seconds.sum(),
        mean=phases.seconds.mean(),
        **{f"p{q}": phases.seconds.quantile(q / 100) for q in (50, 95, 99)},
        tokens=phases.phase_tokens.sum(),
        timed=when(phases.phase_tokens > 0, phases.seconds, None).sum(),
        **{word: (phases.source == word).mean() for word in ("device", "server", "client", "estimate")},
    )
    phase_rows = book.rows(by_phase)
    whole: dict[str, float] = {}
    for row in phase_rows:
        whole[row[0]] = whole.get(row[0], 0.0) + row[3]
    order = {name: place for place, name in enumerate(figures(book.mixed))}
    ranked = sorted(phase_rows, key=lambda row: (-whole[row[0]], row[0], order.get(row[1], 99)))
    rows: list[list[Any]] = []
    for route, phase, calls, total, mean, p50, p95, p99, tokens, timed, *sources in ranked[: len(order) * options.top]:
        source_shares = ", ".join(
            f"{word} {share:.0%}" if share < 0.995 else word
            for word, share in zip(("device", "server", "client", "estimate"), sources, strict=True)
            if share and share >= 0.005
        )
        share = total / whole[route] if whole[route] else None
        rows.append(
            [route, phase, calls, share, mean, p50, p95, p99, timed / tokens if tokens else None, source_shares]
        )
    return Section(
        "By phase",
        [
            Column("route"), Column("phase", "phase"), Column("calls", "count"), Column("share", "share"),
            Column("mean", "s"), Column("p50", "s"), Column("p95", "s"), Column("p99", "s"),
            Column("per token", "per_token"), Column("known by"),
        ],
        rows,
        "share: of the route's time in all phases. per token: seconds over the tokens that the phase handled.",
    )  # fmt: skip


def _headline(book: Book, report: Report) -> None:
    calls = book.calls
    totals = {name: _seconds(calls, parts).sum() for name, parts in figures(book.mixed).items()}
    ((count, without, *sums),) = book.rows(calls.agg(n=calls.count(), bare=count_of(~calls.has_phases), **totals))
    spent = dict(zip(totals, (float(value or 0) for value in sums), strict=True))
    whole = sum(spent.values())
    if whole:
        most = max(spent, key=lambda phase: spent[phase])
        report.headline = f"{plural(count, 'call')}; most of the time is {most} ({spent[most] / whole:.0%})"
        undivided = sum(spent[phase] for phase in MERGED)
        if undivided > 0:
            why = merged.section(book, count)
            if why.rows:
                report.sections.append(why)
            report.notes.append(
                f"{undivided / whole:.0%} of the time is not told apart (queue_prefill, opaque): the provider reports "
                "no timings that fit, and the client could not estimate them"
            )
    else:
        report.headline = plural(count, "call")
    if without:
        report.notes.append(
            f"{without:,} of {plural(count, 'call')} without phase spans (another tracer's, or sampled apart): only "
            "their durations are used"
        )
