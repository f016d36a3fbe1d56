"""The simpler methods that llmtrace is held against, on the same calls.

All but the last are given every call of the cell at once, which flatters them: llmtrace has only the calls before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tests.evaluation.phases.measured import Claim, Measured

LLMTRACE = "llmtrace"
ALL_PREFILL, NO_QUEUE, BY_HEADERS, LEAST_SQUARES, ENVELOPE = (
    "all prefill",
    "no queue",
    "by headers",
    "least squares",
    "envelope",
)
SO_FAR = "envelope so far"
QUANTILE = 0.1
_STEPS = 60
_FIRST_FIT, _REFIT = 12, 8
"""Calls before the first curve that knows no later ones, and between two of them."""

Calls = Sequence[Measured]
Method = Callable[[Calls, bool], list[Claim]]
"""Calls of one cell, and whether the engine's headers come on admission -> one claim per call."""


def all_prefill(calls: Calls, admitted: bool) -> list[Claim]:
    """All of the time to first token (of a whole answer: all of it), less network, is prefill."""
    return [Claim(call.arrived, 0.0, call.scale - call.arrived, _seen_decode(call)) for call in calls]


def no_queue(calls: Calls, admitted: bool) -> list[Claim]:
    """Queue is 0, prefill what the least-squares curve says; the rest is nobody's."""
    return [
        Claim(claim.network + (claim.queue or 0.0), 0.0, claim.prefill, claim.decode)
        for claim in least_squares(calls, admitted)
    ]


def by_headers(calls: Calls, admitted: bool) -> list[Claim]:
    """Queue = time to headers less one round trip; prefill = headers to first token. Of streams alone: the headers of
    a whole answer come with it."""
    claims: list[Claim] = []
    for call in calls:
        if call.first is None:
            claims.append(Claim(call.arrived, None, None))
            continue
        headers = min(call.headers if call.headers is not None else call.arrived, call.scale)
        network = min(headers, (call.sent or 0.0) + (call.rtt or 0.0))
        claims.append(Claim(network, headers - network, call.scale - headers, _seen_decode(call)))
    return claims


def least_squares(calls: Calls, admitted: bool) -> list[Claim]:
    """Prefill is the ordinary least-squares curve 1, u, u² of the wait; what is above it is queue."""
    waits, rows = _regression(calls, admitted)
    curve, *_ = np.linalg.lstsq(rows, waits, rcond=None)
    return _above(calls, waits, rows, curve)


def envelope(calls: Calls, admitted: bool) -> list[Claim]:
    """Prefill is the 10 % quantile curve 1, u, u² of the wait; what is above it is queue."""
    waits, rows = _regression(calls, admitted)
    return _above(calls, waits, rows, _lower_edge(waits, rows))


def envelope_so_far(calls: Calls, admitted: bool) -> list[Claim]:
    """The same through the calls before alone, as whoever asks at that moment has it; until there are a few of them,
    all is prefill."""
    waits, rows = _regression(calls, admitted)
    claims = all_prefill(calls[:_FIRST_FIT], admitted)
    for begin in range(_FIRST_FIT, len(calls), _REFIT):
        some = slice(begin, begin + _REFIT)
        claims += _above(calls[some], waits[some], rows[some], _lower_edge(waits[:begin], rows[:begin]))
    return claims


def _lower_edge(waits: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The 10 % quantile curve, by iteratively reweighted least squares on the check loss."""
    scale = np.abs(rows).max(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    unit = rows / scale
    weights = np.ones(len(waits))
    floor = max(1e-9, float(waits.max()) * 1e-5)
    curve = np.zeros(unit.shape[1])
    for _ in range(_STEPS):
        root = np.sqrt(weights)[:, None]
        curve, *_ = np.linalg.lstsq(unit * root, waits * root[:, 0], rcond=None)
        off = waits - unit @ curve
        weights = np.where(off > 0, QUANTILE, 1 - QUANTILE) / np.maximum(np.abs(off), floor)
    return curve / scale


METHODS: dict[str, Method] = {
    ALL_PREFILL: all_prefill,
    NO_QUEUE: no_queue,
    BY_HEADERS: by_headers,
    LEAST_SQUARES: least_squares,
    ENVELOPE: envelope,
    SO_FAR: envelope_so_far,
}


def split_all(calls: Calls, admitted: bool) -> dict[str, list[Claim]]:
    """Every method's claims, llmtrace's among them, in the order of ``calls``."""
    claims = {LLMTRACE: [call.claim for call in calls]}
    return claims | {name: method(calls, admitted) for name, method in METHODS.items()}


def _seen_decode(call: Measured) -> float:
    return 0.0 if call.first is None else call.end - call.first


def _begin(call: Measured, admitted: bool) -> float:
    headers = call.headers if admitted and call.first is not None else None
    return call.arrived if headers is None else min(headers, call.scale)


def _regression(calls: Calls, admitted: bool) -> tuple[np.ndarray, np.ndarray]:
    """The waits, and what they are regressed on; of whole answers the output tokens too, as the last column."""
    waits = np.array([call.scale - _begin(call, admitted) for call in calls])
    tokens = np.array([float(call.uncached) for call in calls])
    made = [float(call.output) if call.first is None else 0.0 for call in calls]
    columns = [np.ones(len(calls)), tokens, tokens * tokens / 1000, *([np.array(made)] if any(made) else [])]
    return waits, np.column_stack(columns)


def _above(calls: Calls, waits: np.ndarray, rows: np.ndarray, curve: np.ndarray) -> list[Claim]:
    whole = rows.shape[1] == 4
    claims: list[Claim] = []
    for call, wait, row in zip(calls, waits, rows, strict=True):
        decode = float(min(max(row[3] * curve[3], 0.0), wait)) if whole else 0.0
        prefill = float(min(max(row[:3] @ curve[:3], 0.0), wait - decode))
        queue = float(wait - decode - prefill)
        claims.append(Claim(float(call.scale - wait), queue, prefill, decode if whole else _seen_decode(call)))
    return claims
