"""Calls that were recorded or simulated, played through llmtrace's own engine on a clock of their own.

Everything from the beginning of a call to its phases is the product's code; only the client library and the wire are
left out, and time is the recording's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from opentelemetry.sdk.trace import TracerProvider

from llmtrace.calls import tracer
from llmtrace.calls.result import Result
from llmtrace.calls.tracer import CallTracer
from llmtrace.config import settings
from llmtrace.observe.call import COMPLETED, Call
from llmtrace.observe.transport import Attempt
from llmtrace.providers.openai import CHAT, OPENAI
from tests.evaluation.common.clock import START, Clock
from tests.evaluation.phases.claims import claim_of
from tests.evaluation.phases.measured import Claim, Measured, Truth

RTT = 0.00005
"""Seconds of a round trip on one machine."""
_BEGIN, _HEADERS, _EVENT, _FIRST, _END = range(5)


@dataclass(frozen=True, slots=True)
class Trip:
    """One call to play. Moments are seconds on the recording's clock, None where none was recorded."""

    begin: float
    sent: float
    """The request's last byte was handed over."""
    headers: float | None
    first: float | None
    """First token; None: the answer is not streamed."""
    end: float
    prompt: int
    cached: int | None
    """None: the provider does not count cached tokens."""
    output: int
    truth: Truth
    messages: tuple[dict[str, Any], ...]
    event: float | None = None
    """First event of the stream, where it came before the first token."""
    chunks: int = 0
    """Chunks with text; 0: one for each output token."""
    usage: bool = True
    """The provider tells token counts."""
    params: dict[str, Any] = field(default_factory=dict[str, Any])
    """What else the request's body holds."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the calls go, as llmtrace sees it."""

    port: int = 9999
    """8000 is vLLM's own; 9999 is nobody's."""
    whole_queue: bool = True
    """See ``claims.claim_of``."""


@dataclass(frozen=True, slots=True)
class Watch:
    """For who looks on while calls are played."""

    began: Callable[[CallTracer], None]
    """Told of the tracer, before its first call."""
    ended: Callable[[int], None]
    """Told after each call's end how many have ended before it. Fits are then not waited for."""
    opened: Callable[[Call], None]
    """Told of each call as it begins."""


class _Client:
    def __init__(self, port: int) -> None:
        self._base_url = SimpleNamespace(host="127.0.0.1", port=port, scheme="http")


def play(trips: Sequence[Trip], cell: str, warm_up: int, place: Place, watch: Watch | None = None) -> list[Measured]:
    """The calls as llmtrace judged them, blind and on a route without history, each with the engine's truth."""
    claims: dict[int, Claim] = {}
    numbers: dict[int, int] = {}
    open_calls: dict[int, Call] = {}
    clock = Clock()

    def listen(ended: Result) -> None:
        claims[numbers[id(ended.call)]] = claim_of(ended, whole_queue=place.whole_queue)

    moments: list[tuple[float, int, int]] = []
    for number, trip in enumerate(trips):
        seen = {_BEGIN: trip.begin, _HEADERS: trip.headers, _EVENT: trip.event, _FIRST: trip.first, _END: trip.end}
        moments += [(at, what, number) for what, at in seen.items() if at is not None]
    made = CallTracer(settings({"server_timings": False}, {}), TracerProvider())
    if watch is not None:
        watch.began(made)
    client = _Client(place.port)
    tracer.listeners.append(listen)
    try:
        with clock.installed():
            for at, what, number in sorted(moments):
                clock.at = START + int(at * 1e9)
                if what == _BEGIN:
                    open_calls[number] = _begin(made, client, trips[number], clock.at)
                    numbers[id(open_calls[number])] = number
                    if watch is not None:
                        watch.opened(open_calls[number])
                elif what == _END:
                    _finish(made, open_calls[number], trips[number], clock.at)
                    if watch is None:  # fits run beside the application; here nobody waits for them
                        made.services.baselines.settle()
                    else:
                        watch.ended(len(claims) - 1)
                    del open_calls[number]
                else:
                    _go_on(open_calls[number], what, clock.at)
    finally:
        tracer.listeners.remove(listen)
    return [_measured(trip, claims[number], cell, number >= warm_up) for number, trip in enumerate(trips)]


def _begin(made: CallTracer, client: _Client, trip: Trip, at: int) -> Call:
    body = {"model": "tiny", "stream": trip.first is not None, "messages": list(trip.messages), **trip.params}
    call = made.begin(OPENAI, CHAT, client, body)
    assert isinstance(call, Call)
    attempt = Attempt(at)
    attempt.sent, attempt.rtt = at + int((trip.sent - trip.begin) * 1e9), RTT
    call.attempts.append(attempt)
    return call


def _go_on(call: Call, what: int, at: int) -> None:
    if what == _HEADERS:
        call.attempts[-1].headers_at = call.returned = at
        return
    block = call.chunk_timing.block
    block += [block[-1] if block else call.returned or at, at]
    delta = {"role": "assistant"} if what == _EVENT else {"content": "x"}
    call.look({"choices": [{"index": 0, "delta": delta}]}, at)


def _finish(made: CallTracer, call: Call, trip: Trip, at: int) -> None:
    usage = {
        "prompt_tokens": trip.prompt,
        "completion_tokens": trip.output,
        "total_tokens": trip.prompt + trip.output,
        "prompt_tokens_details": {"cached_tokens": trip.cached},
    }
    told = {"usage": usage} if trip.usage else {}
    if trip.first is None:
        message = {"role": "assistant", "content": "word " * trip.output}
        made.returned(call, {"choices": [{"index": 0, "message": message, "finish_reason": "length"}], **told})
        return
    block = call.chunk_timing.block
    before, left = block[-1], (trip.chunks or trip.output) - 1
    for step in range(1, left + 1):
        came = before + (at - before) * step // left
        block += [block[-1], came]
    call.recent.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}], **told})
    call.finish(COMPLETED, at)


def _measured(trip: Trip, claim: Claim, cell: str, warm: bool) -> Measured:
    def since(moment: float | None) -> float | None:
        return None if moment is None else moment - trip.begin

    return Measured(
        cell=cell,
        began=trip.begin,
        warm=warm,
        sent=since(trip.sent),
        headers=since(trip.headers),
        event=since(trip.event if trip.event is not None else trip.first),
        first=since(trip.first),
        end=trip.end - trip.begin,
        rtt=RTT,
        prompt=trip.prompt,
        cached=trip.cached or 0,
        output=trip.output,
        truth=trip.truth,
        claim=claim,
    )
