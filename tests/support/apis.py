"""The synchronous and the asynchronous OpenAI client behind one set of verbs, so that each case is written once."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import openai

from tests.support.spans import SECRETS

http: Any = importlib.import_module(
    next(base.__module__ for base in openai.DefaultHttpxClient.__mro__ if base.__name__ == "Client").partition(".")[0]
)
"""The library that this version of the client speaks through: httpx2, or httpx."""

LOST = (openai.APIConnectionError, http.TransportError)
"""What a connection lost in mid-stream raises: older clients let the transport's own exception through."""

PROMPT, SYSTEM, KEY = SECRETS
MESSAGES: list[Any] = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": PROMPT}]
MODEL = "gpt-4o-mini"
TIMEOUT = 30.0


def request(**changes: Any) -> dict[str, Any]:
    """Arguments of a chat completion; ``stream=True`` makes it a stream."""
    return {"model": MODEL, "messages": MESSAGES} | changes


def sync_client(base_url: str, **settings: Any) -> openai.OpenAI:
    settings = {"api_key": KEY, "max_retries": 0, "timeout": TIMEOUT} | settings
    if "http_client" not in settings:  # verify=False only spares loading the certificates; the server speaks HTTP
        settings["http_client"] = openai.DefaultHttpxClient(verify=False)
    return openai.OpenAI(base_url=base_url, **settings)


def async_client(base_url: str, **settings: Any) -> openai.AsyncOpenAI:
    settings = {"api_key": KEY, "max_retries": 0, "timeout": TIMEOUT} | settings
    if "http_client" not in settings:
        settings["http_client"] = openai.DefaultAsyncHttpxClient(verify=False)
    return openai.AsyncOpenAI(base_url=base_url, **settings)


class Sync:
    """The plain client."""

    name = "sync"
    stream_type: Any = openai.Stream

    def __init__(self, base_url: str, **settings: Any) -> None:
        self.client: Any = sync_client(base_url, **settings)
        self.moments: list[int] = []
        """When each item of a stream came to the application (``time.time_ns()``)."""

    def noted(self, item: Any) -> Any:
        self.moments.append(time.time_ns())
        return item

    def run(self, value: Any) -> Any:
        """Returns the value itself; the asynchronous side awaits it."""
        return value

    def create(self, **changes: Any) -> Any:
        return self.run(self.client.chat.completions.create(**request(**changes)))

    def stream(self, **changes: Any) -> Any:
        return self.create(stream=True, **changes)

    def pull(self, stream: Any) -> Any:
        return self.noted(next(stream))

    def take(self, stream: Any, count: int) -> list[Any]:
        """A ``for`` loop that breaks after ``count`` items."""
        items: list[Any] = []
        for item in stream:
            items.append(self.noted(item))
            if len(items) == count:
                break
        return items

    def drain(self, stream: Any) -> list[Any]:
        return [self.noted(item) for item in stream]

    def close(self, stream: Any) -> None:
        stream.close()

    @contextmanager
    def entered(self, manager: Any) -> Iterator[Any]:
        """``with`` here, ``async with`` on the other side."""
        with manager as value:
            yield value

    def collect(self) -> None:
        """Collect garbage, as happens some time after objects were dropped."""
        gc.collect()

    def shut(self) -> None:
        self.client.close()


class Async(Sync):
    """The asynchronous client, on a loop of its own."""

    name = "async"
    stream_type: Any = openai.AsyncStream

    def __init__(self, base_url: str, **settings: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.client = async_client(base_url, **settings)
        self.moments = []

    def run(self, value: Awaitable[Any]) -> Any:
        async def awaited() -> Any:
            return await value

        return self.loop.run_until_complete(awaited())

    def pull(self, stream: Any) -> Any:
        return self.noted(self.run(stream.__anext__()))

    def take(self, stream: Any, count: int) -> list[Any]:
        async def loop() -> list[Any]:
            items: list[Any] = []
            async for item in stream:
                items.append(self.noted(item))
                if len(items) == count:
                    break
            return items

        return self.run(loop())

    def drain(self, stream: Any) -> list[Any]:
        async def loop() -> list[Any]:
            return [self.noted(item) async for item in stream]

        return self.run(loop())

    def close(self, stream: Any) -> None:
        self.run(stream.close())

    @contextmanager
    def entered(self, manager: Any) -> Iterator[Any]:
        stack = contextlib.AsyncExitStack()
        value = self.run(stack.enter_async_context(manager))
        try:
            yield value
        except BaseException as error:
            if not self.run(stack.__aexit__(type(error), error, error.__traceback__)):
                raise
        else:
            self.run(stack.aclose())

    def collect(self) -> None:
        gc.collect()
        # The loop closes dropped asynchronous generators in tasks of its own.
        for _ in range(3):
            self.run(asyncio.sleep(0))
        gc.collect()

    def shut(self) -> None:
        self.run(self.client.close())
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


@dataclass
class Experience:
    """One call as an application experiences it: everything it got, and the exception that ended it."""

    kind: str = ""
    items: list[Any] = field(default_factory=list)
    error: Any = None


def live_through(api: Sync, **changes: Any) -> Experience:
    """Make one call to its end, whatever that is."""
    lived = Experience()
    try:
        answer = api.create(**changes)
        lived.kind = type(answer).__qualname__
        if isinstance(answer, (openai.Stream, openai.AsyncStream)):
            while True:
                lived.items.append(dump(api.pull(answer)))
        lived.items.append(dump(answer))
    except (StopIteration, StopAsyncIteration) as end:
        lived.error = type(end).__qualname__
    except Exception as error:
        lived.error = describe(error)
    return lived


def dump(item: Any) -> Any:
    return item.model_dump(warnings=False) if hasattr(item, "model_dump") else item


def describe(error: BaseException | None) -> Any:
    """An exception and its causes, as far as an application can tell two of them apart."""
    if error is None:
        return None
    facts = {
        name: getattr(error, name, None) for name in ("status_code", "code", "param", "type", "body", "request_id")
    }
    return {
        "type": f"{type(error).__module__}.{type(error).__qualname__}",
        "text": str(error),
        "facts": {name: value for name, value in facts.items() if isinstance(value, (str, int, dict, type(None)))},
        "cause": describe(error.__cause__),
        "context": describe(error.__context__),
        "quiet": error.__suppress_context__,
    }


class Boom(Exception):
    """An exception of the application's own transport."""


class BoomStream(http.SyncByteStream, http.AsyncByteStream):
    """A response body that raises a given object after some of its bytes."""

    def __init__(self, inner: Any, error: BaseException, after: int) -> None:
        self.inner, self.error, self.after = inner, error, after

    def __iter__(self) -> Iterator[bytes]:
        for count, part in enumerate(self.inner):
            if count == self.after:
                raise self.error
            yield part

    async def __aiter__(self) -> Any:
        count = 0
        async for part in self.inner:
            if count == self.after:
                raise self.error
            count += 1
            yield part

    def close(self) -> None:
        self.inner.close()

    async def aclose(self) -> None:
        await self.inner.aclose()


def boom_client(api: type[Sync], base_url: str, error: BaseException, after: int | None) -> Sync:
    """A client whose own transport raises ``error``: at once (``after=None``) or after some parts of the body."""

    def spoil(response: http.Response) -> http.Response:
        if after is not None:
            response.stream = BoomStream(response.stream, error, after)
        return response

    class Transport(http.HTTPTransport):
        def handle_request(self, request: http.Request) -> http.Response:
            if after is None:
                raise error
            return spoil(super().handle_request(request))

    class AsyncTransport(http.AsyncHTTPTransport):
        async def handle_async_request(self, request: http.Request) -> http.Response:
            if after is None:
                raise error
            return spoil(await super().handle_async_request(request))

    if api is Async:
        return Async(base_url, http_client=http.AsyncClient(transport=AsyncTransport(verify=False)))
    return Sync(base_url, http_client=http.Client(transport=Transport(verify=False)))


ApiFactory = Callable[..., Sync]
