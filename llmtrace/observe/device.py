"""Anchors between a device's clock and this process's monotonic clock.

This file knows no device library: the caller says what an event is and how one is recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llmtrace.observe.clock import now


@dataclass(slots=True)
class Anchor:
    """An event, and the monotonic time (ns) at which it happened, known to within ``half`` ns."""

    event: Any
    at: int
    half: int


def take_anchor(new_event: Callable[[], Any], record: Callable[[Any], None], tries: int) -> Anchor:
    """Bracket an event's recording ``tries`` times and keep the tightest bracket.

    A bracket is wide where the host was interrupted, never too narrow. ``new_event`` makes an event that can
    ``synchronize()``; ``record`` has the device note the time in it. The function waits for the device.
    """
    best: Anchor | None = None
    for _ in range(tries):
        event = new_event()
        before = now()
        record(event)
        event.synchronize()
        after = now()
        if best is None or after - before < 2 * best.half:
            best = Anchor(event, (before + after) // 2, -(-(after - before) // 2))
    assert best is not None
    return best
