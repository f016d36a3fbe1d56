"""When the first token came, also where the application was late to read it."""

from __future__ import annotations

from llmtrace.observe.call import Call
from llmtrace.observe.pulls import ready_within
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
    if seen is None or asked is None or handed_over is None:
        return seen, None
    late = asked - handed_over > LATE_NS and pulls.first_wait < ready_within(asked - handed_over)
    if not late or call.first_token_index >= pulls.buffered_head:
        return seen, None
    earliest = handed_over
    if call.attempts and call.attempts[-1].headers_at is not None:
        earliest = call.attempts[-1].headers_at
    latest = asked
    grain = _KERNEL_GRAIN_S / 2
    if call.idle_at_first_pull is not None:
        latest = max(earliest, asked - int(call.idle_at_first_pull * 1e9))
    ready_after = pulls.buffered_head - 1 - call.first_token_index
    pace = pulls.quantiles(0.5) if pulls.buffered_head < pulls.total else None
    if ready_after == 0 and call.idle_at_first_pull is not None:
        return latest, grain
    if ready_after > 0 and pace is not None:
        back = int(ready_after * pace[0] * 1e9)
        return max(earliest, latest - back), max(grain, ready_after * pace[0] / 2)
    return (earliest + latest) // 2, max(grain, 0.45 * (latest - earliest) / 1e9)
