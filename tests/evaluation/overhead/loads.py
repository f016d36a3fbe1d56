"""What a worker is asked to run: each load is a function of the client and a size."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import openai

from tests.evaluation.overhead.conversations import Messages
from tests.evaluation.overhead.files import allow_files
from tests.evaluation.overhead.heap import heap

PER_CLIENT = 20
"""Concurrent streams that share one client: the pool of the HTTP library looks at all its connections for each request,
and a single pool of hundreds would cost more than the calls and drown the differences."""
TICK = 0.005
"""Seconds that the ticker sleeps; what it oversleeps is the event loop's lag."""
MESSAGES: Any = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is a phase of a call?"},
]


def request(kind: str, size: int, messages: Any = MESSAGES) -> dict[str, Any]:
    """The arguments of one call: the same for every subject."""
    return {"model": f"replay-{kind}-{size}", "messages": messages, "temperature": 0.5, "max_tokens": 1024}


def streamed(kind: str, size: int, messages: Any = MESSAGES) -> dict[str, Any]:
    """The arguments of one streamed call, with the usage asked for as most applications do."""
    return request(kind, size, messages) | {"stream": True, "stream_options": {"include_usage": True}}


@dataclass
class Lag:
    """How late the event loop was, s."""

    longest: float = 0.0


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
        self.many: list[openai.AsyncOpenAI] = []
        self.open = self.peak = 0
        self.after: Callable[[], None] | None = None
        """What is done after each concurrent stream."""

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

    async def _one_after_the_other(self, size: int, times: int) -> None:
        create, kwargs = self.aclient.chat.completions.create, streamed("stream", size)
        for _ in range(times):
            async for _chunk in await create(**kwargs):
                pass

    def concurrent(self, sessions: list[list[Messages]], seconds: float) -> Lag:
        """A session per caller, all at once, each one call after the other; the server takes ``seconds`` over each.

        The callers begin one after another over the time that a call takes, as requests do that come from outside: the
        loop is never asked to begin all of them in one step.
        """
        while len(self.many) * PER_CLIENT < len(sessions):
            allow_files(4 * len(sessions) + 100)
            http = openai.DefaultAsyncHttpxClient(limits=_limits(), verify=False)
            self.many.append(openai.AsyncOpenAI(http_client=http, **self.settings))
        return self.loop.run_until_complete(self._sessions(sessions, seconds))

    async def _sessions(self, sessions: list[list[Messages]], seconds: float) -> Lag:
        milliseconds = round(seconds * 1e3)

        async def session(number: int, prompts: list[Messages]) -> None:
            client = self.many[number // PER_CLIENT]
            await asyncio.sleep(seconds * number / len(sessions))
            for messages in prompts:
                self.open += 1
                self.peak = max(self.peak, self.open)
                stream = await client.chat.completions.create(**streamed("paced", milliseconds, messages))
                async for _chunk in stream:
                    pass
                self.open -= 1
                if self.after is not None:
                    self.after()

        lag = Lag()
        ticker = asyncio.ensure_future(_tick(lag))
        await asyncio.gather(*(session(number, prompts) for number, prompts in enumerate(sessions)))
        ticker.cancel()
        return lag

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


async def _tick(lag: Lag) -> None:
    """Sleep again and again, and keep the longest that the loop was late."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + TICK
        await asyncio.sleep(TICK)
        lag.longest = max(lag.longest, loop.time() - due)


def _limits() -> Any:
    """Limits under which no connection is closed, in the class of the HTTP library that openai uses."""
    kind = type(openai.DEFAULT_CONNECTION_LIMITS)
    return kind(max_connections=PER_CLIENT, max_keepalive_connections=PER_CLIENT, keepalive_expiry=None)
