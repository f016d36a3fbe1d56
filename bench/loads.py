"""What a worker is asked to run: each load is a function of the client and a size."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import openai

from bench.heap import heap

PER_CLIENT = 20
"""Streams of a crowd that share one client."""
MESSAGES: Any = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is a phase of a call?"},
]


def request(kind: str, size: int) -> dict[str, Any]:
    """The arguments of one call: the same for every subject."""
    return {"model": f"replay-{kind}-{size}", "messages": MESSAGES, "temperature": 0.5, "max_tokens": 1024}


def streamed(kind: str, size: int) -> dict[str, Any]:
    """The arguments of one streamed call, with the usage asked for as most applications do."""
    return request(kind, size) | {"stream": True, "stream_options": {"include_usage": True}}


class Loads:
    """A worker's clients and the loads that run on them."""

    def __init__(self, port: int) -> None:
        self.settings: Any = {
            "base_url": f"http://127.0.0.1:{port}/v1",
            "api_key": "sk-bench",
            "max_retries": 0,
            "timeout": 120,
        }
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.client = openai.OpenAI(**self.settings)
        self.aclient = openai.AsyncOpenAI(**self.settings)
        self.crowd_clients: list[openai.AsyncOpenAI] = []
        self.open = self.peak = 0

    def call(self, kind: str, times: int) -> None:
        """Calls that are not streamed."""
        create, kwargs = self.client.chat.completions.create, request(kind, 0)
        for _ in range(times):
            create(**kwargs)

    def stream(self, size: int, times: int) -> None:
        """Streams read to the end, one after the other."""
        create, kwargs = self.client.chat.completions.create, streamed("stream", size)
        for _ in range(times):
            for _chunk in create(**kwargs):
                pass

    def astream(self, size: int, times: int) -> None:
        """The same with the asynchronous client."""
        self.loop.run_until_complete(self._one_after_the_other(size, times))

    def crowd(self, size: int, times: int) -> None:
        """``times`` asynchronous streams at once, over clients with few connections each.

        The pool of the HTTP library looks at all its connections for each request; a single pool of hundreds would
        cost ten times as much as the calls and drown the differences.
        """
        while len(self.crowd_clients) * PER_CLIENT < times:
            http = openai.DefaultAsyncHttpxClient(limits=_limits(), verify=False)
            self.crowd_clients.append(openai.AsyncOpenAI(http_client=http, **self.settings))
        self.loop.run_until_complete(self._at_once(size, times))

    async def _one_after_the_other(self, size: int, times: int) -> None:
        create, kwargs = self.aclient.chat.completions.create, streamed("stream", size)
        for _ in range(times):
            async for _chunk in await create(**kwargs):
                pass

    async def _at_once(self, size: int, times: int) -> None:
        kwargs = streamed(f"crowd{times}", size)

        async def one(client: openai.AsyncOpenAI) -> None:
            stream = await client.chat.completions.create(**kwargs)
            self.open += 1
            self.peak = max(self.peak, self.open)
            async for _chunk in stream:
                pass
            self.open -= 1

        await asyncio.gather(*(one(self.crowd_clients[i // PER_CLIENT]) for i in range(times)))

    def memory(self, size: int) -> int:
        """Bytes that one open stream holds after ``size`` content chunks were read and dropped."""
        create, kwargs = self.client.chat.completions.create, streamed("hold", size)
        gc.collect()
        before = heap()
        stream = create(**kwargs)
        chunks = iter(stream)
        for _ in range(size + 1):
            next(chunks)
        gc.collect()
        held = heap() - before
        del chunks
        stream.close()
        return held


def _limits() -> Any:
    """Limits under which no connection of a crowd is closed, in the class of the HTTP library that openai uses."""
    kind = type(openai.DEFAULT_CONNECTION_LIMITS)
    return kind(max_connections=PER_CLIENT, max_keepalive_connections=PER_CLIENT, keepalive_expiry=None)
