"""When the first token came, also where the application was late to read it."""

from __future__ import annotations

from llmtrace.observe.call import Call
from llmtrace.observe.chunk_timing import ready_within
from llmtrace.observe.stream import LATE_NS

_KERNEL_GRAIN_S = 0.004
"""TCP_INFO's "last data received" counts scheduler ticks: 1 to 4 ms."""

Arrival = tuple[int | None, float | None]
"""Monotonic ns, and the half width of its interval in s (None: it was seen as it came)."""


def first_token(call: Call) -> Arrival:
    """When the first token came.

    A chunk that lay ready when it was asked for came somewhere between what was seen before it and that pull. The
    kernel's time of the last arrival narrows it.
    """
    if call.first_token is None:
        return None, None
    return _late_start(call) or _late_reading(call) or (call.first_token, None)


def _late_start(call: Call) -> Arrival | None:
    """The application began to read late: the first token was among the chunks that lay ready.

    Where more of them lay ready, they are counted back at the pace of those that followed.
    """
    pulls = call.chunk_timing
    asked, handed_over = pulls.first_asked, call.returned
    if asked is None or handed_over is None or asked - handed_over <= LATE_NS:
        return None
    headers = call.attempts[-1].headers_at if call.attempts else None
    earliest = handed_over if headers is None else headers
    latest, by_kernel = _bound(call, earliest, asked)
    # Where the kernel took in something after the headers, a chunk was there, however long the pull took.
    ready = (
        max(pulls.buffered_head, 1) if by_kernel and latest > earliest + _KERNEL_GRAIN_S * 1e9 else pulls.buffered_head
    )
    after = ready - 1 - call.first_token_index
    if after < 0:
        return _between(earliest, latest) if _lay_ready(call, asked) else None
    grain = _KERNEL_GRAIN_S / 2
    if after == 0 and by_kernel:
        return latest, grain
    pace = pulls.quantiles(0.5) if ready < pulls.total else None
    if after > 0 and pace is not None:
        back = after * pace[0]
        return max(earliest, latest - int(back * 1e9)), max(grain, back / 2)
    return _between(earliest, latest)


def _late_reading(call: Call) -> Arrival | None:
    """The application held the stream between an empty chunk (a role, say) and the first token."""
    asked, before = call.first_token_asked, call.before_first_token
    if call.first_token is None or asked is None or before is None or asked - before <= LATE_NS:
        return None
    if call.first_token - asked >= ready_within(asked - before) and not _lay_ready(call, asked):
        return None
    return _between(before, _bound(call, before, asked)[0])


def _lay_ready(call: Call, asked: int) -> bool:
    """Whether the first token lay in the kernel's buffer when it was asked for: no data came in after that.

    Seen of a pull that took long although its chunk lay ready: a process's first, in which the client loads a lot of
    itself, or any on a busy machine.
    """
    idle = call.idle.get(call.first_token or 0)
    return idle is not None and (call.first_token or 0) - idle * 1e9 < asked - _KERNEL_GRAIN_S * 1e9


def _bound(call: Call, earliest: int, asked: int) -> tuple[int, bool]:
    """The latest moment at which data can have come in, and whether the kernel reported it."""
    idle = call.idle.get(asked)
    return (asked, False) if idle is None else (max(earliest, asked - int(idle * 1e9)), True)


def _between(earliest: int, latest: int) -> Arrival:
    return (earliest + latest) // 2, max(_KERNEL_GRAIN_S / 2, 0.45 * (latest - earliest) / 1e9)
