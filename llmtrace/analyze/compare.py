"""Before and after a change: each phase, the percentiles, retries, cost, quality, and where the bottleneck went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmtrace.analyze import critical, ends
from llmtrace.analyze.book import Book
from llmtrace.analyze.contract import OVERHEAD_NOTE, are_mixed, figures
from llmtrace.analyze.differences import Difference, between, mean, quantile
from llmtrace.analyze.report import Column, Intervals, Report, Section, cell, seconds
from llmtrace.phases.model import PHASES

_LEAST = 30
"""Calls on a side below which differences are little more than chance; the report says so."""


def make(before: Book, after: Book, quality: str | None = None) -> Report:
    """Compare two sets of traces. ``quality``: a numeric attribute of the calls, higher is better."""
    names = ["duration", "ttft", "attempts", "cost", *(f"s_{phase}" for phase in PHASES)]
    if quality is not None:
        names.append(quality)
    old, new = before.arrays(before.calls, names), after.arrays(after.calls, names)
    mixed = are_mixed([*before.stats.versions, *after.stats.versions])
    spent = {
        name: (_seconds(old, parts), _seconds(new, parts)) for name, parts in figures(mixed).items()
    }  # fmt: skip
    phases = {
        name: between(seconds_before, seconds_after, mean)
        for name, (seconds_before, seconds_after) in spent.items()
        if seconds_before.any() or seconds_after.any()
    }
    whole = between(old["duration"], new["duration"], mean)
    paths = [ends.paths(book) for book in (before, after)]
    report = Report(
        "compare",
        "Before and after",
        [_phases(phases, whole), _percentiles(old, new), _rest(old, new, quality), _path(paths, mixed)],
        headline=_headline(phases, whole),
        stats=(before.stats, after.stats),
    )
    counts = (len(old["duration"]), len(new["duration"]))
    report.notes.append(f"{counts[0]:,} calls before, {counts[1]:,} after; intervals are 95 %, by bootstrap")
    if min(counts) < _LEAST:
        report.notes.append(f"fewer than {_LEAST} calls on a side: most of what differs may be chance")
    if mixed:
        report.notes.append(OVERHEAD_NOTE)
    _mix(before, after, report)
    if any(share < 1 for _, share in paths):
        report.notes.append("critical paths are of an even sample of the traces")
    return report


def _seconds(calls: dict[str, Any], phases: Sequence[str]) -> Any:
    """Seconds that each call spent in all of ``phases``."""
    return sum(calls[f"s_{phase}"] for phase in phases)


def _phases(phases: dict[str, Difference], whole: Difference) -> Section:
    columns = [
        Column("mean of"), Column("before", "s"), Column("after", "s"), Column("change", "s"), Column("from", "s"),
        Column("to", "s"), Column("relative", "share"), Column("sure"),
    ]  # fmt: skip
    differences = {**phases, "end to end": whole}
    points = [(name, difference.change, difference.low, difference.high) for name, difference in differences.items()]
    return Section(
        "By phase", columns, [_row(name, difference) for name, difference in differences.items()],
        "A call without a phase counts as zero there, so that the phases' changes add up to the call's. "
        "from/to: the change's 95 % interval.",
        Intervals("Change of the mean call, after less before", "s", points),
    )  # fmt: skip


def _row(name: str, difference: Difference) -> list[Any]:
    relative = difference.change / difference.before if difference.before else None
    sure = "" if difference.low != difference.low else "yes" if difference.sure else "no"
    return [
        name,
        difference.before,
        difference.after,
        difference.change,
        difference.low,
        difference.high,
        relative,
        sure,
    ]


def _percentiles(old: dict[str, Any], new: dict[str, Any]) -> Section:
    rows: list[list[Any]] = []
    for name, key in (("end to end", "duration"), ("TTFT", "ttft")):
        for rank in (0.5, 0.95, 0.99):
            rows.append(_row(f"{name} p{rank * 100:.0f}", between(old[key], new[key], quantile(rank))))
    return Section(
        "Percentiles",
        [
            Column("of"), Column("before", "s"), Column("after", "s"), Column("change", "s"), Column("from", "s"),
            Column("to", "s"), Column("relative", "share"), Column("sure"),
        ],
        rows,
    )  # fmt: skip


def _rest(old: dict[str, Any], new: dict[str, Any], quality: str | None) -> Section:
    rows: list[list[Any]] = []
    for title, key in (("attempts per call", "attempts"), ("cost per call, USD", "cost"), (quality, quality)):
        if key is None or title is None:
            continue
        row = _row(title, between(old[key], new[key], mean))
        if row[1] == row[1] or row[2] == row[2]:
            rows.append(row)
    return Section(
        "Retries, cost and quality",
        [
            Column("mean"), Column("before", "number"), Column("after", "number"), Column("change", "number"),
            Column("from", "number"), Column("to", "number"), Column("relative", "share"), Column("sure"),
        ],
        rows,
    )  # fmt: skip


def _path(paths: Sequence[tuple[list[critical.Path], float]], mixed: bool) -> Section:
    old, new = (critical.mean(side_paths, figures(mixed)) for side_paths, _ in paths)
    whole = [sum(side.values()) for side in (old, new)]
    rows = [
        [label, old.get(label, 0.0), new.get(label, 0.0), new.get(label, 0.0) - old.get(label, 0.0),
         old.get(label, 0.0) / whole[0] if whole[0] else None, new.get(label, 0.0) / whole[1] if whole[1] else None]
        for label in sorted({*old, *new}, key=lambda label: -max(old.get(label, 0), new.get(label, 0)))
    ]  # fmt: skip
    first, second = (max(side, key=lambda label: side[label], default="nothing") for side in (old, new))
    bottleneck = (
        f"the bottleneck stays {first}" if first == second else f"the bottleneck moved from {first} to {second}"
    )
    return Section(
        "Critical path of a mean trace",
        [
            Column("who"), Column("before", "s"), Column("after", "s"), Column("change", "s"),
            Column("share before", "share"), Column("share after", "share"),
        ],
        rows,
        f"What the end of the trace was waiting for: {bottleneck}.",
    )  # fmt: skip


def _headline(phases: dict[str, Difference], whole: Difference) -> str:
    """The three largest changes that are sure, and the change end to end."""
    sure = sorted(
        (name for name, difference in phases.items() if difference.sure), key=lambda name: -abs(phases[name].change)
    )
    changes = [f"{name} {_change_text(phases[name])}" for name in sure[:3]]
    end = f"end to end {_change_text(whole)}" + ("" if whole.sure else " (may be chance)")
    return ", ".join([*changes, end])


def _change_text(difference: Difference) -> str:
    if difference.before > 0 and abs(difference.change) / difference.before < 10:
        return f"{difference.change / difference.before:+.0%}"
    return ("+" if difference.change >= 0 else "-") + seconds(abs(difference.change))


def _mix(before: Book, after: Book, report: Report) -> None:
    """Note where the calls themselves differ, since then a difference may not come from the change."""
    sides = [dict(book.rows(book.calls.route.value_counts())) for book in (before, after)]
    gone, new = sorted({*sides[0]} - {*sides[1]}), sorted({*sides[1]} - {*sides[0]})
    if gone or new:
        differing = [
            f"only {word}: {', '.join(names[:5])}" for word, names in (("before", gone), ("after", new)) if names
        ]
        report.notes.append(f"the routes differ ({'; '.join(differing)})")
    tokens = [book.arrays(book.calls, ["input_tokens", "output_tokens"]) for book in (before, after)]
    for name in ("input_tokens", "output_tokens"):
        difference = between(tokens[0][name], tokens[1][name], mean)
        if difference.sure and difference.before and abs(difference.change / difference.before) > 0.1:
            report.notes.append(
                f"calls have other {name.replace('_', ' ')} than before ({cell(difference.before, 'count')} → "
                f"{cell(difference.after, 'count')} in the mean): part of the difference is theirs"
            )
