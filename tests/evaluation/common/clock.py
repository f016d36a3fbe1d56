"""A clock that stands in for llmtrace's own, and an event loop that never waits: its sleeps move the clock instead.

What is played on them takes no real time and comes out the same on any machine, however busy.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llmtrace.observe import clock

START = 1_000_000_000_000
"""Where a clock begins, ns."""


class Clock:
    """Stands in for ``now`` everywhere in llmtrace."""

    def __init__(self) -> None:
        self.at = START
        """Monotonic ns."""

    def __call__(self) -> int:
        return self.at

    @contextmanager
    def installed(self) -> Iterator[None]:
        """In the place of llmtrace's clock, in every module that is loaded by then."""
        real: Any = clock.now
        places = [
            module
            for name, module in list(sys.modules.items())
            if name.startswith("llmtrace.") and getattr(module, "now", None) is real
        ]
        for module in places:
            module.now = self  # type: ignore[attr-defined]
        try:
            yield
        finally:
            for module in places:
                module.now = real  # type: ignore[attr-defined]


def loop(standing: Clock) -> asyncio.AbstractEventLoop:
    """A new event loop on this clock."""
    made = asyncio.SelectorEventLoop(_NeverWaiting(standing))
    made.time = lambda: standing.at / 1e9  # type: ignore[method-assign]
    return made


class _NeverWaiting(selectors.DefaultSelector):  # type: ignore[misc,valid-type]
    """Where the loop would wait, the clock moves on."""

    def __init__(self, standing: Clock) -> None:
        super().__init__()
        self._clock = standing

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0 if timeout else timeout)
        if timeout and not ready:
            self._clock.at += round(timeout * 1e9) + 1
        return ready
