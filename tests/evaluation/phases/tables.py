"""The judged cells as tables of text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tests.evaluation.common.tables import Table
from tests.evaluation.phases import scoring
from tests.evaluation.phases.bars import Line
from tests.evaluation.phases.judged import Judged
from tests.evaluation.phases.measured import DECODE, PREFILL, QUEUE


def summary(lines: Sequence[Line]) -> Table:
    """A row for each group of bars: how many are met; what is missed, by its worst cell and how many cells miss it.

    Groups whose bars are all met share one row.
    """
    rows: list[list[str]] = []
    whole: dict[str, int] = {}
    for group in dict.fromkeys(line.group for line in lines):
        some = [line for line in lines if line.group == group]
        missed = [_told(line) for line in some if line.met is False]
        met = sum(1 for line in some if line.met)
        if missed:
            rows.append([group, f"{met} of {met + len(missed)}", "<br>".join(missed)])
        elif met:
            whole[group] = met
    if whole:
        rows.append(["; ".join(whole), f"all {sum(whole.values())}", "-"])
    return Table("Bars", ["", "met", "missed (bar), cells"], rows)


def _told(line: Line) -> str:
    """One missed bar in a few words."""
    worst = line.worst()
    assert worst is not None
    _, value, bar, *_ = worst.bar.cells()
    beyond = sum(1 for figure in line.known() if not figure.bar.met)
    told = f"{_SHORTER.get(line.what, line.what)}: {value} ({bar.replace('<=', '≤').replace('>=', '≥')})"
    chance = " (chance)" if line.verdict().endswith("within chance") else ""
    where = f"{worst.source[0]}: {_named(worst.where)}"
    return f"{told}{chance}, {beyond} of {len(line.known())}, {where}"


_SHORTER = {
    "queue, of mean TTFT (load <= 0.7)": "queue, load ≤ 0.7",
    "prefill, of mean TTFT (load <= 0.7)": "prefill, load ≤ 0.7",
    "queue, of mean TTFT": "queue",
    "prefill, median of itself (load <= 0.7)": "prefill of itself",
    "90 % interval of queue covers": "queue covers",
    "90 % interval of prefill covers": "prefill covers",
    "90 % interval of decode covers": "decode covers",
    "half width of queue, over its mean |error|": "queue's half/err",
    "half width of prefill, over its mean |error|": "prefill's half/err",
    "the engine's own queue, of mean TTFT": "engine's own queue",
    "90 % interval of the engine's own queue covers": "engine's own queue covers",
}


def _named(where: str) -> str:
    """A cell's place without what all have in common."""
    return where.removeprefix("engine, ").replace("recorded ", "")


def compact(cells: Sequence[Judged]) -> Table:
    """llmtrace in each cell, in a few columns: shares in %, times in ms."""
    head = ["cell", "calls", "TTFT", "not split", "queue", "covers", "prefill", "covers"]
    rows: list[list[str]] = []
    for judged in cells:
        pairs = judged.pairs()
        queue, prefill = scoring.errors(pairs, QUEUE), scoring.errors(pairs, PREFILL)
        queue_covers, prefill_covers = scoring.coverage(pairs, QUEUE), scoring.coverage(pairs, PREFILL)
        rows.append(
            [
                judged.cell.title.partition(" ")[2].removeprefix("engine, "),
                str(len(pairs)),
                f"{judged.scale() * 1e3:.0f}",
                _whole(scoring.refused(pairs)),
                _percent(queue.share if queue else math.nan),
                _whole(queue_covers.inside if queue_covers else math.nan),
                _percent(prefill.share if prefill else math.nan),
                _whole(prefill_covers.inside if prefill_covers else math.nan),
            ]
        )
    return Table("", head, rows)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}" if math.isfinite(value) else "-"


def _whole(value: float) -> str:
    return f"{100 * value:.0f}" if math.isfinite(value) else "-"


def joined(first: Table, *others: Table) -> Table:
    """Tables of the same rows side by side."""
    head = [*first.head, *(f"{table.title.partition(',')[0]}: {name}" for table in others for name in table.head[1:])]
    beside = zip(first.rows, *(table.rows for table in others), strict=True)
    return Table(first.title, head, [[*row, *(cell for each in more for cell in each[1:])] for row, *more in beside])


def hits(rows: Sequence[dict[str, Any]]) -> Table:
    """Hits told from timing where the whole prompt was sent often before."""
    head = ["provider", "caches", "accuracy", "three calls", "fresh claimed"]
    made = [
        [
            row["provider"],
            "yes" if row["caching"] else "no",
            *(f"{row[key]:.3f}" for key in ("single", "filtered")),
            share(row["false_claims"]),
        ]
        for row in sorted(rows, key=lambda row: (not row["caching"], -row["auc"]))
        if row["condition"].startswith("whole prompt")
    ]
    return Table("", head, made)


def sensitivity(first: dict[str, Any], others: Sequence[dict[str, Any]]) -> Table:
    """What a constant at another value does, where it does much. ``first``: all constants as they are."""
    rows = [["as it is", "", *_moved(first)]]
    for one in others:
        if abs(one["queue"] / first["queue"] - 1) > _MUCH or abs(one["covered"] - first["covered"]) > _MUCH_COVERED:
            rows.append([f"`{one['constant']}`", f"{one['value']:g}", *_moved(one)])
    return Table("", ["constant", "value", "queue, of TTFT", "covers", "worst cell", "not split"], rows)


_MUCH, _MUCH_COVERED = 0.03, 0.01


def _moved(one: dict[str, Any]) -> list[str]:
    return [f"{100 * one['queue']:.2f} %", *(share(one[key]) for key in ("covered", "least", "unsplit"))]


def errors(cells: Sequence[Judged]) -> Table:
    """llmtrace in each cell: errors, refusals, intervals."""
    head = ["cell", "calls", "TTFT", "true queue", "not split", "queue", "split only", "covers", "half/err"]
    head += ["prefill", "of itself", "covers", "half/err", "engine's own queue", "covers"]
    rows: list[list[str]] = []
    for judged in cells:
        pairs = judged.pairs()
        queue, prefill = scoring.errors(pairs, QUEUE), scoring.errors(pairs, PREFILL)
        own, own_covers = scoring.engine_queue_errors(pairs), scoring.engine_queue_coverage(pairs)
        rows.append(
            [
                judged.cell.title,
                str(len(pairs)),
                ms(judged.scale()),
                ms(queue.truth) if queue else "-",
                share(scoring.refused(pairs)),
                share(queue.share) if queue else "-",
                share(queue.split_share) if queue else "-",
                *_interval(scoring.coverage(pairs, QUEUE)),
                share(prefill.share) if prefill else "-",
                share(prefill.of_itself) if prefill else "-",
                *_interval(scoring.coverage(pairs, PREFILL)),
                share(own.share) if own else "-",
                share(own_covers.inside) if own_covers else "-",
            ]
        )
    return Table("llmtrace, blind (ms; errors of the mean TTFT, of whole answers of the mean total)", head, rows)


def _interval(inside: scoring.Coverage | None) -> list[str]:
    return ["-", "-"] if inside is None else [share(inside.inside), times(inside.ratio)]


def against(cells: Sequence[Judged]) -> Table:
    """Every method in every cell: queue / prefill."""
    methods = list(dict.fromkeys(method for judged in cells for method in judged.methods))
    rows: list[list[str]] = []
    for judged in cells:
        row = [judged.cell.title]
        for method in methods:
            both = [scoring.errors(judged.pairs(method), phase) for phase in (QUEUE, PREFILL)]
            row.append(" / ".join(share(error.share) if error else "-" for error in both))
        rows.append(row)
    return Table("Every method, mean |error| over mean TTFT (or total): queue / prefill", ["cell", *methods], rows)


def more(cells: Sequence[Judged]) -> Table:
    """What else there is to know of each cell."""
    head = ["cell", "queue where none is, of TTFT", "queue's interval excludes a short one, where none is"]
    head += ["sure and wrong", "merged span off by", "merged because", "lower bound", "decode, of itself", "covers"]
    head += ["network, median ms", "unexplained rest"]
    rows: list[list[str]] = []
    for judged in cells:
        pairs = judged.pairs()
        calm, where_none = scoring.queue_where_none(pairs)
        decode, decode_covers = scoring.errors(pairs, DECODE), scoring.coverage(pairs, DECODE)
        rows.append(
            [
                judged.cell.title,
                share(where_none) if calm else "-",
                share(scoring.falsely_queued(pairs)),
                share(scoring.sure_and_wrong(pairs)),
                share(scoring.merged_error(pairs)),
                _because(judged),
                share(scoring.lower_bounds(pairs)),
                share(decode.of_itself) if decode else "-",
                share(decode_covers.inside) if decode_covers else "-",
                ms(scoring.network_error(pairs)),
                share(scoring.rest(pairs)),
            ]
        )
    return Table("Refusals, false queues, decode", head, rows)


def _because(judged: Judged) -> str:
    counts: dict[str, int] = {}
    for _, claim in judged.pairs():
        if claim.because is not None:
            counts[claim.because] = counts.get(claim.because, 0) + 1
    return ", ".join(f"{count} {why}" for why, count in sorted(counts.items(), key=lambda item: -item[1])) or "-"


def audit(rows: Sequence[dict[str, Any]]) -> list[Table]:
    """Hits told from timing, and the provider's own time predicted."""
    head = ["provider", "condition", "caches", "AUC, one call", "accuracy, one call", "accuracy, three calls"]
    head += [
        "best threshold",
        "90 % interval",
        "verdicts given",
        "claimed, one call",
        "claimed, three calls",
        "fresh claimed",
    ]
    hits = [
        [
            row["provider"],
            row["condition"],
            "yes" if row["caching"] else "no",
            f"{row['auc']:.3f}",
            f"{row['single']:.3f}",
            f"{row['filtered']:.3f}",
            f"{row['best']:.3f}",
            f"{row['low']:.2f} to {row['high']:.2f}",
            *(share(row[key]) for key in ("told", "claimed", "claimed_filtered", "false_claims")),
        ]
        for row in sorted(rows, key=lambda row: (not row["caching"], row["provider"], -row["auc"]))
    ]
    told = [row for row in rows if row["server"]]
    server = [
        [
            row["provider"],
            row["condition"],
            ms(row["server"]["truth"]),
            ms(row["server"]["median"]),
            ms(row["server"]["p90"]),
            *(share(row["server"][key]) for key in ("history", "client's time", "least squares", "coverage")),
        ]
        for row in sorted(told, key=lambda row: (row["provider"], row["condition"]))
    ]
    return [
        Table("Cache hits told from timing", head, hits),
        Table(
            "The provider's own time, from the client's and earlier calls (ms; mean error over mean truth)",
            [
                "provider",
                "condition",
                "truth, mean",
                "error, median",
                "p90",
                "history",
                "client's time",
                "least squares",
                "interval covers",
            ],
            server,
        ),
    ]


def ms(seconds: float) -> str:
    """Milliseconds."""
    return f"{seconds * 1e3:.1f}" if math.isfinite(seconds) else "-"


def share(value: float) -> str:
    """Per cent."""
    return f"{value * 100:.1f} %" if math.isfinite(value) else "-"


def times(value: float) -> str:
    """A ratio."""
    return f"{value:.1f}x" if math.isfinite(value) else "-"
