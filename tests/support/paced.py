"""The bodies of the OpenAI client's answers on a test's own clock, event by event."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tests.support.apis import Sync, http
from tests.support.clock import Clock


class PacedBody(http.SyncByteStream, http.AsyncByteStream):
    """A body of which each server-sent event, or the whole of another kind, comes a set time after it is asked for."""

    def __init__(self, inner: Any, clock: Clock, delays: Sequence[float]) -> None:
        self.inner, self.clock, self.delays = inner, clock, iter(delays)
        self.held = b""

    def events(self, part: bytes) -> Iterator[bytes]:
        *whole, self.held = (self.held + part).split(b"\n\n")
        for event in whole:
            self.clock.advance(next(self.delays, 0.0))
            yield event + b"\n\n"

    def rest(self) -> Iterator[bytes]:
        if self.held:
            self.clock.advance(next(self.delays, 0.0))
            yield self.held

    def __iter__(self) -> Iterator[bytes]:
        for part in self.inner:
            yield from self.events(part)
        yield from self.rest()

    async def __aiter__(self) -> Any:
        async for part in self.inner:
            for event in self.events(part):
                yield event
        for rest in self.rest():
            yield rest

    def close(self) -> None:
        self.inner.close()

    async def aclose(self) -> None:
        await self.inner.aclose()


def pace(api: Sync, clock: Clock, delays: Sequence[float]) -> None:
    """Let the bodies of this client's answers take these times, event by event, on the test's clock."""

    def slow(response: Any) -> None:
        response.stream = PacedBody(response.stream, clock, delays)

    async def aslow(response: Any) -> None:
        slow(response)

    api.client._client.event_hooks = {"request": [], "response": [aslow if api.name == "async" else slow]}
