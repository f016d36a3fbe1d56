"""How a process's last spans leave it where the interpreter's exit actions (``atexit``) do not run.

Children of multiprocessing leave by ``os._exit`` after their finalizers, Celery's pool processes by ``os._exit`` after
the signal ``worker_process_shutdown``; a SIGTERM that nobody handles ends a process on the spot, unless the setting
``flush_on_sigterm`` asks for more. There, open calls are ended and what is ended is exported, in bounded time. No
library is imported for it. What this saves and what it cannot save: docs/process-ends.md.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from llmtrace.instrumentation.patching import Patches
from llmtrace.observe.process import Lock, after_other_threads, run_exit_actions, run_within

PATIENCE_S = 5.0
"""The longest time in seconds that a process's end is held up: half of it for open calls, the rest for the exporters.
(Docker waits 10 s after its SIGTERM before it kills, Kubernetes 30 s.)"""
_LAST = -50
"""The priority of our finalizer in a child: after the application's own, and after those of multiprocessing's queues
(10 to -5)."""

_log = logging.getLogger("llmtrace")
_set_handler = signal.signal
_lock = Lock()
_flush: Callable[[float], None] | None = None
"""Exports ended spans within the seconds that it is given; None while no client is traced."""
_watches_forks = False
"""Whether ``_arm`` is registered with multiprocessing (for good: it cannot be taken back there)."""
_armed_in = 0
"""The id of the process that has our finalizer; a child has its parent's number until it is armed itself."""
_sigterm_patches: Patches | None = None
_sigterm_users = 0


def watch(patches: Patches, flush: Callable[[float], None]) -> None:
    """Flush when a child of multiprocessing, concurrent.futures or Celery ends, until ``patches`` are undone.

    ``flush`` exports ended spans within the seconds that it is given. An interpreter's usual exit is left to
    ``atexit``.
    """
    global _flush
    _flush = flush
    patches.when_undone(_unwatch)
    patches.when_imported("multiprocessing.util", _watch_multiprocessing)
    patches.when_imported("celery.signals", _watch_celery)


def _unwatch() -> None:
    global _flush
    _flush = None


def _watch_multiprocessing(util: Any) -> None:
    global _watches_forks
    if not _watches_forks:
        _watches_forks = True
        # Not a Finalize: a new child first drops those that it inherits, then runs what is registered here.
        util.register_after_fork(_arm, _arm)
    import multiprocessing

    if multiprocessing.parent_process() is not None:
        _arm()  # this is a child, and at work already


def _watch_celery(signals: Any) -> None:
    signals.worker_process_shutdown.connect(_celery_child_ends, weak=False)  # connected once, however often this is run


def _arm(_: object = None) -> None:
    """Register our finalizer in a child of multiprocessing, once."""
    global _armed_in
    if _armed_in != os.getpid():
        _armed_in = os.getpid()
        from multiprocessing.util import Finalize

        Finalize(None, _child_ends, exitpriority=_LAST)


def _child_ends() -> None:
    """Flush after the child's work has returned, once the threads that the child waits for have ended."""
    after_other_threads(_end)


def _celery_child_ends(**_: Any) -> None:
    # A second SIGTERM may come, which billiard blocks in one thread only. With others there (the SDK's), the child
    # would die holding its result queue's lock, and the parent would wait for that lock for good.
    with contextlib.suppress(ValueError):
        _set_handler(signal.SIGTERM, signal.SIG_IGN)
    _end()


def _end(open_calls: bool = True) -> None:
    """End the open calls, then flush. If the first waits for a lock that the interrupted thread holds, what had ended
    before is still exported."""
    flush, until = _flush, time.monotonic() + PATIENCE_S
    if flush is None:
        return
    if open_calls:
        run_within(PATIENCE_S / 2, run_exit_actions)
    run_within(until - time.monotonic(), lambda: flush(until - time.monotonic()))


# SIGTERM


def take_sigterm() -> Callable[[], None]:
    """Put our handler wherever SIGTERM's default disposition stands, now and later; returns a function that undoes it.

    An application's handler replaces ours, and finds everything as it would without us: ``signal.signal`` returns the
    default as the handler before, and may put the default back, which means ours. (uvicorn shuts down, puts the default
    back, and raises the signal again.)
    """
    global _sigterm_patches, _sigterm_users
    with _lock:
        _sigterm_users += 1
        if _sigterm_patches is None:
            _sigterm_patches = Patches()
            _sigterm_patches.wrap(signal, "signal", _hook_signal)
            _sigterm_patches.wrap(signal, "getsignal", _hook_getsignal)
            if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
                try:
                    _set_handler(signal.SIGTERM, _on_sigterm)
                except ValueError:  # Python sets handlers on the main thread only
                    _log.warning("flush_on_sigterm has no effect: llmtrace was not switched on in the main thread")
    return _leave_sigterm


def _leave_sigterm() -> None:
    global _sigterm_patches, _sigterm_users
    with _lock:
        _sigterm_users -= 1
        if _sigterm_users == 0 and _sigterm_patches is not None:
            _sigterm_patches.undo()
            _sigterm_patches = None
            if signal.getsignal(signal.SIGTERM) is _on_sigterm:
                with contextlib.suppress(ValueError):  # on another thread; it stays, and lets the signal through
                    _set_handler(signal.SIGTERM, signal.SIG_DFL)


def _hook_signal(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Wraps ``signal.signal``: sets our handler for SIGTERM's default, and returns ours as the default."""
    arguments = dict(zip(("signalnum", "handler"), args, strict=False)) | kwargs
    if arguments.get("signalnum") == signal.SIGTERM and arguments.get("handler") == signal.SIG_DFL:
        return _as_default(wrapped(signal.SIGTERM, _on_sigterm))
    return _as_default(wrapped(*args, **kwargs))


def _hook_getsignal(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return _as_default(wrapped(*args, **kwargs))


def _as_default(handler: Any) -> Any:
    return signal.SIG_DFL if handler is _on_sigterm else handler


def _on_sigterm(signum: int, frame: Any) -> None:
    if os.getpid() == 1:  # a container's first process lives on under the default disposition, and so it does here
        _end(open_calls=False)
        return
    _set_handler(signum, signal.SIG_DFL)  # a second signal ends the process at once
    try:
        _end()
    finally:
        os.kill(os.getpid(), signum)  # the parent process sees which signal ended it
