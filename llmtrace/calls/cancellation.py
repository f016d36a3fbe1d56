"""A stream that was cut short: why, how soon its socket was closed, and what may have been billed for it."""

from __future__ import annotations

import math
from typing import Any

from llmtrace import conventions
from llmtrace.calls.reading import of_request
from llmtrace.calls.result import Result
from llmtrace.emit import names
from llmtrace.observe import call as calls
from llmtrace.observe.call import Call

_LOST = (
    *("RemoteProtocolError", "ReadError", "WriteError", "ConnectionError", "ConnectError", "NetworkError"),
    "ConnectionClosed",  # a websocket's
)


def cancellation_attributes(result: Result) -> dict[str, Any]:
    """The attributes of the call's span that tell of its cancellation."""
    call, usage = result.call, result.answer.usage
    attributes: dict[str, Any] = {names.CANCEL_PHASE: result.phases[-1].name, names.CANCEL_CAUSE: cause(call)}
    delivered: int | None = None
    if usage.output_tokens is not None:
        delivered = usage.output_tokens
        attributes[names.DELIVERED_TOKENS] = delivered
        attributes[names.DELIVERED_BASIS] = "usage"
    elif call.chunk_timing.total:
        # A chunk holds at least one token; how many, nobody told: a lower bound.
        delivered = call.chunk_timing.total - call.first_token_index if call.first_token else 0
        attributes[names.DELIVERED_TOKENS] = delivered
        attributes[names.DELIVERED_BASIS] = "chunks"
    begun, shut = _closing(call)
    if shut is not None:
        attributes[names.TIME_TO_CLOSE] = max(0, shut - begun) / 1e9
    choices = result.state.request.choices
    if usage.output_tokens is not None and len(result.answer.finish_reasons) >= choices:
        attributes[names.BILLED_TOKENS] = usage.output_tokens
        return attributes
    limit = _limit(result)
    if delivered is not None:
        lower = delivered + _made_meanwhile(call, delivered, shut)
        attributes[names.BILLED_LOWER] = lower if limit is None else min(lower, max(limit, delivered))
    if limit is not None:
        attributes[names.BILLED_UPPER] = max(limit, delivered or 0)
    return attributes


def cause(call: Call) -> str:
    """Why the stream was cut short, in one word of the span reference."""
    if call.outcome == calls.CLOSED_EARLY:
        return "closed"
    if call.outcome in (calls.ABANDONED, calls.NEVER_CONSUMED):
        return "dropped"
    error = call.error
    if call.outcome == calls.CANCELLED and error is None:
        return "answer_cancelled"  # the server says so: it was asked to, or the user began to speak
    if call.outcome == calls.CANCELLED:
        return "interrupted" if isinstance(error, (KeyboardInterrupt, SystemExit)) else "task_cancelled"
    kinds = set[str]()
    while error is not None and len(kinds) < 64:  # what the client raises often wraps what the transport raised
        kinds.update(base.__name__ for base in type(error).__mro__)
        error = error.__cause__ or error.__context__
    if call.outcome == calls.TIMED_OUT:
        return "client_timeout" if any("Timeout" in kind and kind != "TimeoutError" for kind in kinds) else "deadline"
    return "connection_lost" if kinds.intersection(_LOST) else "server_error"


def _closing(call: Call) -> tuple[int, int | None]:
    """When the cancellation was seen, and when the transport had closed the connection; monotonic ns."""
    end = call.end or call.start
    attempt = call.attempts[-1] if call.attempts else None
    if attempt is None or attempt.closed_at is None:
        return end, None
    # A read that was cancelled is seen by the transport first, and it closes before it passes the cancellation on.
    broken = attempt.broken_at
    return (broken if broken is not None and broken <= attempt.closed_at else end), attempt.closed_at


def _limit(result: Result) -> int | None:
    limit = of_request(result.state.request, result.state.operation.request_attributes).get(conventions.MAX_TOKENS)
    return limit * result.state.request.choices if isinstance(limit, int) else None


def _made_meanwhile(call: Call, delivered: int, shut: int | None) -> int:
    """Tokens that the model made, at the pace it had, from the last one that came until the connection was closed."""
    last, first = call.chunk_timing.last_arrival, call.first_token
    if last is None or first is None or shut is None or delivered < 2 or last <= first:
        return 0
    each = (last - first - min(call.chunk_timing.consumer_wait, last - first)) / (delivered - 1)
    return math.floor((shut - last) / each) if each > 0 else 0
