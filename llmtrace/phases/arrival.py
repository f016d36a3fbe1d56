"""When the first token came, also where the application was late to read it."""

from __future__ import annotations

from llmtrace.observe.call import Call
from llmtrace.observe.stream import LATE_NS

_KERNEL_GRAIN_S = 0.004
"""TCP_INFO's "last data received" counts scheduler ticks: 1 to 4 ms."""


def first_token(call: Call) -> tuple[int | None, float | None]:
    """(monotonic ns, half width of its interval in s or None where it was seen as it came).

    A chunk that lay ready at the first pull came somewhere between the headers and that pull. The kernel's time of
    the last arrival narrows it; where more chunks lay ready, they are counted back at the pace of those that followed.
    """
    seen, pulls = call.first_token, call.pulls
    asked, handed_over = pulls.first_asked, call.returned
    if seen is None or asked is None or handed_over is None or asked - handed_over <= LATE_NS:
        return seen, None
    headers = call.attempts[-1].headers_at if call.attempts else None
    earliest = handed_over if headers is None else headers
    latest, grain = asked, _KERNEL_GRAIN_S / 2
    ready = pulls.buffered_head
    if call.idle_at_first_pull is not None:
        last_data = asked - int(call.idle_at_first_pull * 1e9)
        latest = max(earliest, last_data)
        if last_data > earliest + _KERNEL_GRAIN_S * 1e9:
            ready = max(ready, 1)  # the kernel had taken in something after the headers, however long the pull took
    if call.first_token_index >= ready:
        return seen, None
    ready_after = ready - 1 - call.first_token_index
    pace = pulls.quantiles(0.5) if ready < pulls.total else None
    if ready_after == 0 and call.idle_at_first_pull is not None:
        return latest, grain
    if ready_after > 0 and pace is not None:
        back = int(ready_after * pace[0] * 1e9)
        return max(earliest, latest - back), max(grain, ready_after * pace[0] / 2)
    return (earliest + latest) // 2, max(grain, 0.45 * (latest - earliest) / 1e9)
