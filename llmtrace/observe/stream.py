"""How a stream is timed: the contract that the three ways of timing share, and the first of them, the splice.

The application keeps the client's own stream object; what is timed is the place that it pulls from. There are three
such places: the inner iterator of a stream object (``splice`` and ``asplice`` here), the ``__next__`` of one that has
no inner iterator (``instrumentation/iterator_timing.py``), and the bytes of a response that the application reads
itself (``calls/byte_taps.py``). Their hot loops differ; what they call, and when, is the same:

1. Before the first pull: ``call.begin_chunks()`` gives the ``ChunkTiming``; a ``Guard`` is made and held by whatever is
   pulled from; ``call.running`` is set to a function that says whether a pull is under way.
2. Around each pull: ``now()`` before it and after it, both appended to ``ChunkTiming.block``. The chunk is appended to
   ``call.recent`` (bytes go to ``call.body``), and until the first output token also shown to ``call.look``.
3. After every ``BLOCK`` pulls: ``ChunkTiming.fold``, so that memory stays bounded.
4. When the inner iterator ends: ``call.finish(COMPLETED, last arrival)``. When it raises anything but
   ``GeneratorExit``: ``failed(call, error)``, and the same exception goes on to the application.
5. When the application closes the response: ``closing(call)`` before, and what that returns afterwards.
6. When all of it is dropped unread: the guard's destructor hands the call over to a thread; it never ends it there.

None of them pulls ahead, holds a context between two pulls, changes an item, or keeps the stream object alive.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

from llmtrace.observe import call as calls
from llmtrace.observe.call import Call
from llmtrace.observe.chunk_timing import BLOCK
from llmtrace.observe.clock import now
from llmtrace.observe.internal_errors import note

LATE_NS = 3_000_000
"""Nanoseconds. An application that reads on later than this after it got the stream or a chunk may find chunks
waiting."""

timed_out_tasks: Any = None
"""Set by the instrumentation: the asyncio tasks that a timeout is cancelling just now (a weak set)."""


class Guard:
    """Dies with the timed iterator, also if that was never started, and then has the call ended.

    ``hand_over`` is called in a destructor, so anywhere: inside the garbage collector, inside an exporter that holds
    its lock. It must only put the call where another thread finds it.
    """

    __slots__ = ("call", "hand_over")

    def __init__(self, call: Call, hand_over: Callable[[Call], None]) -> None:
        self.call = call
        self.hand_over = hand_over

    def __del__(self) -> None:
        if self.call.is_open:
            self.hand_over(self.call)


def splice(inner: Iterator[Any], call: Call, guard: Guard) -> Iterator[Any]:
    """Time each pull from ``inner`` into ``call``; ends the call when ``inner`` ends or raises."""
    chunk_timing = call.begin_chunks()
    mark, keep, kept = chunk_timing.block.append, call.recent.append, call.kept
    asked = now()
    try:
        if call.returned is not None and asked - call.returned > LATE_NS:
            call.late(asked)
        inner = iter(inner)
        # Until output begins, each chunk is looked at ...
        for item in inner:
            arrived = now()
            mark(asked)
            mark(arrived)
            keep(item)
            if kept is not None:
                kept.append(item)
            begun = call.look(item, arrived)
            yield item
            asked = now()
            if begun and kept is None:
                break
            if asked - arrived > LATE_NS and call.first_token is None:
                call.late(asked)
            if len(chunk_timing.block) >= 2 * BLOCK:
                chunk_timing.fold(call.returned)
        # ... and from then on only timed.
        while True:
            chunk_timing.fold(call.returned)
            for item in islice(inner, BLOCK):
                mark(asked)
                mark(now())
                keep(item)
                yield item
                asked = now()
            if len(chunk_timing.block) < 2 * BLOCK:
                break
    except GeneratorExit:
        raise  # the guard, which goes next, ends the call with what was seen
    except BaseException as error:
        failed(call, error)
        raise
    call.finish(calls.COMPLETED, chunk_timing.last_arrival)


async def asplice(inner: AsyncIterator[Any], call: Call, guard: Guard) -> AsyncIterator[Any]:
    """Time each pull from the asynchronous ``inner`` into ``call``; ends the call when ``inner`` ends or raises."""
    chunk_timing = call.begin_chunks()
    mark, keep, kept = chunk_timing.block.append, call.recent.append, call.kept
    block = chunk_timing.block
    asked = now()
    begun = False
    try:
        if call.returned is not None and asked - call.returned > LATE_NS:
            call.late(asked)
        inner = inner.__aiter__()
        async for item in inner:
            arrived = now()
            mark(asked)
            mark(arrived)
            keep(item)
            if kept is not None:
                kept.append(item)
            begun = call.look(item, arrived)
            yield item
            asked = now()
            if begun and kept is None:
                break
            if asked - arrived > LATE_NS and call.first_token is None:
                call.late(asked)
            if len(block) >= 2 * BLOCK:
                chunk_timing.fold(call.returned)
        if begun:
            async for item in inner:
                mark(asked)
                mark(now())
                keep(item)
                yield item
                if len(block) >= 2 * BLOCK:
                    chunk_timing.fold(call.returned)
                asked = now()
    except GeneratorExit:
        raise
    except BaseException as error:
        failed(call, error)
        raise
    call.finish(calls.COMPLETED, chunk_timing.last_arrival)


def failed(call: Call, error: BaseException) -> None:
    """End ``call`` with the outcome that ``error`` means."""
    try:
        if call.app_closed is not None:
            call.finish(calls.CLOSED_EARLY, call.app_closed)
        else:
            call.finish(cause_of(error), error=error)
    except Exception as ours:
        note("ending a stream", ours)


def cause_of(error: BaseException) -> str:
    """The outcome that an exception means: ``cancelled``, ``timed_out`` or ``error``."""
    if isinstance(error, asyncio.CancelledError):
        return calls.TIMED_OUT if _cancelled_by_timeout(error) else calls.CANCELLED
    if not isinstance(error, Exception):
        # trio's cancellation says what it came from (since 0.31); KeyboardInterrupt, SystemExit and curio's do not.
        return calls.TIMED_OUT if getattr(error, "source", None) == "deadline" else calls.CANCELLED
    # A client may have made something else of a timeout; some keep it in an attribute of their own.
    original = getattr(error, "original_exception", None)
    return calls.TIMED_OUT if any(map(_is_timeout, (error, error.__cause__, original))) else calls.ERROR


def _is_timeout(error: Any) -> bool:
    if isinstance(error, TimeoutError):
        return True
    return isinstance(error, Exception) and any("Timeout" in base.__name__ for base in type(error).__mro__)


def _cancelled_by_timeout(error: asyncio.CancelledError) -> bool:
    # anyio says it in the cancellation's message; asyncio does not, so its timeouts leave their task in a weak set.
    if any("deadline" in arg for arg in error.args if isinstance(arg, str)):
        return True
    if timed_out_tasks is None:
        return False
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return False
    return task is not None and task in timed_out_tasks


def closing(call: Call) -> Callable[[], None] | None:
    """Note that the application closes the response of ``call``, which it has got.

    Returns a function that ends the call as of now, to be called when the closing is done; None where this close does
    not end the call.
    """
    if not call.is_open or _by_its_own_iterator():
        return None
    if call.running is not None and call.running():
        if not _inside_a_pull():  # from another thread or task: the pull under way will end the call
            call.app_closed = now()
        return None
    error = sys.exc_info()[1]
    if isinstance(error, (asyncio.CancelledError, KeyboardInterrupt)):
        return partial(call.finish, cause_of(error), now(), error)
    return partial(call.finish, calls.CLOSED_EARLY, now())


def closed(call: Call) -> None:
    """End ``call`` now, where the application closes its response and the closing cannot be waited for."""
    end = closing(call)
    if end is not None:
        end()


def _inside_a_pull() -> bool:
    """Whether the pull itself closes the response: a client that gives its connection back before it raises."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        if frame.f_code is splice.__code__ or frame.f_code is asplice.__code__:
            return True
        frame = frame.f_back
    return False


def _by_its_own_iterator() -> bool:
    """Whether a generator inside the client or its transport closes the response, at its end or being collected."""
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith(("llmtrace.", "wrapt.")):
        frame = frame.f_back
    if frame is None or not frame.f_code.co_flags & (inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR):
        return False
    return frame.f_globals.get("__name__", "").partition(".")[0] in iterating_packages


iterating_packages = {"httpx", "httpx2", "openai"}
"""Packages whose generators close the response themselves (others are built on these); the instrumentation adds each
client's own."""
