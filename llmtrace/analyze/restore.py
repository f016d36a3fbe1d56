"""How much less of which phase would bring enough calls within their objectives.

For each call and phase there is a least share of the phase that would have to go for the call to meet all its
objectives, by itself. The share that restores the objective for 99 % of the calls is the 99th percentile of these: an
exact answer, given that nothing else changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from llmtrace.analyze import judged
from llmtrace.analyze.book import Book
from llmtrace.analyze.report import Column, Report, Section
from llmtrace.analyze.reports.slo import none_judged, percent, share_met
from llmtrace.errors import LlmtraceError
from llmtrace.phases.objectives import APPLICATION, ITL, TOTAL, TTFT, Patterns
from llmtrace.wording import plural

PHASES: Final = tuple(name for name in judged.CHARGED if name not in (judged.FLOOR, judged.UNKNOWN))
_NEVER: Final = 2.0
"""More than all of it: no share of this phase would do."""


def make(book: Book, objectives: Mapping[str, Patterns], share: float) -> Report:
    """Build the report.

    Raises:
        LlmtraceError: no call has a target.
    """
    rows = judged.judged(book.calls, objectives)
    rows = book.hold(rows.mutate(fails=rows.failed.cast("int64")))
    names = [f"s_{name}" for name in PHASES if name != APPLICATION] + ["application", "fails"]
    over = [f"over_{name}" for name in (TTFT, ITL, TOTAL)]
    columns, *_ = book.arrays_by_trace(rows, [*names, *over])
    count = len(columns["fails"])
    if not count:
        raise LlmtraceError(none_judged(objectives))
    met = float(np.mean(_missed(columns, over) == 0))
    table: list[list[Any]] = []
    for name in PHASES:
        seconds, needed = _needed(name, columns)
        if not np.any(seconds > 0):
            continue
        enough = float(np.sort(needed)[max(0, int(np.ceil(share * count)) - 1)])
        best = float(np.mean(needed <= 1.0))
        table.append([name, float(np.mean(seconds)), enough if enough <= 1.0 else None, best])
    table.sort(key=lambda row: (row[2] is None, row[2] or 0.0, -row[3]))
    failed = int(columns["fails"].sum())
    report = Report(
        "whatif",
        f"What would bring {percent(share)} of the calls within their objectives",
        [_section(table, share)],
        headline=_headline(table, met, share, count),
        notes=["nothing else is changed: a phase that shrinks does not make another one longer or shorter"],
        stats=(book.stats,),
    )
    if failed:
        report.notes.append(f"{plural(failed, 'failed call')} of {count:,} would still fail: no phase mends them")
    return report


def _missed(columns: Mapping[str, Any], over: list[str]) -> Any:
    late = sum(np.nan_to_num(columns[name]) > 0 for name in over)
    return late + columns["fails"]


def _needed(name: str, columns: Mapping[str, Any]) -> tuple[Any, Any]:
    """The phase's seconds by call, and the least share of them that must go for the call to meet all its objectives."""
    held = columns["application"]
    seconds = held if name == APPLICATION else columns[f"s_{name}"] - (held if name == "decode" else 0.0)
    of = {
        TTFT: seconds if name in judged.EARLY else np.zeros_like(seconds),
        ITL: seconds if name in judged.LATE else np.zeros_like(seconds),
        TOTAL: seconds,
    }
    needed = np.where(columns["fails"] > 0, _NEVER, 0.0)
    for objective, available in of.items():
        over = np.nan_to_num(columns[f"over_{objective}"])
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(over > 0, np.where(available > 0, over / available, _NEVER), 0.0)
        needed = np.maximum(needed, share)
    return seconds, needed


def _section(table: list[list[Any]], share: float) -> Section:
    shrinking = (
        f"must shrink by: the least part of the phase that has to go, in every call, for {percent(share)} of the calls "
        "to meet their objectives; a dash: not even without the phase. "
    )
    return Section(
        "One phase at a time",
        [
            Column("phase", "phase"), Column("a mean call", "s"), Column("must shrink by", "share"),
            Column("without it within", "share"),
        ],
        table,
        (shrinking if any(row[2] is not None for row in table) else "")
        + "without it within: the share of calls that would be within their objectives if the phase took no time.",
    )  # fmt: skip


def _headline(table: list[list[Any]], met: float, share: float, count: int) -> str:
    now = f"{share_met(met)} of {plural(count, 'call')} {'meets its' if count == 1 else 'meet their'} objectives"
    if met >= share:
        return f"{now}: enough already"
    for name, _, enough, _ in table:
        if enough is not None:
            return f"{now}; {percent(share)} would with {enough:.0%} less {name}"
    if not table:
        return f"{now}; no phase is known that could shrink"
    best = max(table, key=lambda row: row[3])
    if best[3] <= met:
        return f"{now}; no phase alone, gone altogether, would bring one more call within"
    return f"{now}; no single phase restores {percent(share)}: without {best[0]} it would be {best[3]:.1%}"
