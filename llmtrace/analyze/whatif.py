"""The gain end to end of a faster phase: Amdahl's law on each trace's critical path.

Only time on the critical path counts, so that a phase that runs beside something slower gains nothing. A branch that
would become critical in turn is not foreseen: the gain told is the most that can be had.
"""

from __future__ import annotations

import numpy as np

from llmtrace.analyze import critical, ends
from llmtrace.analyze.book import Book
from llmtrace.analyze.report import Column, Report, Section, Stack
from llmtrace.errors import LlmtraceError
from llmtrace.phases.model import NETWORK, UNATTRIBUTED


def make(book: Book, phase: str, factor: float) -> Report:
    """Build the report for a ``phase`` that takes ``factor`` times as long.

    Raises:
        LlmtraceError: no critical path has such a phase, or the factor is negative.
    """
    if not factor >= 0:
        raise LlmtraceError(f"--factor is {factor:g}; it takes 0 (gone) or more (1: unchanged, 0.5: twice as fast)")
    critical_paths, share = ends.paths(book)
    labels = sorted({label for path in critical_paths for label in path.spent})
    if phase not in labels:
        raise LlmtraceError(f"no critical path has {phase!r}; these have {', '.join(labels) or 'nothing'}")
    whole = np.array([path.whole for path in critical_paths]) / 1e9
    part = np.array([path.spent.get(phase, 0) for path in critical_paths]) / 1e9
    after, limit = whole - (1 - factor) * part, whole - part
    rows = [
        [name, value(whole), value(after), value(after) - value(whole), value(after) / value(whole) - 1, value(limit)]
        for name, value in (
            ("mean", lambda values: float(np.mean(values))),
            ("p50", lambda values: float(np.quantile(values, 0.5))),
            ("p95", lambda values: float(np.quantile(values, 0.95))),
            ("p99", lambda values: float(np.quantile(values, 0.99))),
        )
    ]  # fmt: skip
    spent = critical.mean(critical_paths)
    report = Report(
        "whatif",
        f"If {phase} took {factor:g} times as long",
        [
            Section(
                "End to end",
                [
                    Column("of"), Column("now", "s"), Column("then", "s"), Column("change", "s"),
                    Column("relative", "share"), Column("without it", "s"),
                ],
                rows,
                f"without it: the limit, {phase} taking no time at all.",
                Stack(
                    "Critical path of a mean trace", "s",
                    [("now", spent), ("then", {**spent, phase: spent[phase] * factor})],
                ),
            )
        ],
        headline=f"end to end {rows[0][4]:+.1%}: {phase} is {spent[phase] / float(np.mean(whole)):.0%} of the path",
        notes=["the most that can be had: a parallel branch that would then be waited for is not foreseen"],
        stats=(book.stats,),
    )  # fmt: skip
    if book.mixed and phase in (NETWORK, UNATTRIBUTED):
        report.notes.append(
            f"some calls are of schema version 1, whose {NETWORK} includes what is {UNATTRIBUTED} since"
        )
    if share < 1:
        report.notes.append(f"from an even sample of {share:.0%} of the traces")
    return report
