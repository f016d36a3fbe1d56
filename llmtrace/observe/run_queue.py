"""How long the thread of a call stood in the kernel's run queue: ready to go on, and without a core.

A client that gets no core reads late what came in time, and a slow stream is then its own machine's doing. Linux counts
that time for each thread. A look costs some 5 µs, so that it is taken once as a call begins, and again only where
something would be said of its times.
"""

from __future__ import annotations

import os
import sys
from threading import get_native_id
from typing import Final

_COUNTED: Final = sys.platform.startswith("linux")
_MOST_BYTES: Final = 96
_MOST_THREADS: Final = 256
_UNREADABLE: Final = set[int]()
"""Threads that cannot look."""


class RunQueue:
    """The calling thread's wait for a core, from now on."""

    __slots__ = ("_before", "_thread")

    def __init__(self) -> None:
        self._thread = get_native_id()
        self._before = _look(self._thread) if _COUNTED else None

    def waited(self) -> float | None:
        """Seconds without a core since then; None where the kernel does not count them, or on another thread."""
        if self._before is None or get_native_id() != self._thread:
            return None
        before, now = _waits(self._before), _waits(_look(self._thread))
        return None if before is None or now is None else max(0, now - before) / 1e9


def _waits(seen: bytes | None) -> int | None:
    """All of a thread's waits until it was looked at, ns; None where that cannot be read, or the kernel does not count
    them (nothing but zeros)."""
    try:
        ran, waited, _ = map(int, (seen or b"").split())
    except ValueError:
        return None
    return waited if ran else None


def _look(thread: int) -> bytes | None:
    """What the kernel counts of the thread, to be read only where it is wanted. (A thread is found faster by its own
    number, which ``/proc`` takes without listing it, than beneath ``self`` or its process.)"""
    if thread in _UNREADABLE:
        return None
    try:
        file = os.open(f"/proc/{thread}/schedstat", os.O_RDONLY)
        try:
            return os.read(file, _MOST_BYTES)
        finally:
            os.close(file)
    except OSError:  # not there, or too many files are open just now
        return None
    except Exception:  # what watches an event loop for calls that block may forbid the look: it is not asked again
        if len(_UNREADABLE) < _MOST_THREADS:
            _UNREADABLE.add(thread)
        return None
