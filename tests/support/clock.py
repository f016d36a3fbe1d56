"""A clock of the test's own in the place of llmtrace's, for what depends on times and must not on the machine's.

Sockets, clients and servers stay real. Time passes only where the test says so: by ``advance``, and by ``tick`` with
each reading, so that no two moments are the same.
"""

from __future__ import annotations

import pkgutil
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import pytest

from tests.support.apis import Sync, http
from tests.support.replay import After, Part

MICROSECOND = 1_000


class Clock:
    """Monotonic ns, from the true time on."""

    def __init__(self, tick: int = MICROSECOND) -> None:
        self.at = time.perf_counter_ns()
        self.tick = tick
        """ns that pass with each reading."""

    def __call__(self) -> int:
        self.at += self.tick
        return self.at

    def advance(self, seconds: float) -> bool:
        """Let time pass. True, so that it can be what a server's part waits for."""
        self.at += round(seconds * 1e9)
        return True

    def passing(self, parts: Sequence[Part]) -> list[Part]:
        """A script's parts whose delays pass by this clock, at the moment when the server writes them."""
        return [(After(partial(self.advance, delay)), data) for delay, data in parts if isinstance(delay, float)]


def install(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Give every module of llmtrace's that reads the clock this one."""
    clock = Clock()
    for room in ("observe", "calls", "instrumentation", "tasks"):
        package = import_module(f"llmtrace.{room}")  # all of it: a module imported later would keep the clock for good
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            import_module(module.name)
    for name, module in list(sys.modules.items()):
        if name.startswith("llmtrace.") and getattr(module, "now", None) is time.perf_counter_ns:
            monkeypatch.setattr(module, "now", clock)
    return clock


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
