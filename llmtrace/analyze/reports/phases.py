"""Where the time went: durations, TTFT and each phase, by route."""

from __future__ import annotations

from typing import Any

import ibis

from llmtrace.analyze.book import Book
from llmtrace.analyze.expressions import count_of, share_of, when
from llmtrace.analyze.report import Column, Report, Section, Stack
from llmtrace.analyze.reports import Options
from llmtrace.phases.model import OPAQUE, PHASES, QUEUE_PREFILL


def make(book: Book, options: Options) -> Report:
    """Build the report."""
    calls = book.calls
    by_route = calls.group_by("route").agg(
        calls=calls.count(),
        **{f"p{q}": calls.duration.quantile(q / 100) for q in (50, 95, 99)},
        ttft50=calls.ttft.quantile(0.5),
        ttft95=calls.ttft.quantile(0.95),
        failed=share_of(calls.outcome.isin(("error", "timed_out"))),
        split=share_of(calls.has_phases),
        whole=calls.duration.mean(),
        **{phase: calls[f"s_{phase}"].mean() for phase in PHASES},
    )
    rows = book.rows(by_route.order_by(ibis.desc("calls")).limit(options.top))
    plain = [row[:8] for row in rows]
    bars = [(row[0], _parts(row)) for row in rows]
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
    return report


def _parts(row: tuple[Any, ...]) -> dict[str, float]:
    *_, whole = row[: 10 + 1]
    parts: dict[str, float] = dict(zip(PHASES, (float(value or 0) for value in row[-len(PHASES) :]), strict=True))
    rest = float(whole or 0) - sum(parts.values())
    if rest > 1e-9:
        parts["other"] = rest
    return {name: value for name, value in parts.items() if value > 0}


def _phases(book: Book, options: Options) -> Section:
    phases = book.phases
    each = phases.group_by("route", "phase").agg(
        calls=phases.count(),
        total=phases.seconds.sum(),
        mean=phases.seconds.mean(),
        **{f"p{q}": phases.seconds.quantile(q / 100) for q in (50, 95, 99)},
        tokens=phases.phase_tokens.sum(),
        timed=when(phases.phase_tokens > 0, phases.seconds, None).sum(),
        **{word: (phases.source == word).mean() for word in ("device", "server", "client", "estimate")},
    )
    found = book.rows(each)
    whole: dict[str, float] = {}
    for row in found:
        whole[row[0]] = whole.get(row[0], 0.0) + row[3]
    order = {name: place for place, name in enumerate(PHASES)}
    ranked = sorted(found, key=lambda row: (-whole[row[0]], row[0], order.get(row[1], 99)))
    rows: list[list[Any]] = []
    for route, phase, calls, total, mean, p50, p95, p99, tokens, timed, *sources in ranked[: 7 * options.top]:
        named = ", ".join(
            f"{word} {share:.0%}" if share < 0.995 else word
            for word, share in zip(("device", "server", "client", "estimate"), sources, strict=True)
            if share and share >= 0.005
        )
        share = total / whole[route] if whole[route] else None
        rows.append([route, phase, calls, share, mean, p50, p95, p99, timed / tokens if tokens else None, named])
    return Section(
        "By phase",
        [
            Column("route"), Column("phase"), Column("calls", "count"), Column("share", "share"), Column("mean", "s"),
            Column("p50", "s"), Column("p95", "s"), Column("p99", "s"), Column("per token", "per_token"),
            Column("known by"),
        ],
        rows,
        "share: of the route's time in all phases. per token: seconds over the tokens that the phase handled.",
    )  # fmt: skip


def _headline(book: Book, report: Report) -> None:
    calls = book.calls
    totals = {phase: calls[f"s_{phase}"].sum() for phase in PHASES}
    ((count, without, *sums),) = book.rows(calls.agg(n=calls.count(), bare=count_of(~calls.has_phases), **totals))
    spent = dict(zip(PHASES, (float(value or 0) for value in sums), strict=True))
    whole = sum(spent.values())
    if whole:
        most = max(spent, key=lambda phase: spent[phase])
        report.headline = f"{count:,} calls; most of the time is {most} ({spent[most] / whole:.0%})"
        merged = (spent[QUEUE_PREFILL] + spent[OPAQUE]) / whole
        if merged >= 0.005:
            report.notes.append(
                f"{merged:.0%} of the time is not told apart (queue_prefill, opaque): the provider reports no timings "
                "and the client had too little to estimate from"
            )
    else:
        report.headline = f"{count:,} calls"
    if without:
        report.notes.append(
            f"{without:,} of {count:,} calls have no phase spans (another tracer's, or sampled apart): only their "
            "durations are used"
        )
