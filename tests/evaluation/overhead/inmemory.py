"""The real client over a transport that answers from memory: no kernel, no other process, no sockets.

Only the client's thread works, so that a busy machine disturbs least and instructions can be counted.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import openai
from opentelemetry.trace import SpanKind

import llmtrace
from tests.evaluation.common.clock import Clock
from tests.evaluation.common.clock import loop as virtual_loop
from tests.evaluation.overhead.conversations import Asker, Messages
from tests.evaluation.overhead.floor import AT_START, floor
from tests.evaluation.overhead.loads import PER_CLIENT, request, streamed
from tests.evaluation.overhead.replay import answer, paced, stream
from tests.evaluation.overhead.sinks import Sinks, records

ALL_PHASES, NO_METRICS, UNSAMPLED = "all phases, metrics", "all phases, no metrics", "unsampled, no metrics"
MODES = (ALL_PHASES, NO_METRICS, UNSAMPLED)
"""How llmtrace is switched on, by what the tables call it."""
SSE = {"content-type": "text/event-stream"}
LONG = 1000
"""Content chunks of the stream by which a chunk is known: what the end does for each chunk is in it."""
PACED_SECONDS = 2.0
"""How long a concurrent stream takes, on its clock."""
_URL = "https://api.example.com/v1"

Action = Callable[[], object]


def switched_on(mode: str) -> Sinks:
    """Turn llmtrace on in this mode; where its spans and metrics go."""
    sinks = Sinks(sampled=mode != UNSAMPLED, with_metrics=mode == ALL_PHASES, everywhere=False)
    more: dict[str, Any] = {"meter_provider": sinks.meter_provider} if sinks.meter_provider else {"metrics": False}
    llmtrace.instrument("openai", tracer_provider=sinks.tracer_provider, **more)
    return sinks


def call() -> Action:
    """One call that is not streamed, answered with the server's timings: llmtrace makes every phase of it."""
    body = answer(timed=True).partition(b"\r\n\r\n")[2]
    headers = {"content-type": "application/json"}
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, headers=headers, content=body))
    create = _client(transport).chat.completions.create
    kwargs = request("timed", 0)
    return lambda: create(**kwargs)


def streamed_call(chunks: int) -> Action:
    """One stream of so many content chunks, read to its end."""
    pieces = _bodies(stream(b"stream", chunks)[1:])

    class Pieces(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            return iter(pieces)

    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, headers=SSE, stream=Pieces()))
    create = _client(transport).chat.completions.create
    kwargs = streamed("stream", chunks)

    def read() -> None:
        for _chunk in create(**kwargs):
            pass

    return read


def async_streamed_call(chunks: int, loop: asyncio.AbstractEventLoop) -> Action:
    """The same with the asynchronous client."""
    pieces = _bodies(stream(b"stream", chunks)[1:])

    class Pieces(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece

    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, headers=SSE, stream=Pieces()))
    create = _async_client(transport).chat.completions.create
    kwargs = streamed("stream", chunks)

    async def read() -> None:
        async for _chunk in await create(**kwargs):
            pass

    return lambda: loop.run_until_complete(read())


@contextmanager
def concurrent_calls(streams: int, seed: int = 0) -> Iterator[Action]:
    """So many callers, each with one stream of ten chunks open at any time, their prompts of 30 to 3,000 tokens.

    An action plays a turn of each. Time is a clock's that moves when everybody waits: a stream's first chunk comes
    after a time that grows with its prompt, the others after it, as the replay server's do, and nothing takes real
    time.
    """
    clock, asker, chance = Clock(), Asker(seed), random.Random(seed)
    loop = virtual_loop(clock)
    sessions = [iter(_endless(asker)) for _ in range(streams)]
    transport = httpx2.MockTransport(lambda asked: httpx2.Response(200, headers=SSE, stream=_Turn(asked, chance)))
    clients = [_async_client(transport) for _ in range(-(-streams // PER_CLIENT))]

    async def one(number: int) -> None:
        await asyncio.sleep(PACED_SECONDS * number / streams)
        create = clients[number // PER_CLIENT].chat.completions.create
        async for _chunk in await create(**streamed("paced", 0, next(sessions[number]))):
            pass

    async def turn() -> None:
        await asyncio.gather(*(one(number) for number in range(streams)))

    with clock.installed():
        yield lambda: loop.run_until_complete(turn())
        loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


class _Turn(httpx2.AsyncByteStream):
    """A paced call's stream."""

    def __init__(self, asked: httpx2.Request, chance: random.Random) -> None:
        self.writes = paced(json.loads(asked.content)["messages"], PACED_SECONDS, chance)[1:]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        passed = 0.0
        for moment, data in self.writes:
            await asyncio.sleep(moment - passed)
            passed = moment
            for piece in _bodies([data]):
                yield piece


def _endless(asker: Asker) -> Iterator[Messages]:
    while True:
        yield from asker.session(20)


def sdk_spans(sinks: Sinks, histogram_records: int) -> Action:
    """What the SDK alone takes for a parent, four children and so many histogram records."""
    spans = floor(sinks, histogram_records)
    return lambda: spans(1)


def dropped_span(sinks: Sinks) -> Action:
    """What the SDK alone takes for a span that the sampler drops."""
    tracer = sinks.tracer_provider.get_tracer("floor")
    return lambda: tracer.start_span("chat m", kind=SpanKind.CLIENT, attributes=AT_START).end()


def records_of_a_call() -> int:
    """How many histogram records llmtrace makes for a call with all its phases."""
    sinks, action, times = switched_on(ALL_PHASES), call(), 4
    for _ in range(times):
        action()
    counted = records(sinks.collect())
    llmtrace.uninstrument()
    return round(counted / times)


def _client(transport: httpx2.MockTransport) -> openai.OpenAI:
    return openai.OpenAI(base_url=_URL, api_key="k", http_client=httpx2.Client(transport=transport))


def _async_client(transport: httpx2.MockTransport) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=_URL, api_key="k", http_client=httpx2.AsyncClient(transport=transport))


def _bodies(writes: list[bytes]) -> list[bytes]:
    """The pieces of a chunked body, without the lengths around them."""
    pieces: list[bytes] = []
    for write in writes:
        rest = write
        while rest:
            length, _, rest = rest.partition(b"\r\n")
            size = int(length, 16)
            if size:
                pieces.append(rest[:size])
            rest = rest[size + 2 :]
    return pieces
