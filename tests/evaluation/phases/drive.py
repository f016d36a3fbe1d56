"""The real ``openai`` client, asynchronous, over real sockets: as fast as it goes, or on a schedule."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import httpx2
import openai

from tests.evaluation.phases.arrivals import Ask
from tests.evaluation.phases.blindfold import Blindfold

Tick = Callable[[int], None]


class Driver:
    """Calls one server. Use as an asynchronous context manager."""

    def __init__(
        self, base_url: str, model: str, *, streamed: bool = True, usage: bool = True, host: str | None = None
    ) -> None:
        """``streamed`` and ``usage``: how the calls ask; ``host``: what the client knows the server by, if not by its
        address."""
        self.model = model
        self.streamed = streamed
        self.usage = usage
        url = httpx2.URL(base_url)
        self.blindfold = Blindfold(url.host)
        # Open loop: no call may wait for a connection.
        self.client = openai.AsyncOpenAI(
            base_url=url if host is None else url.copy_with(host=host),
            api_key="none-needed",
            max_retries=0,
            timeout=120,
            http_client=httpx2.AsyncClient(transport=self.blindfold, timeout=120),
        )
        self.asked = 0
        """Calls made so far."""
        self.failed: list[str] = []
        """What went wrong with calls."""

    async def __aenter__(self) -> Driver:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()

    async def ask(self, ask: Ask) -> str | None:
        """One call, read to its end as fast as it comes. Returns the answer's id."""
        self.asked += 1
        create: Any = self.client.chat.completions.create
        body: dict[str, Any] = {
            "model": self.model,
            "messages": list(ask.messages),
            "max_tokens": ask.max_tokens,
            "temperature": 0,
            "extra_body": {"ignore_eos": True},
        }
        try:
            if not self.streamed:
                return str((await create(**body)).id)
            options = {"stream_options": {"include_usage": True}} if self.usage else {}
            name = None
            async for chunk in await create(**body, stream=True, **options):
                name = chunk.id or name
            return name
        except openai.OpenAIError as error:
            self.failed.append(f"{type(error).__name__}: {error}")
            return None

    async def words_per_token(self, ask: Ask) -> float:
        """How many words make a token, from the server's own count; the few tokens of the template are left in."""
        name = await self.ask(ask)
        word = self.blindfold.words.get(name or "")
        if word is None or not word.prompt:
            raise RuntimeError(f"the server did not answer: {self.failed[-1] if self.failed else 'no usage'}")
        return len(ask.text.split()) / word.prompt

    async def capacity(self, asks: Iterator[Ask], at_once: int, seconds: float) -> float:
        """Calls/s that the server completes when ``at_once`` callers ask without pause."""
        done = 0
        until = time.monotonic() + seconds

        async def caller() -> None:
            nonlocal done
            while time.monotonic() < until:
                await self.ask(next(asks))
                if time.monotonic() < until:
                    done += 1

        await asyncio.gather(*(caller() for _ in range(at_once)))
        return max(done, 1) / seconds

    async def open_loop(self, moments: Sequence[float], asks: Iterable[Ask], tick: Tick, most: float) -> None:
        """Send each call at its moment (s from now), whatever became of those before it; wait for all.

        ``most``: seconds after which those still under way are given up.
        """
        began = time.monotonic()

        async def one(moment: float, ask: Ask) -> None:
            await asyncio.sleep(moment - (time.monotonic() - began))
            await self.ask(ask)
            tick(1)

        tasks = [asyncio.ensure_future(one(moment, ask)) for moment, ask in zip(moments, asks, strict=False)]
        try:
            _, late = await asyncio.wait(tasks, timeout=most)
            self.failed += ["given up: it took too long"] * len(late)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def endless(self, gaps: Iterator[float], asks: Iterator[Ask]) -> None:
        """Send a call after each gap (s), whatever became of those before it, until cancelled."""
        under_way: set[asyncio.Task[str | None]] = set()
        due = time.monotonic()
        for gap, ask in zip(gaps, asks, strict=False):
            due += gap
            await asyncio.sleep(due - time.monotonic())
            task = asyncio.ensure_future(self.ask(ask))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
