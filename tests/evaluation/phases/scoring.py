"""The arithmetic of the page: errors, refusals, intervals. All durations in seconds, all shares as fractions.

How a refusal counts. A merged span says how long its phases took together, and of each of them only that it lies
somewhere between nothing and the whole. Whoever needs one number for one phase can do no better than to give each an
equal part: the middle, for two. So a call whose phases were merged counts with each phase as the span's length
divided by how many it merges, and its error is that minus the truth. Not to split is therefore never cheaper than a
good split, and it is cheaper than a bad one. Merged spans have no intervals of their parts, so coverage is of the
calls that were split; the share that was not stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.evaluation.common.quantiles import mean, quantile
from tests.evaluation.phases.measured import DECODE, PREFILL, QUEUE, Claim, Measured

QUEUED = 0.1
"""A call is queued whose true queue is more than this share of its time to first token (of a whole answer: of its
total)."""
WRONG = 0.15
"""Sure and wrong: the truth lies outside the interval, and the phase is off by more than this share of the TTFT (or
total)."""

Pairs = Sequence[tuple[Measured, Claim]]


@dataclass(frozen=True, slots=True)
class Errors:
    """Of one phase over some calls, refusals counted."""

    calls: int
    truth: float
    """Mean true length, s."""
    bias: float
    """Mean of claim - truth, s."""
    share: float
    """Mean |error| over the mean TTFT (or total): the figure that bars are set on."""
    split_share: float
    """The same over the calls alone in which the phase was told apart."""
    of_itself: float
    """Median over the calls of |error| / truth."""


def errors(pairs: Pairs, phase: str) -> Errors | None:
    """Errors of ``phase`` where both sides have it, a merged span by its equal part; None where there is none."""
    return _errors(pairs, phase, lambda claim: claim.value(phase))


def engine_queue_errors(pairs: Pairs) -> Errors | None:
    """Errors of the queue by the engine's own definition; a merged span counts as it does for the exported one."""
    return _errors(pairs, QUEUE, lambda claim: claim.value(QUEUE) if claim.engine_queue is None else claim.engine_queue)


def _errors(pairs: Pairs, phase: str, value: Callable[[Claim], float | None]) -> Errors | None:
    rows = [
        (claimed - true, true, call.scale, getattr(claim, phase) is not None)
        for call, claim in pairs
        if (claimed := value(claim)) is not None and (true := getattr(call.truth, phase)) is not None
    ]
    if not rows:
        return None
    return Errors(
        calls=len(rows),
        truth=mean(true for _, true, _, _ in rows),
        bias=mean(error for error, _, _, _ in rows),
        share=_over_scale([(abs(error), scale) for error, _, scale, _ in rows]),
        split_share=_over_scale([(abs(error), scale) for error, _, scale, split in rows if split]),
        of_itself=quantile((abs(error) / true for error, true, _, _ in rows if true > 0), 0.5),
    )


def _over_scale(rows: Sequence[tuple[float, float]]) -> float:
    return mean(value for value, _ in rows) / mean(scale for _, scale in rows) if rows else float("nan")


def refused(pairs: Pairs) -> float:
    """Share of the calls whose queue and prefill were not told apart."""
    return mean(float(not claim.split) for _, claim in pairs)


def merged_error(pairs: Pairs) -> float:
    """Mean |merged span - what its phases truly took together| over the mean TTFT (or total), of the merged calls."""
    rows: list[tuple[float, float]] = []
    for call, claim in pairs:
        true = [getattr(call.truth, phase) for phase in claim.merged_of]
        if true and None not in true:
            rows.append((abs(claim.merged - sum(true)), call.scale))
    return _over_scale(rows)


def is_queued(call: Measured) -> bool:
    """Whether a good part of its wait truly was a queue."""
    return call.truth.queue is not None and call.truth.queue > QUEUED * call.scale


def queue_where_none(pairs: Pairs) -> tuple[int, float]:
    """How many split calls truly did not queue, and the mean queue that was ascribed to them over their mean TTFT."""
    rows = [
        (claim.queue, call.scale)
        for call, claim in pairs
        if claim.queue is not None and call.truth.queue is not None and not is_queued(call)
    ]
    return len(rows), _over_scale(rows)


def falsely_queued(pairs: Pairs) -> float:
    """Of the split calls that truly did not queue, the share whose interval excludes any short queue:
    its lower end is over 10 % of the TTFT."""
    rows = [
        float(claim.ranges[QUEUE][0] > QUEUED * call.scale)
        for call, claim in pairs
        if QUEUE in claim.ranges and call.truth.queue is not None and not is_queued(call)
    ]
    return mean(rows)


@dataclass(frozen=True, slots=True)
class Coverage:
    """Of the 90 % interval of one phase, over the calls that have one."""

    calls: int
    inside: float
    """Share of calls whose truth lay inside."""
    half: float
    """Mean half width, s."""
    ratio: float
    """That over the mean absolute error of the same calls."""
    width: float
    """Mean full width over mean TTFT (or total)."""


def coverage(pairs: Pairs, phase: str) -> Coverage | None:
    """How often the truth lay inside the interval that the span carries, and how wide that was."""
    return _coverage(pairs, phase, lambda claim: getattr(claim, phase))


def engine_queue_coverage(pairs: Pairs) -> Coverage | None:
    """The same for the queue by the engine's own definition: the interval is moved along with it."""
    return _coverage(pairs, QUEUE, lambda claim: claim.engine_queue)


def _coverage(pairs: Pairs, phase: str, value: Callable[[Claim], float | None]) -> Coverage | None:
    rows: list[tuple[bool, float, float, float]] = []
    for call, claim in pairs:
        claimed, own, true = value(claim), getattr(claim, phase), getattr(call.truth, phase)
        if claimed is None or own is None or true is None or phase not in claim.ranges:
            continue
        low, high = (max(0.0, end + claimed - own) for end in claim.ranges[phase])
        rows.append((low <= true <= high, (high - low) / 2, abs(claimed - true), call.scale))
    if not rows:
        return None
    half, off = mean(half for _, half, _, _ in rows), mean(off for _, _, off, _ in rows)
    return Coverage(
        calls=len(rows),
        inside=mean(float(inside) for inside, _, _, _ in rows),
        half=half,
        ratio=half / off if off > 0 else float("nan"),
        width=2 * half / mean(scale for _, _, _, scale in rows),
    )


def lower_bounds(pairs: Pairs) -> float:
    """Of the calls that were split, the share whose queue was called a lower bound."""
    return mean(float(claim.lower_bound) for _, claim in pairs if claim.split)


def network_error(pairs: Pairs) -> float:
    """Median |error|, s, of all that lies in front of the queue, where the engine tells when a request arrived."""
    return quantile(
        (abs(claim.network - call.truth.network) for call, claim in pairs if call.truth.network is not None), 0.5
    )


def rest(pairs: Pairs) -> float:
    """What the engine's own phases leave of the TTFT (or total): the way there and back, HTTP, tokenising and, where
    its queue leaves it out, the step that was running. Mean over the mean TTFT (or total)."""
    rows: list[tuple[float, float]] = []
    for call, _ in pairs:
        decode = (call.truth.decode or 0.0) if call.first is None else 0.0
        if call.truth.queue is not None and call.truth.prefill is not None:
            rows.append((call.scale - call.truth.queue - call.truth.prefill - decode, call.scale))
    return _over_scale(rows)


def sure_and_wrong(pairs: Pairs) -> float:
    """Share of all calls that were split, with a queue, prefill or decode that its interval excludes by far."""
    return mean(float(any(_wrong(call, claim, phase) for phase in (QUEUE, PREFILL, DECODE))) for call, claim in pairs)


def _wrong(call: Measured, claim: Claim, phase: str) -> bool:
    claimed, true = getattr(claim, phase), getattr(call.truth, phase)
    if claimed is None or true is None:
        return False
    low, high = claim.ranges.get(phase, (claimed, claimed))
    return not low <= true <= high and abs(claimed - true) > WRONG * call.scale
