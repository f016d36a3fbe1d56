"""Ends that no pull and no close brings: collected streams, flushes, shutdown and the interpreter's exit."""

from __future__ import annotations

import atexit
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from llmtrace.observe import call as calls
from llmtrace.observe import internal_errors
from llmtrace.observe.call import Call, open_calls
from llmtrace.observe.clock import now

GRACE_S = 0.05
"""How long a flush waits for streams that were handed over a moment ago to be read at all."""

_BUSY = ("opentelemetry", "llmtrace", "threading", "queue", "logging", "concurrent", "multiprocessing")
SETTLE_S = 1.0
"""How long a flush waits for the call that another thread is just ending."""

_later: queue.SimpleQueue[Call | threading.Event] = queue.SimpleQueue()
_worker: threading.Thread | None = None


def collected(call: Call) -> None:
    """The spliced stream is gone (runs inside a destructor, maybe inside the garbage collector, anywhere).

    Emitting takes locks. If the code that happened to be interrupted may hold one of them, the call is ended on
    another thread; its end time is the last chunk's either way.
    """
    try:
        if _may_hold_locks():
            _later.put(call)  # SimpleQueue.put is safe in destructors
            _ensure_worker()
        else:
            give_up(call)
    except Exception as error:
        internal_errors.note("ending a collected stream", error)


def give_up(call: Call) -> None:
    """End a call that nobody will read on: abandoned, or never consumed at all. Complete, if its answer was whole."""
    if call.answer is not None:
        call.finish(calls.COMPLETED, call.last_seen())
        return
    seen = call.chunk_timing.total
    call.finish(calls.ABANDONED if seen else calls.NEVER_CONSUMED, call.last_seen())


def drain() -> None:
    """End the calls that destructors left for later."""
    while True:
        try:
            call = _later.get_nowait()
        except queue.Empty:
            return
        if isinstance(call, threading.Event):
            _later.put(call)  # the worker's: only it can tell that its hands are empty
            return
        give_up(call)


def settle() -> None:
    """The same, and wait for the one that the worker has in hand."""
    drain()
    if _worker is None or not _worker.is_alive() or _worker is threading.current_thread():
        return
    reached = threading.Event()
    _later.put(reached)
    reached.wait(SETTLE_S)


def flush() -> None:
    """End what has been collected, and the streams that were handed over and never read."""
    settle()
    waiting = [call for call in open_calls() if _unread(call)]
    if not waiting:
        return
    youngest = max(call.returned or 0 for call in waiting)
    grace = GRACE_S - (now() - youngest) / 1e9
    if grace > 0:
        time.sleep(grace)
    for call in waiting:
        if call.is_open and _unread(call):
            give_up(call)
    settle()  # what was collected while these were written


def shutdown() -> None:
    """End everything that is open: nothing can be emitted after this."""
    settle()
    for call in open_calls():
        if call.returned is None and _running(call):
            call.finish(calls.ABANDONED)  # a local model is at work on it
        elif call.returned is not None or not call.attempts:
            give_up(call)
        else:
            call.finish(calls.ABANDONED)
    settle()  # what was collected while these were written


def _unread(call: Call) -> bool:
    return call.returned is not None and call.chunk_timing.total == 0 and not _running(call)


def _running(call: Call) -> bool:
    return call.running is not None and call.running()


def _may_hold_locks() -> bool:
    frame: Any = sys._getframe(3)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] in _BUSY and not module.startswith("llmtrace.observe.stream"):
            return True
        frame = frame.f_back
    return False


def _ensure_worker() -> None:
    global _worker
    if _worker is None or not _worker.is_alive():
        _worker = threading.Thread(target=_work, name="llmtrace-ends", daemon=True)
        _worker.start()


def _work() -> None:
    while True:
        call = _later.get()
        try:
            if isinstance(call, threading.Event):
                call.set()
            else:
                give_up(call)
        except Exception as error:
            internal_errors.note("ending a collected stream", error)


def _forget_worker() -> None:
    global _worker, _later
    _worker, _later = None, queue.SimpleQueue()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_worker)


def at_exit(action: Callable[[], None]) -> None:
    """Run ``action`` when the interpreter exits, before the providers that were made earlier shut down."""
    atexit.unregister(action)
    atexit.register(action)
