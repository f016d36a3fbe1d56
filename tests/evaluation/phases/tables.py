"""The judged cells as tables of text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tests.evaluation.common.tables import Table
from tests.evaluation.phases import scoring
from tests.evaluation.phases.bars import SOURCES, Line
from tests.evaluation.phases.judged import Judged
from tests.evaluation.phases.measured import DECODE, PREFILL, QUEUE


def summary(lines: Sequence[Line]) -> Table:
    """A row per bar: the worst cell of each source, and the worst of all, which decides."""
    head = ["what", "bar", *SOURCES, "", "decided by"]
    return Table("Bars", head, [_summed_up(line) for line in lines])


def _summed_up(line: Line) -> list[str]:
    worst = line.worst()
    bar = (worst or line.figures[0]).bar
    by_source = [figure.bar.cells()[1] if (figure := line.worst(source)) else "-" for source in SOURCES]
    decided = "-" if worst is None else f"{worst.source} {worst.where} ({bar.calls} calls)"
    return [line.title, bar.cells()[2], *by_source, line.verdict(), decided]


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
