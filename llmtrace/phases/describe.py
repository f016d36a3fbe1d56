"""What is said of phases that lie already: tokens, seconds per token, the sides of an interval, decode's parts."""

from __future__ import annotations

from collections.abc import Sequence

from llmtrace.observe.answer import ServerTimings, Usage
from llmtrace.phases.model import (
    CLIENT,
    DECODE,
    ESTIMATE,
    KV_CACHE_HIT,
    PREFILL,
    QUEUE_PREFILL,
    UNATTRIBUTED,
    Estimate,
    Part,
    Phase,
)
from llmtrace.phases.observation import Observation
from llmtrace.phases.stagger import stagger_parts


def describe(
    seen: Observation, server: ServerTimings | None, phases: Sequence[Phase], estimate: Estimate | None
) -> None:
    """Fill in the fields of the phases beyond their times: tokens, time per token, intervals, parts of decode."""
    usage = seen.usage or Usage()
    for phase in phases:
        if phase.name == DECODE:
            phase.tokens = seen.shown_tokens if phase.source == CLIENT else usage.output_tokens
            if phase.tokens and phase.tokens > 1:
                phase.per_token = phase.duration / (phase.tokens - 1)
            if phase.source == CLIENT and server is not None:
                phase.server_duration = server.decode
            _decode_parts(seen, phase)
        elif phase.name in (PREFILL, QUEUE_PREFILL):
            phase.tokens = seen.uncached_tokens
            if phase.tokens and phase.name == PREFILL:
                phase.per_token = phase.duration / phase.tokens
        elif phase.name == KV_CACHE_HIT:
            phase.tokens = usage.cached_tokens or (server.cached_tokens if server is not None else None)
            if phase.tokens and phase.source != ESTIMATE:
                phase.per_token = phase.duration / phase.tokens
            if phase.tokens and estimate is not None:
                phase.time_saved = estimate.per_token * phase.tokens
        elif phase.name == UNATTRIBUTED and phase.admission is not None:
            phase.admission = min(phase.admission, phase.duration)
        if phase.uncertainty is not None:
            _sides(phase, phase.uncertainty)


def _sides(phase: Phase, half: float) -> None:
    """Set both sides of a phase's interval; ``half``: its half width. The lower side is no longer than the phase."""
    low = half if phase.uncertainty_low is None else phase.uncertainty_low
    high = half if phase.uncertainty_high is None else phase.uncertainty_high
    if low > (length := phase.duration):
        low = length
    phase.uncertainty = max(low, high)
    phase.uncertainty_low, phase.uncertainty_high = (None, None) if low == high else (low, high)


def _decode_parts(seen: Observation, decode: Phase) -> None:
    if seen.first_reasoning is None:
        return
    turn = decode.end if seen.first_output is None else max(decode.start, min(seen.first_output, decode.end))
    thinking = Part("reasoning", decode.start, turn)
    decode.parts = (thinking,) if seen.first_output is None else (thinking, Part("output", turn, decode.end))
    stagger_parts(decode)
