"""The phase that a verdict is about: where its event belongs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from llmtrace.diagnosis.verdict import (
    BUFFERED_STREAM,
    COLD_KV_CACHE,
    COLD_MODEL,
    COLD_SCHEMA,
    MODEL_SWAP,
    NETWORK,
    NOISY_NEIGHBOR,
    PREFILL_SURGE,
    QUEUEING,
    REPETITION_LOOP,
    RETRY_STORM,
    ROUTE_CHANGE,
    SLOW_CONSUMER,
    Verdict,
)
from llmtrace.phases import model
from llmtrace.phases.model import DECODE, MODEL_LOAD, OPAQUE, PREFILL, QUEUE, QUEUE_PREFILL, UNATTRIBUTED, Phase

_MERGED: Final = (QUEUE_PREFILL, OPAQUE)
"""Where a phase is not told apart from others, the merged one is guilty."""
_QUEUE: Final = (QUEUE, *_MERGED)
_PREFILL: Final = (PREFILL, *_MERGED)
_DECODE: Final = (DECODE, OPAQUE)
_ON_THE_WIRE: Final = (model.NETWORK, UNATTRIBUTED, *_QUEUE)
_ON_THE_WAY: Final = (UNATTRIBUTED, *_QUEUE, model.NETWORK)

_BY_CAUSE: Final[dict[str, tuple[str, ...]]] = {
    QUEUEING: _QUEUE,
    COLD_SCHEMA: (*_QUEUE, PREFILL),
    COLD_MODEL: (MODEL_LOAD,),
    PREFILL_SURGE: _PREFILL,
    COLD_KV_CACHE: _PREFILL,
    NOISY_NEIGHBOR: _DECODE,
    NETWORK: _ON_THE_WAY,
    SLOW_CONSUMER: _DECODE,
    REPETITION_LOOP: _DECODE,
    BUFFERED_STREAM: _DECODE,
    # About the call as a whole:
    ROUTE_CHANGE: (),
    RETRY_STORM: (),
    MODEL_SWAP: (),
}
_BY_QUANTITY: Final[dict[tuple[str, str], tuple[str, ...]]] = {
    (NOISY_NEIGHBOR, "prefill"): _PREFILL,
    (NETWORK, "connection_setup"): _ON_THE_WIRE,
    (NETWORK, "round_trip"): _ON_THE_WIRE,
    (BUFFERED_STREAM, "time_to_first_token"): (OPAQUE, QUEUE_PREFILL, DECODE),
}
"""Where a cause has several quantities, and they are about different phases."""
_HALF: Final = 0.5
"""A phase on the way without room for this share of the time that the cause added is not where it was added."""


def guilty_phase(verdict: Verdict, phases: Sequence[Phase]) -> Phase | None:
    """The one of a call's ``phases`` that ``verdict`` is about; None where it is about the call as a whole (another
    model, another route, retries), or where the call has no such phase.

    Of what lies on the way, it is the first phase that had room for the time that was lost: a round trip that took
    longer than the shortest one, say, is unattributed.
    """
    wanted = _BY_QUANTITY.get((verdict.cause, verdict.quantity))
    if wanted is None:
        wanted = _BY_CAUSE.get(verdict.cause, ())
    there = [phase for name in wanted for phase in phases if phase.name == name]
    if not there:
        return None
    if verdict.cause != NETWORK or verdict.excess is None:
        return there[0]
    for phase in there:
        if phase.duration >= _HALF * verdict.excess:
            return phase
    return max(there, key=_duration)


def _duration(phase: Phase) -> float:
    return phase.duration
