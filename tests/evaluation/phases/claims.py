"""What llmtrace said of one call, read off the phases that it exports."""

from __future__ import annotations

from llmtrace.calls.result import Result
from llmtrace.phases.model import (
    DECODE,
    GATEWAY,
    KV_CACHE_HIT,
    NETWORK,
    OPAQUE,
    PREFILL,
    QUEUE,
    QUEUE_PREFILL,
    UNATTRIBUTED,
    Phase,
)
from tests.evaluation.phases.measured import Claim, Range

_MERGED = {QUEUE_PREFILL: (QUEUE, PREFILL), OPAQUE: (QUEUE, PREFILL, DECODE)}
"""The phases that a merged span can stand for."""
_SCORED = (QUEUE, PREFILL, DECODE)


def claim_of(ended: Result, *, whole_queue: bool) -> Claim:
    """What the phases of ``ended`` say.

    ``whole_queue``: the engine's own queue begins with the request's arrival, so it holds the wait for the step that
    was running and the way in; otherwise it holds neither. What is exported holds the first, unless the engine is known
    to leave it out, and not the second.
    """
    lengths: dict[str, float] = {}
    for phase in ended.phases:
        lengths[phase.name] = lengths.get(phase.name, 0.0) + phase.duration
    network = sum(lengths.get(name, 0.0) for name in (NETWORK, GATEWAY, UNATTRIBUTED))
    merged = [phase for phase in ended.phases if phase.name in _MERGED]
    apart = {name: lengths[name] for name in _SCORED if name in lengths}
    merged_of: tuple[str, ...] = ()
    for phase in merged:
        merged_of += tuple(name for name in _MERGED[phase.name] if name not in apart and name not in merged_of)
    if PREFILL in apart:
        apart[PREFILL] += lengths.get(KV_CACHE_HIT, 0.0)
        if QUEUE not in merged_of:
            apart.setdefault(QUEUE, 0.0)
    return Claim(
        network=network,
        queue=apart.get(QUEUE),
        prefill=apart.get(PREFILL),
        decode=apart.get(DECODE),
        ranges=_ranges(ended.phases, apart),
        merged=sum(phase.duration for phase in merged),
        merged_of=merged_of,
        because=next((phase.merged_because for phase in merged), None),
        engine_queue=_engine_queue(ended, apart.get(QUEUE), whole_queue),
        lower_bound=bool(getattr(ended.estimate, "lower_bound", False)),
    )


def _ranges(phases: list[Phase], apart: dict[str, float]) -> dict[str, Range]:
    """The 90 % intervals that stand on the spans, around the lengths that stand there."""
    ranges: dict[str, Range] = {}
    for phase in phases:
        if phase.name in apart and phase.uncertainty is not None:
            low = phase.uncertainty if phase.uncertainty_low is None else phase.uncertainty_low
            high = phase.uncertainty if phase.uncertainty_high is None else phase.uncertainty_high
            ranges[phase.name] = (max(0.0, apart[phase.name] - low), apart[phase.name] + high)
    if PREFILL in ranges and apart.get(QUEUE) == 0.0 and QUEUE not in ranges:
        # No queue span: whatever prefill may be too long by is what the queue may have been.
        ranges[QUEUE] = (0.0, max(0.0, apart[PREFILL] - ranges[PREFILL][0]))
    return ranges


def _engine_queue(ended: Result, queue: float | None, whole_queue: bool) -> float | None:
    """The queue as the engine counts it.

    Of the way in, half: ``llmtrace.unattributed.admission`` holds the way back too, and a client cannot tell the two
    apart.
    """
    if queue is None:
        return None
    if whole_queue:
        return queue + sum(phase.admission or 0.0 for phase in ended.phases) / 2
    if getattr(ended.estimate, "step_apart", False):
        return queue
    return max(0.0, queue - getattr(ended.estimate, "step_wait", 0.0))
