"""Ends that no pull and no close brings: dropped streams, a provider's flush and shutdown, the process's exit.

And what can wait until the application has its answer: the same thread does it, and the same flush waits for it.

A destructor runs anywhere, also inside the exporter that holds a lock which ending the call would take. So it never
ends a call: it puts it before ``_worker``, a thread of its own. A flush ends what was dropped, and nothing that lives.
"""

from __future__ import annotations

from collections.abc import Callable

from llmtrace.observe import call as calls
from llmtrace.observe.call import Call, open_calls
from llmtrace.observe.process import Worker
from llmtrace.observe.stream import Guard

SETTLE_S = 1.0
"""How long a flush waits for the dropped stream that the worker is just ending."""


def end_unread(call: Call) -> None:
    """End a call that nobody will read on: abandoned, or never consumed at all. Complete, if its answer was whole."""
    if call.answer is not None:
        call.finish(calls.COMPLETED, call.last_seen())
        return
    was_read = call.chunk_timing.total > 0
    call.finish(calls.ABANDONED if was_read else calls.NEVER_CONSUMED, call.last_seen())


def _take(item: Call | Callable[[], None]) -> None:
    if isinstance(item, Call):
        end_unread(item)
    else:
        item()


_worker = Worker("llmtrace-finalizer", _take)


def soon(action: Callable[[], None]) -> None:
    """Have ``action`` done on the worker's thread, before the next flush or shutdown is over. Not for destructors."""
    _worker.start()
    _worker.put(action)


def guard(call: Call) -> Guard:
    """What the timing of a stream holds (see ``observe.stream``). Starts the worker: a destructor must not."""
    _worker.start()
    return Guard(call, hand_over)


def hand_over(call: Call) -> None:
    """The stream of ``call`` was dropped. For destructors: takes no lock, starts nothing, ends nothing here."""
    _worker.put(call)


def settle() -> None:
    """End the calls whose streams were dropped so far. Waits for the one that the worker has in hand."""
    _worker.settle(SETTLE_S)


def end_open(concerned: Callable[[Call], bool] = lambda call: True) -> None:
    """End the open calls that are ``concerned``: nothing of theirs can be emitted after this."""
    settle()
    for call in open_calls():
        if not concerned(call):
            continue
        if call.returned is None and call.running is not None and call.running():
            call.finish(calls.ABANDONED)  # a local model is at work on it
        elif call.returned is not None or not call.attempts:
            end_unread(call)
        else:
            call.finish(calls.ABANDONED)
    settle()  # what was dropped while these were written
