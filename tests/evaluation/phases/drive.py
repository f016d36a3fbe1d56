"""The real ``openai`` client, asynchronous, over real sockets: as fast as it goes, or on a schedule."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence

import openai

from tests.evaluation.phases.arrivals import Ask

Tick = Callable[[int], None]


class Driver:
    """Calls one server. Use as an asynchronous context manager."""

    def __init__(self, base_url: str, model: str) -> None:
        self.model = model
        # Open loop: no call may wait for a connection; the client's own limit is 1,000 of them.
        self._client = openai.AsyncOpenAI(base_url=base_url, api_key="none-needed", max_retries=0, timeout=120)
        self.failed: list[str] = []
        """What went wrong with calls."""

    async def __aenter__(self) -> Driver:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def ask(self, ask: Ask) -> int | None:
        """One streamed call, read to its end as fast as it comes. Returns its prompt tokens."""
        try:
            stream = await self._client.chat.completions.create(
                model=self.model,
                messages=[{"role": "user", "content": ask.text}],
                max_tokens=ask.max_tokens,
                temperature=0,
                stream=True,
                stream_options={"include_usage": True},
                extra_body={"ignore_eos": True},
            )
            tokens = None
            async for chunk in stream:
                if chunk.usage is not None:
                    tokens = chunk.usage.prompt_tokens
            return tokens
        except openai.OpenAIError as error:
            self.failed.append(f"{type(error).__name__}: {error}")
            return None

    async def words_per_token(self, text: list[str]) -> float:
        """How many words make a token, from the server's own count; the few tokens of the template are left in."""
        tokens = await self.ask(Ask(" ".join(text), 1))
        if not tokens:
            raise RuntimeError(f"the server did not answer: {self.failed[-1] if self.failed else 'no usage'}")
        return len(text) / tokens

    async def capacity(self, asks: Iterator[Ask], at_once: int, seconds: float) -> float:
        """Calls/s that the server completes when ``at_once`` callers ask without pause."""
        done = 0
        began = time.monotonic()
        until = began + seconds

        async def caller() -> None:
            nonlocal done
            while time.monotonic() < until:
                await self.ask(next(asks))
                if time.monotonic() < until:
                    done += 1

        await asyncio.gather(*(caller() for _ in range(at_once)))
        return max(done, 1) / seconds

    async def open_loop(self, moments: Sequence[float], asks: Sequence[Ask], tick: Tick) -> None:
        """Send each call at its moment (s from now), whatever became of those before it; wait for all."""
        began = time.monotonic()

        async def one(moment: float, ask: Ask) -> None:
            await asyncio.sleep(moment - (time.monotonic() - began))
            await self.ask(ask)
            tick(1)

        await asyncio.gather(*(one(moment, ask) for moment, ask in zip(moments, asks, strict=True)))
