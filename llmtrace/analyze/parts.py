"""What the components of requests do, trace by trace, as numbers that two sets can be compared by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from llmtrace.analyze import critical
from llmtrace.analyze.components import MODEL, REPAIR

WHOLE: Final = "whole request"
WAITED: Final = "waited for"
EACH: Final = "each run"
RUNS: Final = "runs"
ERRORS: Final = "errors"
RETRIES: Final = "retries"
REPAIRS: Final = "repairs"
TOKENS: Final = "tokens"
COST: Final = "cost, USD"
TIMES: Final = (WAITED, EACH)
COUNTS: Final = (RUNS, ERRORS, RETRIES, REPAIRS, TOKENS, COST)
MOST: Final = 12
"""Components that are told apart, those that are waited for longest."""

Key = tuple[str, str]
"""A component and a figure of it."""
Tally = dict[str, dict[str, float]]
"""What each component did in one trace: s or a number, by its figure."""


@dataclass(slots=True)
class Parts:
    """The requests of one set of traces."""

    share: float
    """Of the traces, those that were looked at."""
    paths: list[critical.Path]
    by_trace: dict[str, Tally]
    """By trace ids; of each component what it did. ``WHOLE`` has the requests' own durations."""
    is_plain: bool
    """Whether every request is a single call and nothing else."""

    def sums(self) -> Tally:
        """What each component did in all traces; of its runs not the mean length but all of it."""
        sums: Tally = {}
        for tally in self.by_trace.values():
            for component, figures in tally.items():
                if component != WHOLE:
                    for figure, value in figures.items():
                        times = figures[RUNS] if figure == EACH else 1
                        _add(sums, component, figure, value * times)
        return sums

    @property
    def waited(self) -> dict[str, float]:
        """Seconds that all requests waited for each component."""
        return {component: figures.get(WAITED, 0.0) for component, figures in self.sums().items()}

    def arrays(self, ids: Sequence[str], keys: Sequence[Key]) -> dict[Key, Any]:
        """The figures ``keys`` by trace, in the order of ``ids``; NaN where nothing is known of it."""
        places = {trace_id: place for place, trace_id in enumerate(ids)}
        walked = [places[trace_id] for trace_id in self.by_trace]
        columns: dict[Key, Any] = {}
        for key in keys:
            columns[key] = np.full(len(ids), np.nan)
            if key[1] != EACH:
                columns[key][walked] = 0.0
        for place, tally in zip(walked, self.by_trace.values(), strict=True):
            for component, figures in tally.items():
                for figure, value in figures.items():
                    column = columns.get((component, figure))
                    if column is not None:
                        column[place] = value
        return columns


def of(requests: Sequence[critical.Request], share: float) -> Parts:
    """Walk all requests."""
    paths = [critical.path(request.root) for request in requests]
    by_trace: dict[str, Tally] = {}
    for request, path in zip(requests, paths, strict=True):
        tally = by_trace.setdefault(request.trace_id, {})
        _add(tally, WHOLE, WAITED, path.whole / 1e9)
        for label, length in path.spent.items():
            _add(tally, label.component, WAITED, length / 1e9)
        _count(request.root, tally)
    for tally in by_trace.values():
        for figures in tally.values():
            if EACH in figures:
                figures[EACH] /= figures[RUNS]
    return Parts(share, paths, by_trace, all(request.root.call is not None for request in requests))


def _count(root: critical.Member, tally: Tally) -> None:
    stack = [root]
    while stack:
        member = stack.pop()
        stack.extend(member.children)
        component = member.label.component
        if member.is_run:
            _add(tally, component, RUNS, 1)
            _add(tally, component, EACH, (member.end - member.start) / 1e9)
            _add(tally, component, ERRORS, member.failed)
        _add(tally, component, RETRIES, member.retries)
        _add(tally, component, TOKENS, member.tokens)
        _add(tally, component, COST, member.cost)
        if member.repaired:
            _add(tally, asker(component), REPAIRS, 1)


def asker(component: str) -> str:
    """Whose answers the calls of a component repair."""
    kind, _, role = component.partition("/")
    return component if kind != REPAIR else f"{MODEL}/{role}" if role else MODEL


def _add(tally: Tally, component: str, figure: str, value: float) -> None:
    if value:
        figures = tally.setdefault(component, {})
        figures[figure] = figures.get(figure, 0) + value


def largest(*sides: Parts) -> list[str]:
    """The components of the sides, those that are waited for longest first; at most ``MOST``."""
    means = [{name: total / len(side.by_trace) for name, total in side.waited.items()} for side in sides]
    names = {name for each in means for name in each}
    return sorted(names, key=lambda name: (-sum(each.get(name, 0) for each in means), name))[:MOST]
