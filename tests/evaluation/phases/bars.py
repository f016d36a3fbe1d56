"""What the figures are held against, and whether they meet it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tests.evaluation.common.bars import Bar
from tests.evaluation.phases import figures
from tests.evaluation.phases.figures import Pairs
from tests.evaluation.phases.methods import LLMTRACE

MODERATE, HIGH = 0.08, 0.15
"""Mean |error| of queue and of prefill over the mean TTFT, up to load 0.6 and at 0.9."""
QUEUED = 0.25
ENVELOPE = 0.5
BASELINE = 0.5
DECODE = 0.02
COVERED = (0.85, 0.95)
HITS, CLAIMS = 0.97, 0.05
UPDATE_US, ROUTE_BYTES = 20.0, 8192.0
"""Of a call on the caller's thread; of a route."""


def of_engine(title: str, by_load: dict[float, dict[str, Pairs]], *, has_queue: bool) -> list[Bar]:
    """The bars of one engine with one number of slots; ``by_load``: load -> method -> calls with claims."""
    found: list[Bar] = []
    moderate = {load: methods for load, methods in by_load.items() if load <= 0.6}
    high = {load: methods for load, methods in by_load.items() if load > 0.6}
    for name, part, limit in (("load <= 0.6", moderate, MODERATE), ("load 0.9", high, HIGH)):
        pairs = _joined(part, LLMTRACE)
        if not pairs:
            continue
        for phase in ("queue", "prefill") if has_queue else ("prefill",):
            error = figures.errors(pairs, phase)
            value, calls = (error.mean_share, error.calls) if error else (math.nan, 0)
            found.append(Bar(f"{title}, {name}: {phase}", value, most=limit, calls=calls))
    every = {method: _joined(by_load, method) for method in _methods(by_load)}
    mine = every.get(LLMTRACE, [])
    if has_queue:
        calls, relative = figures.queued(mine)
        found.append(Bar(f"{title}: queued calls, median relative error", relative, most=QUEUED, calls=calls))
        found += _against(title, every)
    decode = figures.errors(mine, "decode")
    if decode is not None:
        found.append(Bar(f"{title}: decode, of decode", decode.mean_relative, most=DECODE, calls=decode.calls))
    for phase in ("queue", "prefill") if has_queue else ("prefill",):
        inside = figures.coverage(mine, phase)
        if inside is not None:
            low, high = COVERED
            found.append(Bar(f"{title}: 90 % interval of {phase} covers", inside.inside, low, high, calls=inside.calls))
    return found


def _against(title: str, every: dict[str, Pairs]) -> list[Bar]:
    """Against the simpler methods, on the calls that llmtrace split: its error over theirs."""
    mine = every[LLMTRACE]
    found: list[Bar] = []
    for method, theirs in every.items():
        if method == LLMTRACE:
            continue
        same = [(call, claim) for (call, claim), (_, own) in zip(theirs, mine, strict=True) if own.split]
        own = [(call, claim) for call, claim in mine if claim.split]
        if method == "envelope":
            ratio = _ratio([figures.errors(own, "queue")], [figures.errors(same, "queue")])
            found.append(
                Bar(f"{title}: error of queue, to that of envelope", ratio, most=ENVELOPE, calls=len(own), unit="x")
            )
        ratio = _ratio(
            [figures.errors(own, phase) for phase in ("queue", "prefill")],
            [figures.errors(same, phase) for phase in ("queue", "prefill")],
        )
        what = f"{title}: error of queue + prefill, to that of {method}"
        found.append(Bar(what, ratio, most=BASELINE, calls=len(own), unit="x"))
    return found


def _ratio(own: Sequence[figures.Errors | None], theirs: Sequence[figures.Errors | None]) -> float:
    if any(error is None for error in (*own, *theirs)):
        return math.nan
    total = sum(error.mean_share for error in theirs if error)
    return sum(error.mean_share for error in own if error) / total if total > 0 else math.nan


def _methods(by_load: dict[float, dict[str, Pairs]]) -> list[str]:
    return list(dict.fromkeys(method for methods in by_load.values() for method in methods))


def _joined(by_load: dict[float, dict[str, Pairs]], method: str) -> Pairs:
    return [pair for methods in by_load.values() for pair in methods.get(method, [])]
