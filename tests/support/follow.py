"""Plays calls whose times are known through the baselines, in the order in which a client would have seen it all."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmtrace.estimate.baselines import Baselines
from llmtrace.estimate.sample import Sample
from llmtrace.phases.model import Estimate

_ZERO = 10**12


@dataclass
class Times:
    """One call as its client saw it. Seconds on one clock."""

    sent: float
    headers: float | None
    event: float | None
    first: float
    end: float
    uncached: int
    cached: int = 0
    tokens: int = 0


def _ns(seconds: float | None) -> int | None:
    return None if seconds is None else _ZERO + round(seconds * 1e9)


def follow(
    calls: Sequence[Times], baselines: Baselines | None = None, key: Hashable = "route"
) -> list[Estimate | None]:
    """The estimate of each call, made at its end from nothing but what had been seen by then."""
    baselines = Baselines(background=False) if baselines is None else baselines
    moments: list[tuple[int, int, int]] = []
    for i, call in enumerate(calls):
        for order, seconds in ((2, call.sent), (1, call.first), (0, call.end)):
            moments.append((_ns(seconds) or 0, order, i))
    moments.sort()
    all_in_flight: dict[int, Any] = {}
    estimates_made: list[Estimate | None] = [None] * len(calls)
    for at, order, i in moments:
        call = calls[i]
        if order == 2:
            all_in_flight[i] = baselines.begin(key, at, 4 * (call.uncached + call.cached))
        elif order == 1:
            all_in_flight[i].first_token_came(at)
        else:
            sample = Sample(
                start=_ns(call.sent) or 0,
                first=_ns(call.first) or 0,
                end=at,
                uncached=call.uncached,
                cached=call.cached,
                headers=_ns(call.headers),
                event=_ns(call.event),
                tokens=call.tokens,
            )
            estimate = baselines.end(key, all_in_flight.pop(i), at, sample)
            estimates_made[i] = estimate if isinstance(estimate, Estimate) else None
    return estimates_made


@dataclass
class Errors:
    """How far the estimates were from the truth, as shares of the mean time to the first token."""

    calls: int
    queue: float
    """Mean absolute error; queue without the step that ran when the call came."""
    whole_queue: float
    """The mean absolute error of the queue with that step."""
    prefill: float
    covered: float
    """Share of the true prefills inside the 90 % interval."""
    queued_calls: int
    queued_relative: float | None
    """Median relative error of the queues that were over 10 % of their time to the first token."""


def errors(
    calls: Sequence[Times], estimates: Iterable[Estimate | None], truth: Sequence[Mapping[str, float]]
) -> Errors:
    """Compare with ``truth``: ``queue``, ``step_wait`` and ``prefill`` of each call, in s."""
    estimated = [(call, one, true) for call, one, true in zip(calls, estimates, truth, strict=True) if one is not None]
    ttft = sum(call.first - call.sent for call, _, _ in estimated)
    queue = sum(abs(one.queue - true["queue"]) for _, one, true in estimated)
    whole = sum(
        abs(one.queue + one.step_wait - true["queue"] - true.get("step_wait", 0.0)) for _, one, true in estimated
    )
    off = [abs(one.prefill - true["prefill"]) for _, one, true in estimated]
    queued = sorted(
        abs(one.queue - true["queue"]) / true["queue"]
        for call, one, true in estimated
        if true["queue"] > 0.1 * (call.first - call.sent)
    )
    return Errors(
        calls=len(estimated),
        queue=queue / ttft,
        whole_queue=whole / ttft,
        prefill=sum(off) / ttft,
        covered=sum(o <= one.uncertainty for o, (_, one, _) in zip(off, estimated, strict=True))
        / max(1, len(estimated)),
        queued_calls=len(queued),
        queued_relative=queued[len(queued) // 2] if queued else None,
    )
