"""The simpler methods that llmtrace is held against, on the same calls.

All are given every call of the run at once, which flatters them: llmtrace has only the calls before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tests.evaluation.phases.measured import Claim, Measured

LLMTRACE = "llmtrace"
QUANTILE = 0.1
_STEPS = 60

Method = Callable[[Sequence[Measured], bool], list[Claim]]
"""Calls of one route, and whether the engine's headers come on admission -> one claim per call."""


def all_prefill(calls: Sequence[Measured], admitted: bool) -> list[Claim]:
    """All of the time to first token, less network, is prefill."""
    return [Claim(call.arrived, 0.0, call.first - call.arrived) for call in calls]


def by_headers(calls: Sequence[Measured], admitted: bool) -> list[Claim]:
    """Queue = time to headers less one round trip; prefill = headers to first token."""
    found: list[Claim] = []
    for call in calls:
        headers = min(call.headers if call.headers is not None else call.arrived, call.first)
        network = min(headers, (call.sent or 0.0) + (call.rtt or 0.0))
        found.append(Claim(network, headers - network, call.first - headers))
    return found


def least_squares(calls: Sequence[Measured], admitted: bool) -> list[Claim]:
    """Prefill is the ordinary least-squares curve 1, u, u² of the wait; what is above it is queue."""
    waits, rows = _regression(calls, admitted)
    found, *_ = np.linalg.lstsq(rows, waits, rcond=None)
    return _above(calls, waits, rows @ found)


def envelope(calls: Sequence[Measured], admitted: bool) -> list[Claim]:
    """Prefill is the 10 % quantile curve 1, u, u² of the wait; what is above it is queue."""
    waits, rows = _regression(calls, admitted)
    scale = np.abs(rows).max(axis=0)
    unit = rows / np.where(scale > 0, scale, 1.0)
    weights = np.ones(len(waits))
    floor = max(1e-9, float(waits.max()) * 1e-5)
    found = np.zeros(unit.shape[1])
    for _ in range(_STEPS):  # iteratively reweighted least squares on the check loss
        root = np.sqrt(weights)[:, None]
        found, *_ = np.linalg.lstsq(unit * root, waits * root[:, 0], rcond=None)
        off = waits - unit @ found
        weights = np.where(off > 0, QUANTILE, 1 - QUANTILE) / np.maximum(np.abs(off), floor)
    return _above(calls, waits, unit @ found)


METHODS: dict[str, Method] = {
    "all prefill": all_prefill,
    "by headers": by_headers,
    "least squares": least_squares,
    "envelope": envelope,
}


def split_all(calls: Sequence[Measured], admitted: bool) -> dict[str, list[Claim]]:
    """Every method's claims, llmtrace's among them, in the order of ``calls``."""
    return {LLMTRACE: [call.claim for call in calls]} | {
        name: method(calls, admitted) for name, method in METHODS.items()
    }


def _begin(call: Measured, admitted: bool) -> float:
    return min(call.headers, call.first) if admitted and call.headers is not None else call.arrived


def _regression(calls: Sequence[Measured], admitted: bool) -> tuple[np.ndarray, np.ndarray]:
    waits = np.array([call.first - _begin(call, admitted) for call in calls])
    tokens = np.array([float(call.uncached) for call in calls])
    return waits, np.column_stack([np.ones(len(calls)), tokens, tokens * tokens / 1000])


def _above(calls: Sequence[Measured], waits: np.ndarray, curve: np.ndarray) -> list[Claim]:
    found: list[Claim] = []
    for call, wait, cost in zip(calls, waits, curve, strict=True):
        prefill = float(min(max(cost, 0.0), wait))
        found.append(Claim(float(call.first - wait), float(wait - prefill), prefill))
    return found
