"""Streams that are timed at their own ``__next__`` or ``__anext__``: objects with no inner iterator to put timing into.

The method is wrapped on the class that defines it, once, until the last of the streams under way when tracing is
switched off has ended. An object that belongs to a call carries a ``TimedPulls``, which lets each pull go through the
timing generator and into the very method; all other objects only pass by. Whatever the client asks for within a pull
belongs to the call, so the call is the current one while it lasts.
"""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any

from llmtrace.calls import finalizers
from llmtrace.calls.current import Making
from llmtrace.calls.tracer import CallTracer
from llmtrace.instrumentation.patching import Patches
from llmtrace.observe.call import Call
from llmtrace.observe.process import Lock
from llmtrace.observe.stream import asplice, splice

_KEY = "_llmtrace_pulls"
"""Where such an object holds its ``TimedPulls``."""
_lock = Lock()
_tracers: set[CallTracer] = set()
"""The tracers whose streams these may be."""
_patches = Patches()


class _Source:
    """The iterator that is timed: it calls the method of the pull under way. Between pulls it holds nothing."""

    def __init__(self) -> None:
        self.pull: Callable[[], Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    def __next__(self) -> Any:
        assert self.pull is not None
        return self.pull()

    def __anext__(self) -> Awaitable[Any]:
        assert self.pull is not None
        return self.pull()


class TimedPulls:
    """The pulls of one stream object, which holds this: they die together, and that ends the call."""

    def __init__(self, call: Call, propagate: str) -> None:
        self.call = call
        self._propagate = propagate
        self._guard = finalizers.guard(call)
        self._source = source = _Source()
        self._timed: Any = None
        call.running = lambda: source.pull is not None

    @property
    def idle(self) -> bool:
        """Whether a pull is to be timed: the call is open, and no pull is under way (a subclass calls its base's)."""
        return self._source.pull is None and self.call.is_open

    def next(self, pull: Callable[[], Any]) -> Any:
        """Pull one item by ``pull`` and time it."""
        self._source.pull = pull
        try:
            if self._timed is None:
                self._timed = splice(self._source, self.call, self._guard)
            with Making(self.call, self._propagate):
                return next(self._timed)
        finally:
            self._source.pull = None

    async def anext(self, pull: Callable[[], Awaitable[Any]]) -> Any:
        """Pull one item of an asynchronous stream by ``pull`` and time it."""
        self._source.pull = pull
        try:
            if self._timed is None:
                self._timed = asplice(self._source, self.call, self._guard)
            with Making(self.call, self._propagate):
                return await anext(self._timed)
        finally:
            self._source.pull = None


def keep_wrapped(patches: Patches, tracer: CallTracer) -> None:
    """Keep the methods wrapped until ``patches`` are undone and the calls of ``tracer`` that are under way then end."""
    with _lock:
        _tracers.add(tracer)
    patches.when_undone(lambda: tracer.in_use.when_free(partial(_gone, tracer)))


def _gone(tracer: CallTracer) -> None:
    global _patches
    with _lock:
        _tracers.discard(tracer)
        if not _tracers:
            _patches.undo()
            _patches = Patches()


def watch(stream: Any, call: Call, propagate: str, read_stream: Callable[[Any], Sequence[Any]]) -> None:
    """Time the pulls from ``stream``, synchronous or not. ``read_stream`` reads its own facts at the end."""
    for name, wrapper in (("__next__", _next), ("__anext__", _anext)):
        owner = next((cls for cls in type(stream).__mro__ if name in vars(cls)), None)
        if owner is not None and owner is not object and not _patches.holds(owner, name):
            _patches.wrap_method(owner, name, wrapper)
    vars(stream)[_KEY] = TimedPulls(call, propagate)
    stream_reference = weakref.ref(stream)
    call.more = lambda: () if (living := stream_reference()) is None else read_stream(living)


def _next(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    pulls: TimedPulls | None = vars(instance).get(_KEY)
    return pulls.next(wrapped) if pulls is not None and pulls.idle else wrapped()


def _anext(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    pulls: TimedPulls | None = vars(instance).get(_KEY)
    return pulls.anext(wrapped) if pulls is not None and pulls.idle else wrapped()
