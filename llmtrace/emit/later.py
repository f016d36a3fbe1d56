"""Metric values wait here until another thread records them: the application, on whose thread its call ends, does not.

To record one call's values takes the SDK longer than to make its spans. Each value has its call's context, so that
exemplars point where they would. Whoever collects the metrics calls ``settle`` first, and finds every value of the
calls that have ended.
"""

from __future__ import annotations

from collections.abc import Callable

from llmtrace.observe.process import Worker

_REST_S = 0.2
"""How long the values of the calls that end are gathered before they are recorded."""
_MOST = 1000
"""Calls whose values may wait. The next one's are recorded where it ends: memory stays bounded, and nothing is lost."""
_SETTLE_S = 1.0
"""How long a collection waits for the values that are just being recorded."""


def _record(action: Callable[[], None]) -> None:
    action()


_worker = Worker("llmtrace-metrics", _record, _REST_S)


def soon(record: Callable[[], None]) -> None:
    """Have ``record`` called soon, on another thread; here and now where too many wait. It may raise."""
    if len(_worker) >= _MOST:
        record()
        return
    _worker.start()
    _worker.put(record)


def settle() -> None:
    """Record all that waits, before this returns."""
    _worker.settle(_SETTLE_S)
