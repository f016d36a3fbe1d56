"""Waiting for what a test needs to have happened, never for a time in which it ought to have."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable

PATIENCE = 60.0
"""s. Nothing takes so long, however busy the machine is: what has not happened by then never will."""


def wait_for(condition: Callable[[], object]) -> None:
    """Return as soon as ``condition()`` is true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.002)


async def until(condition: Callable[[], object]) -> None:
    """The same, with the loop running meanwhile."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        await asyncio.sleep(0.002)


class LoopTime:
    """The clock of an event loop, by which its timeouts go; the test moves it on."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._true, self._ahead = loop.time, 0.0
        loop.time = self  # type: ignore[method-assign]

    def __call__(self) -> float:
        return self._true() + self._ahead

    def advance(self, seconds: float) -> None:
        self._ahead += seconds


def is_reading(thread: threading.Thread) -> bool:
    """Whether a thread is inside a read from the socket of a synchronous client that is built on httpcore."""
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_code.co_name == "read" and "httpcore" in frame.f_code.co_filename
