"""Waiting for what a test needs to have happened, never for a time in which it ought to have."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE = 180.0
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
    """Whether a thread sleeps in a read from the socket of a synchronous client that is built on httpcore.

    One that is still on its way there would see a signal only once it wakes.
    """
    before = _switches_asleep(thread)
    time.sleep(0.002)  # whoever only waited for this thread to leave the interpreter goes on meanwhile
    frame = sys._current_frames().get(thread.ident or 0)
    inside = frame is not None and frame.f_code.co_name == "read" and "httpcore" in frame.f_code.co_filename
    return inside and before is not None and before == _switches_asleep(thread)


def _switches_asleep(thread: threading.Thread) -> int | None:
    """How often the kernel has taken a thread that sleeps off its core, None if it does not sleep; 0 off Linux."""
    try:
        status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    except OSError:
        return 0
    if re.search(r"^State:\tS", status, re.MULTILINE) is None:
        return None
    return sum(map(int, re.findall(r"ctxt_switches:\t(\d+)", status)))
