"""Kept calls of vLLM on two cores, whose estimate once lost its way: from then on whole queues were told as prefill.

In the first a queue stands from the 25th call on, in the second one that began on an engine which had become slower.
Both times the route let go of what it had learned before, and what it began anew explained its queue by long prompts.
"""

from __future__ import annotations

from statistics import fmean

import pytest

from tests.evaluation.phases import kept


@pytest.mark.parametrize("name", ["vllm-alone-90", "vllm-chat-60"])
def test_a_queue_that_stands_stays_a_queue(name: str) -> None:
    calls = [call for call in kept.again(kept.read(name)) if call.warm]
    assert len(calls) > 60
    split = [call for call in calls if call.claim.split]
    assert len(split) >= 0.9 * len(calls)
    off = [abs((call.claim.value("queue") or 0.0) - (call.truth.queue or 0.0)) for call in calls]
    assert fmean(off) <= 0.05 * fmean(call.scale for call in calls)
    ranges = [(call.claim.ranges["queue"], call.truth.queue or 0.0) for call in split]
    inside = [low - 1e-4 <= true <= high + 1e-4 for (low, high), true in ranges]
    assert fmean(inside) >= 0.85
