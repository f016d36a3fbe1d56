"""The clock that stands in for llmtrace's, and the event loop that never waits."""

from __future__ import annotations

import asyncio
import time

from llmtrace.observe import call as calls
from tests.evaluation.common.clock import START, Clock, loop


def test_sleeps_move_the_clock_and_take_no_time() -> None:
    clock = Clock()
    order: list[tuple[str, float]] = []

    async def sleeper(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        order.append((name, round((clock.at - START) / 1e9, 3)))

    async def both() -> None:
        await asyncio.gather(sleeper("late", 3600.0), sleeper("early", 60.0))

    began = time.monotonic()
    with clock.installed():
        running = loop(clock)
        running.run_until_complete(both())
        running.close()
        assert calls.now() == clock.at
    assert order == [("early", 60.0), ("late", 3600.0)]
    assert time.monotonic() - began < 3600.0, "nobody really slept"
    assert calls.now() != clock.at
