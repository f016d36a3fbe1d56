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

LEAST_S: Final = 0.02
"""No cause is named for less than this much time, s."""
CHANGED_FOR: Final = 16
"""A change is told for so many calls."""

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
    """0 to 1: how often verdicts with such evidence are right, where one call in ten or so has a cause."""
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


WRONG: Final = {NETWORK: 0.5, QUEUEING: 0.2, NOISY_NEIGHBOR: 0.15}
"""The share of verdicts that turn out wrong where the evidence just reaches its threshold, by what was injected and
what was named (docs/diagnosis.md, "Confidence"): what is on the way is the hardest to tell from what waits."""
_WRONG_ELSE: Final = 0.1
_MOST: Final = 0.99


def sure(cause: str, score: float, told: bool = False) -> float:
    """The confidence, from the score: the distance from the usual by the threshold's. Errors fall with it.

    ``told``: the provider itself names the cause.
    """
    return _MOST if told else min(_MOST, 1 - WRONG.get(cause, _WRONG_ELSE) / max(1.0, score))
