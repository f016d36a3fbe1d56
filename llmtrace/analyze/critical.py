"""The critical path of a trace: at each moment, the span without which the end would not have been so late.

Walked backwards from a span's end: the child that ended last before the moment was what was waited for; before it
began, the next one; what no child covers is the span's own. Shares add up to the root's duration.

A retry is all that would be gone if the call's first attempt had answered: each attempt before the last, with whatever
lies beneath it, and the wait after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from llmtrace.emit import names

RETRY = "retry"
APPLICATION = "application"
CALL = "call"


@dataclass(slots=True)
class Member:
    """One span of a trace, with the label that its own time counts for."""

    span_id: str
    parent_id: str | None
    start: int
    end: int
    label: str
    is_attempt: bool = False
    children: list[Member] = field(default_factory=list["Member"])


@dataclass(slots=True)
class Path:
    """A trace's critical path: nanoseconds by label, and the root's duration in nanoseconds."""

    whole: int
    spent: dict[str, int]


COLUMNS = (
    "trace_id", "span_id", "parent_id", "name", "start_ns", "end_ns", "phase", "step_kind", "operation", "status",
    "task_name",
)  # fmt: skip
"""The columns that ``paths`` reads of each span, in this order."""


def label(name: str, phase: Any, step_kind: Any, operation: Any) -> str:
    """The label of a span's own time: a phase, a step's kind, a call that is not split, or the application."""
    if phase:
        return str(phase)
    if step_kind:
        return str(step_kind)
    return CALL if operation or name in (names.CALL, names.ATTEMPT) else APPLICATION


def paths(rows: Iterable[Sequence[Any]]) -> list[Path]:
    """The critical path of every root, from rows of ``COLUMNS``. A span whose parent is missing is a root."""
    traces: dict[str, list[Member]] = {}
    for trace, span, parent, name, start, end, phase, kind, operation, _, _ in rows:
        own_label = label(name, phase, kind, operation)
        member = Member(span, parent, start, max(start, end), own_label, name == names.ATTEMPT)
        traces.setdefault(trace, []).append(member)
    critical_paths: list[Path] = []
    for members in traces.values():
        by_id = {member.span_id: member for member in members}
        for member in members:
            above = by_id.get(member.parent_id) if member.parent_id is not None else None
            if above is not None and above is not member:
                above.children.append(member)
        for member in members:
            _mark_retries(member)
        for member in members:
            if member.parent_id is None or member.parent_id not in by_id:
                spent: dict[str, int] = {}
                _walk(member, member.start, member.end, spent)
                critical_paths.append(Path(member.end - member.start, spent))
    return critical_paths


def _mark_retries(call: Member) -> None:
    """Make each attempt before the call's last one a retry, from its start to the next one's."""
    attempts = sorted((child for child in call.children if child.is_attempt), key=lambda child: child.start)
    for attempt, following in pairwise(attempts):
        attempt.label = RETRY
        attempt.children = []
        attempt.end = max(attempt.end, following.start)


def _walk(root: Member, start: int, end: int, spent: dict[str, int]) -> None:
    """Add the time [start, end) of ``root`` to ``spent``, by the label waited for. Iterative: traces may be deep."""
    stack = [(root, start, end)]
    walked: set[int] = set()
    while stack:
        member, start, end = stack.pop()
        if id(member) in walked:
            continue  # a loop of parents: each is walked once
        walked.add(id(member))
        cursor = end
        for child in sorted(member.children, key=lambda child: child.end, reverse=True):
            upto, since = min(child.end, cursor), max(child.start, start)
            if since >= upto:
                continue
            _give(spent, member.label, cursor - upto)
            stack.append((child, since, upto))
            cursor = since
        _give(spent, member.label, cursor - start)


def _give(spent: dict[str, int], label: str, length: int) -> None:
    if length > 0:
        spent[label] = spent.get(label, 0) + length


def mean(paths: Sequence[Path], figures: Mapping[str, Sequence[str]] | None = None) -> dict[str, float]:
    """Mean seconds on the critical path by label, over all paths. ``figures``: the labels of each figure."""
    figure_of = {part: name for name, parts in (figures or {}).items() for part in parts}
    sums: dict[str, int] = {}
    for path in paths:
        for label, length in path.spent.items():
            name = figure_of.get(label, label)
            sums[name] = sums.get(name, 0) + length
    return {label: length / 1e9 / len(paths) for label, length in sums.items()} if paths else {}
