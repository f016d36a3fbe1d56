"""Effects of a chosen size on calls that were simulated or recorded: what the client would have seen of them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace

from llmtrace.diagnosis.verdict import NETWORK, NOISY_NEIGHBOR, PREFILL_SURGE, QUEUEING
from tests.evaluation.phases.measured import Truth
from tests.evaluation.phases.replay import Trip

SIZES = (1.15, 1.3, 1.5, 2.0, 3.0)
"""By how many times what the cause slows gets longer: the usual time to the first token (of a whole answer the usual
total), or for slow tokens the call's own time per token."""


def usual(trips: Sequence[Trip]) -> float:
    """Median time to the first token, of whole answers the median total, s."""
    return statistics.median((trip.end if trip.first is None else trip.first) - trip.begin for trip in trips)


def per_token(trips: Sequence[Trip]) -> float:
    """Seconds that an uncached prompt token costs: the slope of the true prefill times (least squares)."""
    tokens = [float(trip.prompt - (trip.cached or 0)) for trip in trips]
    times = [trip.truth.prefill or 0.0 for trip in trips]
    return statistics.linear_regression(tokens, times).slope


def slowed(trip: Trip, cause: str, size: float, base: float, rate: float) -> Trip:
    """``trip`` with ``cause``, ``size`` times as long; ``base``: ``usual`` of its route, ``rate``: ``per_token``."""
    extra = (size - 1) * base
    if cause == QUEUEING:
        return _later(trip, extra)
    if cause == NETWORK:
        return replace(_later(trip, extra), headers=None if trip.headers is None else trip.headers + extra)
    if cause == PREFILL_SURGE:
        return replace(_later(trip, extra), prompt=trip.prompt + round(extra / rate))
    if cause == NOISY_NEIGHBOR:
        decode = trip.end - trip.first if trip.first is not None else trip.truth.decode or 0.0
        return replace(trip, end=trip.end + (size - 1) * decode)
    raise ValueError(cause)


def _later(trip: Trip, seconds: float) -> Trip:
    event = None if trip.event is None else trip.event + seconds
    first = None if trip.first is None else trip.first + seconds
    return replace(trip, event=event, first=first, end=trip.end + seconds)


def scaled(trips: Sequence[Trip], factor: float) -> list[Trip]:
    """The same calls on an engine that takes ``factor`` times as long for everything."""

    def longer(seconds: float | None) -> float | None:
        return None if seconds is None else factor * seconds

    return [
        replace(
            trip,
            begin=factor * trip.begin,
            sent=factor * trip.sent,
            headers=longer(trip.headers),
            event=longer(trip.event),
            first=longer(trip.first),
            end=factor * trip.end,
            truth=Truth(
                *(
                    longer(part)
                    for part in (trip.truth.queue, trip.truth.prefill, trip.truth.decode, trip.truth.network)
                )
            ),
        )
        for trip in trips
    ]
