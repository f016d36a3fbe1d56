"""The arithmetic of the report: errors, coverage, refusals. All durations in seconds, all shares as fractions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.evaluation.common.quantiles import mean, quantile
from tests.evaluation.phases.measured import Claim, Measured

PHASES = ("queue", "prefill", "decode", "network")
QUEUED = 0.1
"""A call is queued whose true queue is more than this share of its time to first token."""
WRONG = 0.15
"""A split that misses by more than this share of the time to first token would have been wrong to give."""

Pairs = Sequence[tuple[Measured, Claim]]


@dataclass(frozen=True, slots=True)
class Errors:
    """Of one phase over some calls."""

    calls: int
    truth: float
    """Mean true length, s."""
    bias: float
    """Mean of claim - truth, s."""
    median: float
    p90: float
    median_share: float
    """Of the call's own time to first token."""
    p90_share: float
    mean_share: float
    """Mean |error| over mean time to first token: the figure that bars are set on."""
    mean_relative: float
    """Mean |error| over mean truth."""


def errors(pairs: Pairs, phase: str) -> Errors | None:
    """Errors of ``phase`` over the calls where both sides have it; None where there is none."""
    rows = [
        (claimed - true, true, call.first)
        for call, claim in pairs
        if (claimed := getattr(claim, phase)) is not None and (true := getattr(call.truth, phase)) is not None
    ]
    if not rows:
        return None
    off = [abs(error) for error, _, _ in rows]
    shares = [abs(error) / first for error, _, first in rows]
    truth = mean(true for _, true, _ in rows)
    return Errors(
        calls=len(rows),
        truth=truth,
        bias=mean(error for error, _, _ in rows),
        median=quantile(off, 0.5),
        p90=quantile(off, 0.9),
        median_share=quantile(shares, 0.5),
        p90_share=quantile(shares, 0.9),
        mean_share=mean(off) / mean(first for _, _, first in rows),
        mean_relative=mean(off) / truth if truth > 0 else float("nan"),
    )


def is_queued(call: Measured) -> bool:
    """Whether a good part of its wait truly was a queue."""
    return call.truth.queue is not None and call.truth.queue > QUEUED * call.first


def queued(pairs: Pairs) -> tuple[int, float]:
    """How many calls truly queued (and were split), and the median |error| / truth of their queue."""
    relative = [
        abs(claim.queue - call.truth.queue) / call.truth.queue
        for call, claim in pairs
        if claim.queue is not None and call.truth.queue and is_queued(call)
    ]
    return len(relative), quantile(relative, 0.5)


def false_queue(pairs: Pairs) -> tuple[int, float]:
    """How many calls truly did not queue, and the share of them that were said to (over 10 % of their TTFT)."""
    said = [
        claim.queue > QUEUED * call.first
        for call, claim in pairs
        if claim.queue is not None and call.truth.queue is not None and not is_queued(call)
    ]
    return len(said), mean(map(float, said))


@dataclass(frozen=True, slots=True)
class Coverage:
    """Of the 90 % interval of one phase."""

    calls: int
    inside: float
    """Share of calls whose truth lay inside."""
    width: float
    """Mean full width over mean time to first token."""


def coverage(pairs: Pairs, phase: str) -> Coverage | None:
    """How often the truth lay inside the interval, and how wide that was."""
    rows: list[tuple[bool, float, float]] = []
    for call, claim in pairs:
        claimed, half = getattr(claim, phase), getattr(claim, f"{phase}_half")
        true = getattr(call.truth, phase)
        if claimed is None or half is None or true is None:
            continue
        low = max(0.0, claimed - half)
        rows.append((low <= true <= claimed + half, claimed + half - low, call.first))
    if not rows:
        return None
    return Coverage(
        calls=len(rows),
        inside=mean(float(inside) for inside, _, _ in rows),
        width=mean(width for _, width, _ in rows) / mean(first for _, _, first in rows),
    )


@dataclass(frozen=True, slots=True)
class Refusals:
    """Calls whose split was declared unidentifiable."""

    calls: int
    share: float
    right: float
    """Share of the refusals where the plain envelope would have been off by more than 15 % of the TTFT."""
    bounds: float
    """Share of the calls that were split whose queue was given as a lower bound only."""


def refusals(pairs: Pairs, plain: Sequence[Claim]) -> Refusals:
    """``plain``: the envelope's claims for the same calls."""
    refused: list[float] = []
    for (call, claim), simple in zip(pairs, plain, strict=True):
        if not claim.split and call.truth.queue is not None and simple.queue is not None:
            refused.append(float(abs(simple.queue - call.truth.queue) > WRONG * call.first))
    total = sum(1 for _, claim in pairs if not claim.split)
    split = [float(claim.lower_bound) for _, claim in pairs if claim.split]
    return Refusals(len(pairs), total / len(pairs) if pairs else 0.0, mean(refused), mean(split))


def rest(calls: Iterable[Measured]) -> tuple[float, float]:
    """What the engine's queue and prefill leave of the TTFT: its median in s, and its mean over the mean TTFT."""
    found = [(call.first - (call.truth.queue or 0.0) - (call.truth.prefill or 0.0), call.first) for call in calls]
    if not found:
        return float("nan"), float("nan")
    return quantile((left for left, _ in found), 0.5), mean(left for left, _ in found) / mean(f for _, f in found)
