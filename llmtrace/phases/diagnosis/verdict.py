"""The causes' names, and one verdict as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PREFILL_SURGE: Final = "prefill_surge"
COLD_KV_CACHE: Final = "cold_kv_cache"
QUEUEING: Final = "queueing"
NOISY_NEIGHBOR: Final = "noisy_neighbor"
ROUTE_CHANGE: Final = "route_change"
NETWORK: Final = "network"
SLOW_CONSUMER: Final = "slow_consumer"
RETRY_STORM: Final = "retry_storm"
MODEL_SWAP: Final = "model_swap"
REPETITION_LOOP: Final = "repetition_loop"
BUFFERED_STREAM: Final = "buffered_stream"

CAUSES: Final = (
    PREFILL_SURGE,
    COLD_KV_CACHE,
    QUEUEING,
    NOISY_NEIGHBOR,
    ROUTE_CHANGE,
    NETWORK,
    SLOW_CONSUMER,
    RETRY_STORM,
    MODEL_SWAP,
    REPETITION_LOOP,
    BUFFERED_STREAM,
)


@dataclass(slots=True)
class Verdict:
    """One cause of one call, with its evidence. Times in seconds."""

    cause: str
    confidence: float
    """0 to 1: how far beyond the threshold the evidence lies, not a probability."""
    quantity: str
    """What was judged."""
    observed: float | str
    expected: float | str | None = None
    """What the route's history says it should have been."""
    excess: float | None = None
    """The time that the cause added, s."""
    per_token: float | None = None
    """What each token beyond the usual ones cost, s."""
    reason: str | None = None
    history: int = 0
    """Calls that it was compared with."""


def sure(score: float) -> float:
    """A confidence from a score, which is the distance from the usual by the distance of the threshold: 1 -> 0.5."""
    return min(0.99, 1 - 0.5 / max(1.0, score))
