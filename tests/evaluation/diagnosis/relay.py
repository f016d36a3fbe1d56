"""What lies between a client and its server: a TCP relay that delays, paces and leads elsewhere when told to."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_LAST = b"0\r\n\r\n"
"""How a chunked response ends."""


@dataclass
class Way:
    """How bytes go at present; changed while the relay runs, the next request follows it."""

    upstream: tuple[str, int]
    delay: float = 0.0
    """Added to every byte, half of it on each way, s."""
    wait: float = 0.0
    """Added to an answer behind its headers, as a queue in the engine does, s."""
    whole: bool = False
    """Answers come in one piece, their headers with them: ``wait`` is added to these too."""
    stretch: float = 1.0
    """By how many times the pauses between an answer's pieces get longer."""
    bursts: int = 0
    """The answer's pieces that are handed on together; 0: each as it comes, -1: all of an answer."""
    asks: list[tuple[bytes, bytes]] = field(default_factory=list[tuple[bytes, bytes]])
    """What is replaced in requests, by as many bytes."""
    says: list[tuple[bytes, bytes]] = field(default_factory=list[tuple[bytes, bytes]])
    """What is replaced in answers."""


@contextmanager
def relay(way: Way) -> Iterator[int]:
    """A relay on a port of its own, which is what this yields, in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(_serve(way), loop).result(10)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(_close(server), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _serve(way: Way) -> asyncio.Server:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await _requests(way, reader, writer)
        writer.close()

    return await asyncio.start_server(connected, "127.0.0.1", 0)


async def _close(server: asyncio.Server) -> None:
    server.close()
    own = asyncio.current_task()
    others = [task for task in asyncio.all_tasks() if task is not own]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _requests(way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Requests of one connection, each to where the way leads when it comes: a client sends none before the last
    one's answer has ended."""
    to: tuple[str, int] | None = None
    far: asyncio.StreamWriter | None = None
    answers: asyncio.Task[None] | None = None
    try:
        while data := await reader.read(1 << 16):
            if way.delay:
                await asyncio.sleep(way.delay / 2)
            if far is None or to != way.upstream:
                if far is not None:
                    far.close()
                to = way.upstream
                near, far = await asyncio.open_connection(*to)
                answers = asyncio.ensure_future(_answers(way, near, writer))
            for old, new in way.asks:
                data = data.replace(old, new)
            far.write(data)
            await far.drain()
    finally:
        if answers is not None:
            answers.cancel()
        if far is not None:
            far.close()


async def _answers(way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What a server says on one connection, each piece half of ``way.delay`` after it came."""
    loop = asyncio.get_running_loop()
    kept: list[bytes] = []

    def hand_on(data: bytes) -> None:
        for old, new in way.says:
            data = data.replace(old, new)
        kept.append(data)
        if data.endswith(_LAST) or (way.bursts >= 0 and len(kept) >= way.bursts):
            writer.write(b"".join(kept))
            kept.clear()

    behind_headers, first, last = False, 0.0, 0.0
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            now = loop.time()
            due = now + way.delay / 2
            if behind_headers or way.whole:
                first = first or now
                due += way.wait + (way.stretch - 1) * (now - first)
            behind_headers = not data.endswith(_LAST)
            if not behind_headers:
                first = 0.0
            last = max(due, last + 1e-6)
            if last > now:
                loop.call_at(last, hand_on, data)
            else:
                hand_on(data)
