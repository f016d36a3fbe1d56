"""The blind estimate graded: what it says of a phase, beside what the engine itself told of it."""

from __future__ import annotations

from collections.abc import Sequence

from llmtrace.phases.model import DEVICE, KV_CACHE_HIT, PREFILL, QUEUE, SERVER, Blind, Estimate, Phase

_TOLD = (SERVER, DEVICE)


def grade(phases: Sequence[Phase], estimate: Estimate, late: float = 0.0) -> None:
    """Put the estimate's figures beside each of a call's ``phases`` that the engine reported itself.

    The estimate is as it would have been exported without the engine's word; ``late``: half width of the interval in
    which the first token came, s, which is then in the estimate's too. Its prefill takes in a cache hit, so it is
    compared with the engine's prefill and its cache hit together.
    """
    hit = sum(phase.duration for phase in phases if phase.name == KV_CACHE_HIT and phase.source in _TOLD)
    for phase in phases:
        if phase.source not in _TOLD:
            continue
        if phase.name == QUEUE:
            length, sides, reported = estimate.queued, estimate.queue_sides(), phase.duration
        elif phase.name == PREFILL:
            length, sides, reported = estimate.prefill, estimate.prefill_sides(), phase.duration + hit
        else:
            continue
        low, high = sides
        phase.blind = Blind(length, min(low + late, length), high + late, length - reported)
