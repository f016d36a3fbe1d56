"""The thread on which curves are fitted: never where the application stands. It comes and goes with the work."""

from __future__ import annotations

import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable

from llmtrace.observe import internal_errors, process

_SHARE, _AT_ONCE = 0.02, 0.05
_AHEAD_S = 0.5
"""The fitting thread works for the first share of the time. It may be so many seconds of work ahead of that, as where a
program has just begun; it then works for the second share, and rests no longer than ``_MOST_REST_S`` after one fit."""
_MOST_REST_S = 0.5
_IDLE_S = 5.0
"""The fitting thread goes after so long without work."""


def breathe() -> None:
    """Let go of the interpreter for a moment: a thread of the application that wants it would else wait until it is
    taken away from this one, after 5 ms (``sys.getswitchinterval``)."""
    time.sleep(0)


class Fitter:
    """The thread that fits: one route after the other, at most a small share of the time."""

    def __init__(self, fit: Callable[[Hashable], None]) -> None:
        """``fit`` fits one route; a bound method, held weakly: the thread keeps no baselines alive."""
        self._fit = weakref.WeakMethod(fit)
        self._asked: OrderedDict[Hashable, None] = OrderedDict()
        self._condition = threading.Condition()
        self._running = False
        self._busy = False
        self._ending = False
        self._waiting = 0
        """Threads in ``settle``."""
        self._thread: threading.Thread | None = None
        self._left, self._counted = _AHEAD_S, time.monotonic()
        """Seconds of work that it may do ahead of its share, and when that was reckoned."""
        process.ends_before_forks(self)

    def ask(self, key: Hashable) -> None:
        """Have route ``key`` fitted, soon."""
        with self._condition:
            self._asked[key] = None
            if self._running or self._ending:
                self._condition.notify()
                return
            self._running = True
        self._start()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="llmtrace-baseline", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is shutting down
            self._running = False
            return
        self._thread = thread

    def end_thread(self, until: float) -> None:
        with self._condition:
            self._ending = True
            self._condition.notify_all()
        process.join_until(self._thread, until)

    def may_start(self) -> None:
        with self._condition:
            self._ending = False
            if self._running or not self._asked:
                return
            self._running = True
        self._start()

    def settle(self, timeout: float) -> bool:
        """Wait until all that was asked for is done, without rests; False where it takes longer than ``timeout`` s."""
        with self._condition:
            self._waiting += 1
            self._condition.notify_all()
            try:
                return self._condition.wait_for(lambda: not self._asked and not self._busy, timeout)
            finally:
                self._waiting -= 1

    def _run(self) -> None:
        rest = 0.0
        while True:
            with self._condition:
                self._busy = False
                self._condition.notify_all()
                if not self._condition.wait_for(lambda: self._asked or self._ending, _IDLE_S):
                    self._running = False
                    return
                self._busy = True
                # What is asked for again meanwhile is fitted once.
                self._condition.wait_for(lambda: self._ending or self._waiting, rest)
                if self._ending:
                    self._running = self._busy = False
                    return
                key, _ = self._asked.popitem(last=False)
            begun = time.thread_time()
            try:
                fit = self._fit()
                if fit is not None:
                    fit(key)
            except Exception as error:
                internal_errors.note("fitting a baseline", error)
            rest = self._rest(time.thread_time() - begun)

    def _rest(self, worked: float) -> float:
        """How long to rest after so much work, s."""
        now = time.monotonic()
        self._left = min(_AHEAD_S, self._left + (now - self._counted) * _SHARE) - worked
        self._counted = now
        return max(min(_MOST_REST_S, worked / _AT_ONCE), -self._left / _SHARE)
