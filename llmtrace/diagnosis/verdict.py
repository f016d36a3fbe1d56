"""The causes' names, and one verdict as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log
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
COLD_SCHEMA: Final = "cold_schema"
COLD_MODEL: Final = "cold_model"

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
"""The causes that are judged by what the client sees."""
TOLD_CAUSES: Final = (COLD_SCHEMA, COLD_MODEL)
"""And those that only whoever runs the model can tell."""

LATENESS: Final = "lateness"
"""The quantity of an answer in one piece that came late, where it does not show whether it waited."""


@dataclass(slots=True)
class Verdict:
    """One cause of one call, with its evidence. Times in seconds."""

    cause: str
    score: float
    """How far the evidence goes beyond what it takes to be told, by that: 1 where it just reaches it."""
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
    told: bool = False
    """Whether the provider itself names the cause."""
    confidence: float = 0.0
    """0 to 1: how often verdicts with such evidence are right, where one call in 200 has a cause."""


SURE: Final[dict[str, tuple[float, float, float]]] = {
    BUFFERED_STREAM: (0.43, 3.66, 1.61),
    COLD_KV_CACHE: (0.41, 2.67, 1.42),
    MODEL_SWAP: (0.35, 3.03, 1.4),
    NETWORK: (-3.18, 5.92, 2.02),
    NOISY_NEIGHBOR: (-2.64, 4.97, 0.79),
    PREFILL_SURGE: (0.59, 5.27, 0.41),
    QUEUEING: (-2.19, 2.16, 0.58),
    REPETITION_LOOP: (0.45, 3.17, 1.54),
    RETRY_STORM: (1.58, 3.27, 1.81),
    ROUTE_CHANGE: (2.34, 1.83, 1.7),
    SLOW_CONSUMER: (0.34, 3.04, 1.43),
    LATENESS: (0.3, 0.0, 0.0),
}
"""Base, weight of the score's logarithm, weight of each call lately: fitted by ``make diagnose-eval ARGS=--fit`` to
simulated calls and to 5,647 kept ones of real servers, which count alike, weighted as if one call in 200 had a cause. A
lone verdict on the network or a queue is mostly wrong on a busy machine, a row of them is not. Of an answer in one
piece nobody can tell whether it waited: a little more than half, since waits are commoner."""
_MOST: Final = 0.99
_MOST_SCORE: Final = 8.0
_MOST_CALLS: Final = 3


def sure(verdict: Verdict, lately: int) -> float:
    """The confidence: the probability that the cause is what was wrong, by a logistic regression on the score's
    logarithm and on ``lately``, the number of the route's last eight calls that the same cause was named in."""
    if verdict.told:
        return _MOST
    return confidence(SURE, LATENESS if verdict.quantity == LATENESS else verdict.cause, verdict.score, lately)


def confidence(constants: Mapping[str, tuple[float, float, float]], key: str, score: float, lately: int) -> float:
    """The same by any ``constants``. ``key``: the cause, or ``LATENESS``."""
    base, by_score, by_call = constants[key]
    power = base + by_score * log(min(max(score, 1.0), _MOST_SCORE)) + by_call * min(lately, _MOST_CALLS)
    return min(_MOST, 1 / (1 + exp(-power)))
