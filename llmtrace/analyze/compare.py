"""Before and after a change: each phase and component, the percentiles, retries, cost, quality, and the bottleneck."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llmtrace.analyze import critical, ends, parts, quality, trap
from llmtrace.analyze.book import Book
from llmtrace.analyze.contract import OVERHEAD_NOTE, are_mixed, figures
from llmtrace.analyze.differences import Difference, Row, Side, between
from llmtrace.analyze.report import Column, Intervals, Report, Section, Unit, cell, seconds
from llmtrace.phases.model import PHASES
from llmtrace.wording import plural

_LEAST = 30
"""Traces on a side below which differences are little more than chance; the headline says so."""
_WHOLE = "end to end"
_TOKENS = ("input_tokens", "output_tokens")
_QUALITY = "quality"


def make(before: Book, after: Book, score: str | None = None) -> Report:
    """Compare two sets of traces.

    ``score``: a numeric attribute of spans, higher is better; by default the conventions' evaluation score.
    """
    books = (before, after)
    mixed = are_mixed([*before.stats.versions, *after.stats.versions])
    parts_by_figure = figures(mixed)
    measured = [parts.of(*ends.requests(book)) for book in books]
    judge = quality.common(books, score)
    sides = _sides(books, measured, parts_by_figure, judge)
    phases = [name for name in parts_by_figure if any(side.columns[name].any() for side in sides)]
    shown: dict[str, dict[Any, Row]] = {
        "phases": {name: Row(name) for name in phases} | {_WHOLE: Row("duration")},
        "percentiles": {
            f"{title} p{rank * 100:.0f}": Row(column, rank)
            for title, column in ((_WHOLE, "duration"), ("TTFT", "ttft"))
            for rank in (0.5, 0.95, 0.99)
        },
        "rest": {
            title: Row(column)
            for title, column in (
                ("attempts per call", "attempts"), ("cost per call, USD", "cost"), (judge.title, _QUALITY),
            )
        },
        "traffic": {name: Row(name) for name in _TOKENS},
        "components": trap.rows(name for name in sides[0].by_trace if name != _QUALITY),
    }  # fmt: skip
    keys = [(table, name) for table, rows in shown.items() for name in rows]
    judged = dict(zip(keys, between(sides[0], sides[1], [shown[table][name] for table, name in keys]), strict=True))
    tables = {table: {name: judged[table, name] for name in rows} for table, rows in shown.items()}
    report = Report(
        "compare",
        "Before and after",
        [
            _phases(tables["phases"]),
            _percentiles(tables["percentiles"]),
            _rest(tables["rest"]),
            _path(measured, mixed),
            *trap.sections(tables["components"], _row, _columns),
        ],
        stats=(before.stats, after.stats),
    )
    caveats = _caveats(report, sides, books, tables["traffic"])
    only = {name: each for name, each in tables["phases"].items() if name != _WHOLE}
    trapped = trap.sentence(tables["components"] or _of_calls(tables["phases"]), only, _calls_in_a_trace(sides[0]))
    report.headline = "; ".join([*caveats, _headline(tables["phases"])]) + (f". {trapped}" if trapped else "")
    report.notes.append(
        f"{_size(sides[0])} before, {_size(sides[1])} after; intervals are 95 %, by bootstrap over traces. sure: fewer "
        "than 5 in 100 pairs of equal sets would have any such row, however many rows there are"
    )
    if judge.note:
        report.notes.append(judge.note)
    if mixed:
        report.notes.append(OVERHEAD_NOTE)
    if any(side.share < 1 for side in measured):
        report.notes.append("critical paths and components are of an even sample of the traces")
    return report


def _sides(
    books: Sequence[Book], measured: Sequence[parts.Parts], parts_by_figure: Mapping[str, Sequence[str]],
    judge: quality.Quality,
) -> list[Side]:  # fmt: skip
    names = ["duration", "ttft", "attempts", "cost", *_TOKENS, *(f"s_{phase}" for phase in PHASES)]
    read = [book.arrays_by_trace(book.calls, names) for book in books]
    by_component = trap.arrays(measured, [ids for _, _, ids in read])
    sides: list[Side] = []
    for book, (calls, traces, ids), components in zip(books, read, by_component, strict=True):
        spent = {name: _seconds(calls, members) for name, members in parts_by_figure.items()}
        scores = quality.by_trace(book, judge)
        by_trace = {_QUALITY: np.array([scores.get(trace_id, np.nan) for trace_id in ids]), **components}
        sides.append(Side({**calls, **spent}, traces, by_trace))
    return sides


def _of_calls(phases: Mapping[str, Difference]) -> dict[parts.Key, Difference]:
    """The whole request, where each is a single call."""
    return {(parts.WHOLE, parts.WAITED): phases[_WHOLE]}


def _calls_in_a_trace(side: Side) -> float:
    return len(side.traces) / max(1, side.trace_count)


def _size(side: Side) -> str:
    calls = plural(len(side.traces), "call")
    return calls if side.trace_count == len(side.traces) else f"{calls} in {plural(side.trace_count, 'trace')}"


def _seconds(calls: dict[str, Any], phases: Sequence[str]) -> Any:
    """Seconds that each call spent in all of ``phases``."""
    return sum(calls[f"s_{phase}"] for phase in phases)


def _phases(differences: Mapping[str, Difference]) -> Section:
    points = [(name, difference.change, difference.low, difference.high) for name, difference in differences.items()]
    return Section(
        "By phase",
        _columns("mean of", "s", "phase"),
        [_row(name, difference) for name, difference in differences.items()],
        "A call without a phase counts as zero there, so that the phases' changes add up to the call's. "
        "from/to: the change's 95 % interval, of this row alone. sure: counting all rows.",
        Intervals("Change of the mean call, after less before", "s", points),
    )


def _columns(first: str, unit: Unit, kind: Unit = "text") -> list[Column]:
    return [
        Column(first, kind), Column("before", unit), Column("after", unit), Column("change", unit),
        Column("from", unit), Column("to", unit), Column("relative", "share"), Column("sure"),
    ]  # fmt: skip


def _row(name: str, difference: Difference) -> list[Any]:
    relative = difference.change / difference.before if difference.before else None
    sure = "" if not difference.judged else "yes" if difference.sure else "no"
    ends = (difference.low, difference.high)
    return [name, difference.before, difference.after, difference.change, *ends, relative, sure]


def _percentiles(differences: Mapping[str, Difference]) -> Section:
    return Section(
        "Percentiles",
        _columns("of", "s"),
        _known(differences),
        "A percentile has an interval from three calls beyond it on either side: p95 from 60 calls, p99 from 300.",
    )


def _rest(differences: Mapping[str, Difference]) -> Section:
    return Section("Retries, cost and quality", _columns("mean", "number"), _known(differences))


def _known(differences: Mapping[str, Difference]) -> list[list[Any]]:
    """The rows with a value on either side."""
    rows = [_row(name, difference) for name, difference in differences.items()]
    return [row for row in rows if row[1] == row[1] or row[2] == row[2]]


def _path(measured: Sequence[parts.Parts], mixed: bool) -> Section:
    figure_of = {part: name for name, members in figures(mixed).items() for part in members}
    old, new = (
        critical.mean(side.paths, lambda label: figure_of.get(label.part, label.part)) for side in measured
    )  # fmt: skip
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
            Column("who", "phase"), Column("before", "s"), Column("after", "s"), Column("change", "s"),
            Column("share before", "share"), Column("share after", "share"),
        ],
        rows,
        f"What the end of the trace was waiting for: {bottleneck}.",
    )  # fmt: skip


def _headline(differences: Mapping[str, Difference]) -> str:
    """The three largest changes that are sure, and the change end to end."""
    phases = {name: difference for name, difference in differences.items() if name != _WHOLE}
    sure = sorted((name for name in phases if phases[name].sure), key=lambda name: -abs(phases[name].change))
    changes = [f"{name} {_change_text(phases[name])}" for name in sure[:3]]
    whole = differences[_WHOLE]
    return ", ".join([*changes, f"{_WHOLE} {_change_text(whole)}{'' if whole.sure else ' (may be chance)'}"])


def _change_text(difference: Difference) -> str:
    if difference.before > 0 and abs(difference.change) / difference.before < 10:
        return f"{difference.change / difference.before:+.0%}"
    return ("+" if difference.change >= 0 else "-") + seconds(abs(difference.change))


def _caveats(
    report: Report, sides: Sequence[Side], books: tuple[Book, Book], traffic: Mapping[str, Difference]
) -> list[str]:
    """What stands before the figures in the headline, in a few words each; the notes have the details."""
    caveats: list[str] = []
    least = min(side.trace_count for side in sides)
    if least < _LEAST:
        unit = "call" if all(side.trace_count == len(side.traces) for side in sides) else "trace"
        caveats.append(f"only {plural(least, unit)} on a side, so most of what differs may be chance")
    routes = [dict(book.rows(book.calls.route.value_counts())) for book in books]
    gone, new = sorted({*routes[0]} - {*routes[1]}), sorted({*routes[1]} - {*routes[0]})
    if gone or new:
        differing = [
            f"only {word}: {', '.join(names[:5])}" for word, names in (("before", gone), ("after", new)) if names
        ]
        report.notes.append(f"the routes differ ({'; '.join(differing)})")
        caveats.append("the routes differ")
    for name, difference in traffic.items():
        if difference.sure and difference.before and abs(difference.change / difference.before) > 0.1:
            words = name.replace("_", " ")
            report.notes.append(
                f"calls have other {words} than before ({cell(difference.before, 'count')} → "
                f"{cell(difference.after, 'count')} in the mean): part of the difference is theirs"
            )
            caveats.append(f"other {words} than before")
    return caveats
