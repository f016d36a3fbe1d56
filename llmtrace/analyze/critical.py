"""The critical path of a request, and its length if some parts of it took less time.

A request is a tree of spans. What begins after another one beside it has ended is taken to have waited for it; what
lies between is the work of the span above. From these two rules each span's end follows from those that it waited for,
and the critical path is what the end waited for in turn: its parts add up to the request's duration. With lengths
changed the same rules give the new end. A branch that was hidden beside a longer one comes to light then.

A retry is all that would be gone if the call's first attempt had answered: each attempt before the last, with whatever
lies beneath it, and the wait after it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Any, Final, NamedTuple

from llmtrace.analyze.components import ATTEMPT, MODEL, Place, is_of, place

RETRY: Final = "retry"
CALL: Final = "call"
OVERLAP_NS: Final = 10_000
"""Spans that overlap by less follow each other: some stores keep whole microseconds, of starts and of lengths."""

COLUMNS: Final = (
    "trace_id", "span_id", "parent_id", "start_ns", "end_ns", "phase", "own_kind", "own", "component", "task_name",
    "failed", "attempts", "repaired", "tokens", "cost",
)  # fmt: skip
"""The columns that ``requests`` reads of each span, in this order."""


class Label(NamedTuple):
    """What a moment counts for: a component, and of a call the phase (``call`` where it has none, ``retry``)."""

    component: str
    part: str

    def is_of(self, asked: str) -> bool:
        """Whether this is the component or the phase ``asked`` for, or of its kind."""
        return self.part == asked or is_of(self.component, asked)


_NONE: Final = Label("", "")


@dataclass(slots=True)
class Member:
    """One span of a trace."""

    span_id: str
    parent_id: str | None
    start: int
    end: int
    phase: str | None
    kind: str
    own: str
    call: str | None
    task: str | None
    failed: int = 0
    """1 if it did; not every engine hands out booleans."""
    attempts: int = 1
    repaired: int = 0
    """1 where it asked again because an answer did not pass a check."""
    tokens: int = 0
    cost: float = 0.0
    children: list[Member] = field(default_factory=list["Member"])
    label: Label = _NONE
    is_run: bool = False
    """Whether it is a run of its component, and no part of one above it."""
    retries: int = 0
    """Further tries that its failure or its attempts brought about."""


@dataclass(slots=True)
class Request:
    """A tree of spans to walk."""

    trace_id: str
    root: Member
    name: str = ""
    """The task's, if it is one."""


@dataclass(slots=True)
class Path:
    """A request's critical path: nanoseconds by label, and the whole duration in nanoseconds."""

    whole: float
    spent: dict[Label, float]
    of_asked: float = 0
    """Nanoseconds of it in the parts that a change was asked of, with all that lies beneath them."""


def requests(rows: Iterable[Sequence[Any]], by_task: bool = False) -> list[Request]:
    """The requests of a table, from rows of ``COLUMNS`` in which a trace's spans stand together.

    A span whose parent is missing is a root. ``by_task``: in traces that have tasks, one request for each task.
    """
    trees: list[Request] = []
    for trace_id, trace in groupby(rows, key=lambda row: row[0]):
        members = [Member(*row[1:]) for row in trace]
        by_id = {member.span_id: member for member in members}
        roots: list[Member] = []
        for member in members:
            member.end = max(member.start, member.end)
            above = by_id.get(member.parent_id) if member.parent_id is not None else None
            if above is None:
                roots.append(member)
            elif above is not member:
                above.children.append(member)
        for root in roots:
            _label(root)
        tasks = [member for member in members if member.task is not None and member.label.component] if by_task else []
        trees += [Request(trace_id, member, member.task or "") for member in tasks or roots]
    return trees


def _label(root: Member) -> None:
    """Say of each span beneath ``root`` what it is a part of."""
    stack: list[tuple[Member, Place | None]] = [(root, None)]
    while stack:
        member, above = stack.pop()
        here = place(member.kind, member.own, member.call, above)
        is_other = above is None or here.component != above.component
        member.is_run = is_other and (member.call is not None or here.kind != MODEL)
        part = here.component
        if here.kind == MODEL:
            part = member.phase or (member.label.part if member.label.part == RETRY else CALL)
        member.label = Label(here.component, part)
        if member.children:
            _mark_retries(member)
            stack.extend((child, here) for child in member.children)
    _count_repeats(root)


def _mark_retries(call: Member) -> None:
    """Make each attempt before the call's last one a retry, from its start to the next one's."""
    attempts = sorted((child for child in call.children if child.kind == ATTEMPT), key=lambda child: child.start)
    for attempt, following in pairwise(attempts):
        attempt.label = Label("", RETRY)
        attempt.children = []
        attempt.end = max(attempt.end, following.start)


def _count_repeats(root: Member) -> None:
    """Count the tries again: a call's own attempts, and what failed and was followed by the same beside it."""
    stack = [root]
    while stack:
        member = stack.pop()
        stack.extend(member.children)
        member.retries += max(0, member.attempts - 1)
        runs = [child for child in member.children if child.is_run]
        last: dict[str, int] = {}
        for child in runs:
            last[child.label.component] = max(child.start, last.get(child.label.component, 0))
        for child in runs:
            if child.failed and last[child.label.component] >= child.end:
                child.retries += 1


# The way from the end to the beginning


@dataclass(slots=True)
class _Node:
    """A span within the window that counts of it, with the times that follow from what it waited for."""

    member: Member
    start: int
    end: int
    factor: float = 1
    changed: frozenset[str] = frozenset()
    """The changes that hold already for what lies above."""
    children: list[_Node] = field(default_factory=list["_Node"])
    length: float = 0
    done: float = 0
    """When it ends, after the start of the span above."""
    waited: _Node | None = None
    """What it waited for, beside it."""
    last: _Node | None = None
    """Which of its children its end waited for."""

    def open(self, factors: Mapping[str, float]) -> None:
        """Find the children and the windows of them that count."""
        windows = [
            (max(child.start, self.start), min(child.end, self.end), child) for child in self.member.children
        ]  # fmt: skip
        windows = [window for window in windows if window[0] < window[1]]
        if len(windows) > 1:
            windows.sort(key=lambda window: window[:2])
            starts = [window[0] for window in windows]
            for place, (start, end, child) in enumerate(windows):
                following = bisect_right(starts, max(start, end - OVERLAP_NS))
                if following < len(starts) and starts[following] < end:
                    windows[place] = (start, starts[following], child)
        for start, end, child in windows:
            node = _Node(child, start, end, self.factor, self.changed)
            if factors:
                node.change(factors)
            self.children.append(node)

    def change(self, factors: Mapping[str, float]) -> None:
        """Take the changes that are asked of this span's component; each holds once for all that lies beneath."""
        for asked, factor in factors.items():
            if asked not in self.changed and self.member.label.is_of(asked):
                self.changed |= {asked}
                self.factor *= factor

    def settle(self) -> None:
        """Work out the length and each child's end, from the children's lengths."""
        waiting = sorted(self.children, key=lambda child: child.end)
        ended, moment = 0, self.start
        latest: float = 0
        last: _Node | None = None
        for child in self.children:
            while waiting[ended].end <= child.start:
                if waiting[ended].done >= latest:
                    last, latest = waiting[ended], waiting[ended].done
                moment = waiting[ended].end
                ended += 1
            child.waited = last
            child.done = latest + self._work(child.start - moment) + child.length
        for child in waiting[ended:]:
            if child.done >= latest:
                last, latest = child, child.done
            moment = child.end
        self.last = last
        self.length = latest + self._work(self.end - moment)

    def _work(self, length: int) -> float:
        return length if self.factor == 1 else length * self.factor


def path(root: Member, factors: Mapping[str, float] | None = None) -> Path:
    """The critical path of ``root``.

    ``factors``: components, phases or kinds that take so many times as long, with all that lies beneath them (0: no
    time at all).
    """
    asked = {} if factors is None else factors
    first = _Node(root, root.start, root.end)
    first.change(asked)
    nodes = [first]
    for node in nodes:
        if node.member.children:
            node.open(asked)
            nodes.extend(node.children)
    for node in reversed(nodes):
        node.settle()
    spent: dict[Label, float] = {}
    of_asked: float = 0
    stack = [first]
    while stack:
        node = stack.pop()
        own = node.length
        child = node.last
        while child is not None:
            own -= child.length
            stack.append(child)
            child = child.waited
        if own > 0:
            spent[node.member.label] = spent.get(node.member.label, 0) + own
            of_asked += own if node.changed else 0
    return Path(first.length, spent, of_asked)


def mean(paths: Sequence[Path], name_of: Callable[[Label], str]) -> dict[str, float]:
    """Mean seconds on the critical path by the names of the labels, over all paths."""
    sums: dict[str, float] = {}
    for one in paths:
        for label, length in one.spent.items():
            name = name_of(label)
            sums[name] = sums.get(name, 0) + length
    return {name: length / 1e9 / len(paths) for name, length in sums.items()} if paths else {}
