"""How small an effect any test could find: a sequential test that knows the route and the effect exactly.

To tell a shift of ``d`` standard deviations with one false alarm in so many calls, such a test needs 2 ln(calls) / d²
calls (Lorden's bound, which the CUSUM reaches; for normal scatter).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, log

from llmtrace.diagnosis import verdict as causes
from tests.evaluation.diagnosis.traffic import Faults, Habits, Made

FALSE_EVERY = 1000
"""Calls for one false alarm."""


def needed(shift: float) -> float:
    """Calls until a shift of so many standard deviations is told, at best."""
    return 2 * log(FALSE_EVERY) / shift**2 if shift > 0 else inf


def shift(cause: str, faults: Faults, habits: Habits, calm: Sequence[Made]) -> float | None:
    """By how many standard deviations of its calm calls ``faults`` move a route's; None for what is a fact by itself.
    Scatter is taken from the middle 68 %."""
    hardware = habits.hardware

    def prefill(tokens: float) -> float:
        return hardware.fixed + hardware.per_token * tokens * (1 + hardware.bend * tokens / 10_000)

    waits = [(made.facts.wait or 0.0) - prefill(made.facts.uncached or 0) for made in calm]
    if cause == causes.QUEUEING:
        return faults.queue / _scatter(waits)
    if cause == causes.NETWORK:
        headers = [made.facts.headers or 0.0 for made in calm]
        return faults.network / _scatter(headers if habits.early_headers else waits)
    if cause == causes.COLD_KV_CACHE:
        return hardware.per_token * habits.shared / _scatter(waits)
    if cause == causes.PREFILL_SURGE:
        return log(faults.surge) / _scatter([log(1.0 + (made.facts.uncached or 0)) for made in calm])
    if cause == causes.NOISY_NEIGHBOR:
        paces = [(made.facts.decode or 0.0) / max(1, made.facts.tokens - 1) for made in calm]
        return faults.noisy * hardware.itl / _scatter(paces)
    return None


def _scatter(values: Sequence[float]) -> float:
    ordered = sorted(values)
    count = len(ordered)
    return max(1e-9, (ordered[count * 84 // 100] - ordered[count * 16 // 100]) / 2)
