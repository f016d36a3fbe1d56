"""The real client over a transport that answers from memory: no kernel, no other process, no sockets.

Only the client's thread works, so that a busy machine disturbs least and instructions can be counted.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx2
import openai
from opentelemetry.trace import SpanKind

import llmtrace
from tests.evaluation.overhead.conversations import Asker, Messages
from tests.evaluation.overhead.floor import AT_START, floor
from tests.evaluation.overhead.loads import PER_CLIENT, request, streamed
from tests.evaluation.overhead.replay import PACED_CHUNKS, answer, envelope, event, prompt_usage, stream
from tests.evaluation.overhead.sinks import Sinks, records

ALL_PHASES, NO_METRICS, UNSAMPLED = "all phases, metrics", "all phases, no metrics", "unsampled, no metrics"
MODES = (ALL_PHASES, NO_METRICS, UNSAMPLED)
"""How llmtrace is switched on, by what the tables call it."""
SSE = {"content-type": "text/event-stream"}
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


def concurrent_calls(streams: int, seed: int = 0) -> Action:
    """So many streams of ten chunks at once, their prompts of 30 to 3,000 tokens, in turns chunk by chunk.

    Every action plays the next turn of the same callers' sessions.
    """
    loop, asker = asyncio.new_event_loop(), Asker(seed)
    sessions = [iter(_endless(asker)) for _ in range(streams)]
    transport = httpx2.MockTransport(lambda asked: httpx2.Response(200, headers=SSE, stream=_Turn(asked)))
    clients = [_async_client(transport) for _ in range(-(-streams // PER_CLIENT))]

    async def one(number: int) -> None:
        messages = next(sessions[number])
        create = clients[number // PER_CLIENT].chat.completions.create
        async for _chunk in await create(**streamed("paced", 0, messages)):
            pass

    async def at_once() -> None:
        await asyncio.gather(*(one(number) for number in range(streams)))

    return lambda: loop.run_until_complete(at_once())


class _Turn(httpx2.AsyncByteStream):
    """A stream of ten chunks; between two of them every other stream gets its turn."""

    def __init__(self, asked: httpx2.Request) -> None:
        self.usage, _ = prompt_usage(json.loads(asked.content)["messages"])

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield event({"role": "assistant", "content": "", "refusal": None})
        for number in range(PACED_CHUNKS):
            await asyncio.sleep(0)
            yield event({"content": f" token{number}"})
        last = envelope("chat.completion.chunk") | {"choices": [], "usage": self.usage}
        yield event({}, "stop") + b"data: " + json.dumps(last).encode() + b"\n\ndata: [DONE]\n\n"


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
