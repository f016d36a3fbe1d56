"""The gain end to end of a faster part: each request's end, worked out anew from the order of its spans.

What a span waited for follows from when things began and ended (``critical``). A branch that would then be waited for
in turn is seen. What the order of spans does not show is not: that a shorter queue is shorter for others too, or that
what is left out changes what comes after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from llmtrace.analyze import critical, ends
from llmtrace.analyze.book import Book
from llmtrace.analyze.critical import CALL, Label, Path
from llmtrace.analyze.report import Column, Report, Section, Stack
from llmtrace.errors import LlmtraceError, did_you_mean
from llmtrace.phases.model import NETWORK, UNATTRIBUTED
from llmtrace.wording import plural

_CAVEAT: Final = (
    "worked out from the order of the spans: what began after another one's end is taken to have waited for it. What "
    "other requests or other answers would change is not foreseen: shorter queues, a repair where a check is left out"
)


def make(book: Book, factors: Mapping[str, float]) -> Report:
    """Build the report.

    ``factors``: components, their kinds or names, or phases, that take so many times as long, with all beneath them.

    Raises:
        LlmtraceError: a part that no request has, or a factor that is below 0 or not finite.
    """
    for part, factor in factors.items():
        if not 0 <= factor < math.inf:
            raise LlmtraceError(
                f"{part} cannot take {factor:g} times as long: 0 is gone, 0.5 half as long, 1 unchanged"
            )
    requests, share = ends.requests(book)
    labels = _labels(requests)
    for part in factors:
        if not any(label.is_of(part) for label in labels):
            raise LlmtraceError(_unknown(part, labels))
    now = [critical.path(request.root, dict.fromkeys(factors, 1.0)) for request in requests]
    then = [critical.path(request.root, factors) for request in requests]
    without = [critical.path(request.root, dict.fromkeys(factors, 0.0)) for request in requests]
    name_of = _names(labels)
    spent = [critical.mean(paths, name_of) for paths in (now, then)]
    section, change = _end_to_end(now, then, without, tuple(factors))
    section.chart = Stack("Critical path of a mean request", "s", [("now", spent[0]), ("then", spent[1])])
    report = Report(
        "whatif",
        f"If {_words(factors)}",
        [section, _path(spent)],
        headline=f"end to end {change:+.1%}: {_waiting(spent, now, factors)}",
        notes=[_CAVEAT],
        stats=(book.stats,),
    )
    if book.mixed and any(part in (NETWORK, UNATTRIBUTED) for part in factors):
        report.notes.append(
            f"some calls are of schema version 1, whose {NETWORK} includes what is {UNATTRIBUTED} since"
        )
    if share < 1:
        report.notes.append(f"from an even sample of {share:.0%} of the traces")
    return report


def _labels(requests: Sequence[critical.Request]) -> set[Label]:
    labels: set[Label] = set()
    stack = [request.root for request in requests]
    while stack:
        member = stack.pop()
        labels.add(member.label)
        stack.extend(member.children)
    return labels


def _unknown(part: str, labels: set[Label]) -> str:
    known = sorted({name for label in labels for name in label})
    shown = ", ".join(known[:30]) + (" and others" if len(known) > 30 else "")
    words = {word for name in known for word in (name, *name.split("/", 1))}
    return f"nothing in these requests is {part!r}.{did_you_mean(part, sorted(words))} There are {shown}"


def _words(factors: Mapping[str, float]) -> str:
    return " and ".join(
        f"{part} took no time" if factor == 0 else f"{part} took {factor:g} times as long"
        for part, factor in factors.items()
    )


def _names(labels: set[Label]) -> Callable[[Label], str]:
    """How the parts of a path are called: phases, unless calls are made for several reasons."""
    makers = {label.component for label in labels if label.part != label.component}
    if len(makers) < 2:
        return lambda label: label.part
    return lambda label: label.component if label.part in (label.component, CALL) else f"{label.component} {label.part}"


def _end_to_end(
    now: Sequence[Path], then: Sequence[Path], without: Sequence[Path], asked: tuple[str, ...]
) -> tuple[Section, float]:
    whole, after, limit = (np.array([path.whole for path in paths]) / 1e9 for paths in (now, then, without))
    rows: list[list[Any]] = []
    for name, rank in (("mean", None), ("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        old, new, least = (
            float(np.mean(values) if rank is None else np.quantile(values, rank)) for values in (whole, after, limit)
        )  # fmt: skip
        rows.append([name, old, new, new - old, new / old - 1 if old else None, least])
    section = Section(
        "End to end",
        [
            Column("of"), Column("now", "s"), Column("then", "s"), Column("change", "s"), Column("relative", "share"),
            Column("without it", "s"),
        ],
        rows,
        f"Of {plural(len(now), 'request')}. without it: the limit, {' and '.join(asked)} taking no time at all.",
    )  # fmt: skip
    return section, rows[0][4] or 0.0


def _path(spent: Sequence[Mapping[str, float]]) -> Section:
    old, new = spent
    wholes = [sum(side.values()) or 1.0 for side in spent]
    rows = [
        [name, old.get(name, 0.0), new.get(name, 0.0), new.get(name, 0.0) - old.get(name, 0.0),
         old.get(name, 0.0) / wholes[0], new.get(name, 0.0) / wholes[1]]
        for name in sorted({*old, *new}, key=lambda name: (-max(old.get(name, 0), new.get(name, 0)), name))[:20]
    ]  # fmt: skip
    return Section(
        "What a mean request waits for",
        [
            Column("who", "phase"), Column("now", "s"), Column("then", "s"), Column("change", "s"),
            Column("share now", "share"), Column("share then", "share"),
        ],
        rows,
    )  # fmt: skip


def _waiting(spent: Sequence[Mapping[str, float]], now: Sequence[Path], factors: Mapping[str, float]) -> str:
    whole = sum(path.whole for path in now)
    waited = sum(path.of_asked for path in now)
    first, second = (max(side, key=lambda name: side[name], default="nothing") for side in spent)
    moved = f"; most would then be {second}" if first != second and spent[1].get(second) else ""
    return (
        f"{' and '.join(factors)} {'is' if len(factors) == 1 else 'are'} {waited / (whole or 1):.0%} of the path{moved}"
    )
