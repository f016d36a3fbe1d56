"""The one registry of what a fork, a destructor and a process's end can disturb: locks, threads, exit actions.

A forked child has only the thread that forked. A lock that another thread held at that moment would stay locked for
ever in the child, and a worker thread is not there. So every lock of llmtrace is a ``Lock`` of this module, whoever
keeps something that belongs to the parent (a thread, calls on their way) says so with ``after_fork``, and our threads
end before a fork: what one has in hand may hold other libraries' locks, and Python (3.12 and later) warns of a fork
beside another thread. The next call starts them again.

What must be done before a process ends is registered with ``at_exit``. The interpreter's own exit does it by itself;
where a process ends another way, ``run_exit_actions`` does it.

A lock here may be taken again by the thread that holds it: a signal handler or the garbage collector can run an
application's code, and with it ours, in the middle of ours.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import os
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from llmtrace.observe.internal_errors import note

_locks: weakref.WeakSet[Lock] = weakref.WeakSet()
_threads: weakref.WeakSet[HasThread] = weakref.WeakSet()
_after_fork: list[weakref.WeakMethod[Callable[[], None]] | Callable[[], Callable[[], None]]] = []
_exit_actions: list[Callable[[], None]] = []

_FORK_WAITS_S = 0.5
"""How long a fork waits for what our threads have in hand."""


class HasThread(Protocol):
    """Somebody with a thread that ends before a fork."""

    def end_thread(self, until: float) -> None:
        """Have the thread end, and wait for it until ``time.monotonic()`` is ``until``. It takes no further item."""
        ...

    def may_start(self) -> None:
        """The fork is over, and this is the parent: the thread may start again."""
        ...


class Lock:
    """A reentrant lock that is free in a forked child, whoever held it in the parent. Use it with ``with``."""

    __slots__ = ("__weakref__", "_held", "_lock")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._held: list[Any] = []
        _locks.add(self)

    def __enter__(self) -> None:
        lock = self._lock
        lock.acquire()
        self._held.append(lock)  # only ever touched by the thread that holds the lock

    def __exit__(self, *raised: object) -> None:
        # Not ``self._lock``: if this thread forked while it held the lock, that is another one in the child.
        self._held.pop().release()

    def renew(self) -> None:
        """Free the lock in a forked child."""
        self._lock = threading.RLock()


class Worker:
    """A daemon thread that handles, one after another, what is put before it.

    With ``rest`` it lets so many seconds pass once it is woken, and then handles together what has come until then: a
    program that makes many calls has fewer changes of thread for it, and the thread finds the processor's caches warm.
    Between two items it lets every other thread go first.
    """

    def __init__(self, name: str, handle: Callable[[Any], None], rest: float = 0.0) -> None:
        self._name = name
        self._handle = handle
        self._rest = rest
        self._items: deque[Any] = deque()
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._woken = False
        self._turn = threading.RLock()
        """Held by the thread while it takes and handles an item."""
        self._thread: threading.Thread | None = None
        self._ending = False
        ends_before_forks(self)
        after_fork(self._forked)

    def __len__(self) -> int:
        return len(self._items)

    def start(self) -> None:
        """Start the thread unless it runs. Takes locks of the interpreter's: not to be called from a destructor."""
        if self._ending or (self._thread is not None and self._thread.is_alive()):
            return
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is shutting down, or the process may have no more threads
            return
        self._thread = thread

    def put(self, item: Any) -> None:
        """Have ``item`` handled soon. Safe in destructors and signal handlers: it takes no lock that can be held."""
        self._items.append(item)
        if not self._woken:
            self._woken = True
            self._wake.put(None)

    def settle(self, timeout: float) -> None:
        """Handle the waiting items on this thread, then wait up to ``timeout`` seconds for the item under way."""
        while self._take():
            pass
        if self._turn.acquire(timeout=timeout):
            self._turn.release()

    def end_thread(self, until: float) -> None:
        self._ending = True
        self._wake.put(None)
        join_until(self._thread, until)

    def may_start(self) -> None:
        self._ending = self._woken = False
        if self._items:  # else the next call starts it: a thread here and now is what Python warns of
            self._woken = True
            self._wake.put(None)
            self.start()

    def _take(self) -> bool:
        """Handle the next item; whether there was one."""
        try:
            item = self._items.popleft()
        except IndexError:
            return False
        try:
            self._handle(item)
        except Exception as error:
            note(f"working in {self._name}", error)
        return True

    def _run(self) -> None:
        while True:
            self._wake.get()
            if self._rest and not self._ending:
                with contextlib.suppress(queue.Empty):
                    self._wake.get(timeout=self._rest)  # woken before that only to end
            self._woken = False  # before the items are looked at: what is put from here on wakes the thread again
            while self._items and not self._ending:
                with self._turn:
                    self._take()
                time.sleep(0)
            if self._ending:
                return

    def _forked(self) -> None:
        self._thread, self._items, self._wake = None, deque(), queue.SimpleQueue()
        self._woken, self._ending, self._turn = False, False, threading.RLock()


def ends_before_forks(owner: HasThread) -> None:
    """Have the thread of ``owner``, which is held weakly, end before every fork of this process."""
    _threads.add(owner)


def join_until(thread: threading.Thread | None, until: float) -> None:
    """Wait for the end of ``thread`` until ``time.monotonic()`` is ``until``; not at all for this very thread."""
    if thread is not None and thread is not threading.current_thread():
        thread.join(max(0.0, until - time.monotonic()))


def after_fork(action: Callable[[], None]) -> None:
    """Call ``action`` in every child forked from this process, after all locks are free again.

    A bound method is held weakly: it is called as long as its object lives.
    """
    bound = getattr(action, "__self__", None) is not None
    _after_fork.append(weakref.WeakMethod(action) if bound else lambda: action)


def at_exit(action: Callable[[], None]) -> None:
    """Call ``action`` when this process ends, before what was registered with ``atexit`` earlier.

    An action that is registered again moves to the front.
    """
    if action in _exit_actions:
        _exit_actions.remove(action)
    _exit_actions.append(action)
    atexit.unregister(run_exit_actions)
    atexit.register(run_exit_actions)


def run_exit_actions() -> None:
    """Run the registered actions, the last one first. An action may run twice: here and at the interpreter's exit."""
    for action in reversed(_exit_actions):
        try:
            action()
        except Exception as error:
            note("ending a process", error)


def run_within(seconds: float, action: Callable[[], None]) -> bool:
    """Run ``action`` on a thread of its own and wait for it, for ``seconds`` at most.

    For a process's last moments: the thread that is here may have been interrupted while it held a lock that ``action``
    takes, and an exporter may hang. Returns whether ``action`` was done in time.
    """
    done = _thread.allocate_lock()
    done.acquire()

    def run() -> None:
        try:
            action()
        except Exception as error:
            note("ending a process", error)
        finally:
            done.release()

    try:
        _thread.start_new_thread(run, ())  # not threading's own start: it takes locks that may be held here
    except RuntimeError:  # the interpreter is being taken down: its exit actions have run
        return False
    return done.acquire(timeout=max(0.0, seconds))


def after_other_threads(action: Callable[[], None]) -> None:
    """Call ``action`` once no other thread is left that this process waits for before it ends: here and now if there
    is none, else on one more such thread."""

    def run() -> None:
        while threads := _waited_for():
            for thread in threads:
                thread.join()
        action()

    if _waited_for():
        threading.Thread(target=run, name="llmtrace-last", daemon=False).start()
    else:
        action()


def _waited_for() -> list[threading.Thread]:
    """The threads that the interpreter joins before this process ends, except this one and the main thread."""
    spared = (threading.current_thread(), threading.main_thread())
    return [thread for thread in threading.enumerate() if not thread.daemon and thread not in spared]


def _in_child() -> None:
    for lock in list(_locks):
        lock.renew()
    for reference in list(_after_fork):
        action = reference()
        if action is None:
            _after_fork.remove(reference)
            continue
        try:
            action()
        except Exception as error:
            note("setting up a forked process", error)


def _before_fork() -> None:
    until = time.monotonic() + _FORK_WAITS_S
    for owner in list(_threads):
        try:
            owner.end_thread(until)
        except Exception as error:
            note("ending a thread before a fork", error)


def _in_parent() -> None:
    for owner in list(_threads):
        try:
            owner.may_start()
        except Exception as error:
            note("going on after a fork", error)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
