"""How long the thread of a call stood in the kernel's run queue: ready to go on, and without a core.

A client that gets no core reads late what came in time, and a slow stream is then its own machine's doing. Linux counts
that time for each thread. A look is taken once as a call begins, and again only where something would be said of its
times. To open the kernel's file costs some 50 µs in a program that does much else, to read it again 5: the files of a
few threads stay open.

A file's number is the program's to close and to give away (a daemon closes all that it finds open): so each look
makes sure that the number still means the file that was opened.
"""

from __future__ import annotations

import contextlib
import os
import sys
from itertools import count
from threading import get_native_id
from typing import Final, NamedTuple

from llmtrace.observe import process

_COUNTED: Final = sys.platform.startswith("linux")
_MOST_BYTES: Final = 96
_MOST_THREADS: Final = 256
_MOST_OPEN: Final = 8
"""Threads whose files stay open: an event loop and some workers. Others' are opened for each look."""
_BETWEEN_SWEEPS: Final = 64
"""Looks without a file that stays open, after which the files of threads that have ended are closed."""
_UNREADABLE: Final = set[int]()
"""Threads that cannot look."""


class _File(NamedTuple):
    number: int
    identity: tuple[int, int]
    """Device and inode: whether the number still means this file is looked at before it is read or closed."""

    def is_open(self) -> bool:
        """Whether the number still means this file."""
        try:
            return _identity(self.number) == self.identity
        except OSError:
            return False


_files: Final = dict[int, _File]()
"""By thread."""
_passed_over: Final = count(1)
"""Numbers the looks for which no file could stay open."""


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
        ran, waited, turns = map(int, (seen or b"").split())
    except ValueError:
        return None
    return waited if ran or waited or turns else None


def _look(thread: int) -> bytes | None:
    """What the kernel counts of the calling thread, to be read only where it is wanted."""
    if thread in _UNREADABLE:
        return None
    try:
        file = _files.get(thread)
        if file is not None:
            with contextlib.suppress(OSError):  # the thread that had this number has ended
                if file.is_open():
                    return os.pread(file.number, _MOST_BYTES, 0)
            _close(thread)
        return _open(thread)
    except OSError:  # not there, or too many files are open just now
        return None
    except Exception:  # what watches an event loop for calls that block may forbid the look: it is not asked again
        if len(_UNREADABLE) < _MOST_THREADS:
            _UNREADABLE.add(thread)
        return None


def _open(thread: int) -> bytes:
    """What ``_look`` returns, by a file that is opened for it: by the name that means the calling thread wherever
    ``/proc`` is mounted, since in a namespace of its own the thread's number is another one's there."""
    number = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        seen = os.pread(number, _MOST_BYTES, 0)
        stays = _keep(thread, number)
    except BaseException:
        os.close(number)
        raise
    if not stays:
        os.close(number)
    return seen


def _keep(thread: int, number: int) -> bool:
    """Have the thread's file stay open, if that is possible; False where the caller is to close it."""
    if len(_files) >= _MOST_OPEN:
        if next(_passed_over) % _BETWEEN_SWEEPS == 0:
            _close_ended()
        return False
    _files[thread] = _File(number, _identity(number))
    if len(_files) > _MOST_OPEN:  # another thread was as fast
        return _files.pop(thread, None) is None
    return True


def _identity(number: int) -> tuple[int, int]:
    status = os.fstat(number)
    return status.st_dev, status.st_ino


def _close(thread: int) -> None:
    """Let go of a thread's file. Its number may mean another one by now: that one stays open."""
    file = _files.pop(thread, None)
    if file is not None and file.is_open():
        with contextlib.suppress(OSError):
            os.close(file.number)


def _close_ended() -> None:
    """Close the files of threads that have ended."""
    for thread in list(_files):
        file = _files.get(thread)
        try:
            if file is not None:
                os.pread(file.number, _MOST_BYTES, 0)
        except OSError:
            _close(thread)


def forget() -> None:
    """Close all files: nothing is traced any more; or this is a forked child, and they are its parent's threads'."""
    for thread in list(_files):
        _close(thread)


process.after_fork(forget)
