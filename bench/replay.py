"""The replay server: plays prebuilt chat completions over raw sockets, so that its own cost is small and constant.

What is played is named by the model:

- ``replay-call-0``: a whole answer; ``replay-timed-0``: the same with the server's timings (vLLM's ``metrics``);
- ``replay-stream-200``: an SSE stream of 200 content chunks; ``replay-hold-200``: the same, then silence;
- ``replay-crowd500-40``: streams of 40 that begin together, as soon as 500 of them were asked for.

Run as ``python -m bench.replay``: prints its port, ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from functools import cache

EVENTS_PER_PIECE = 8
"""Server-sent events in one HTTP chunk."""
PIECES_PER_WRITE = 8
CROWD_PACE = 0.12
"""Seconds between two pieces of a crowd's streams, so that the streams lie open side by side and take turns."""
MODEL = re.compile(rb'"model":\s*"replay-([a-z]+)(\d*)-(\d+)"')
LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
METRICS = {"queue_time_ms": 0.02, "time_to_first_token_ms": 0.05, "generation_time_ms": 0.1}
"""Milliseconds, shorter than the fastest call, so that no reader has cause to doubt them."""
USAGE = {
    "prompt_tokens": 512,
    "completion_tokens": 128,
    "total_tokens": 640,
    "prompt_tokens_details": {"cached_tokens": 256, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
}


def envelope(kind: str) -> dict[str, object]:
    """The fields that every body and every chunk begins with."""
    return {
        "id": "chatcmpl-CJ2qXk3vJmP0Yw8sTz5bN1aQ",
        "object": kind,
        "created": 1763900000,
        "model": "replay-model-2026-11-01",
        "service_tier": "default",
        "system_fingerprint": "fp_3f58d112f7",
    }


def answer(timed: bool) -> bytes:
    """A whole chat completion, headers and all."""
    message = {"role": "assistant", "content": "A phase is a part of a call. " * 18, "refusal": None, "annotations": []}
    body = envelope("chat.completion") | {
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": USAGE,
    }
    if timed:
        body["metrics"] = METRICS
    data = json.dumps(body).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(data), data)


def event(delta: dict[str, object], finish: str | None = None) -> bytes:
    """One chunk as a server-sent event."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    chunk = envelope("chat.completion.chunk") | {"choices": [choice], "usage": None}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def framed(events: list[bytes], pieces_per_write: int = PIECES_PER_WRITE) -> list[bytes]:
    """The events in HTTP chunks of a moderate size, several of them to a write."""
    pieces = [b"".join(events[i : i + EVENTS_PER_PIECE]) for i in range(0, len(events), EVENTS_PER_PIECE)]
    chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
    return [b"".join(chunks[i : i + pieces_per_write]) for i in range(0, len(chunks), pieces_per_write)]


def stream(kind: bytes, content_chunks: int) -> list[bytes]:
    """A streamed chat completion: role, content, finish, usage with the server's timings, [DONE]."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    events = [event({"role": "assistant", "content": "", "refusal": None})]
    events += [event({"content": f" token{i % 10}"}) for i in range(content_chunks)]
    if kind == b"hold":
        return [head, *framed(events)]
    usage = envelope("chat.completion.chunk") | {"choices": [], "usage": USAGE, "metrics": METRICS}
    last = [event({}, "stop"), b"data: " + json.dumps(usage).encode() + b"\n\n", b"data: [DONE]\n\n"]
    if kind == b"crowd":
        return [head + framed(events[:1])[0], *framed(events[1:], 1), framed(last)[0] + b"0\r\n\r\n"]
    return [head, *framed(events + last), b"0\r\n\r\n"]


@cache
def play(kind: bytes, size: int) -> list[bytes]:
    """The writes that play ``kind``."""
    if kind in (b"call", b"timed"):
        return [answer(kind == b"timed")]
    return stream(kind, size)


class Replay(asyncio.Protocol):
    """One connection: reads whole requests and answers each with what its model names."""

    crowd: list[asyncio.Transport] = []
    """The connections whose streams wait for the rest of their crowd."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.inbox = bytearray()

    def data_received(self, data: bytes) -> None:
        self.inbox += data
        while (end := self.inbox.find(b"\r\n\r\n")) >= 0:
            length = LENGTH.search(self.inbox, 0, end)
            total = end + 4 + (int(length[1]) if length else 0)
            if len(self.inbox) < total:
                return
            model = MODEL.search(bytes(self.inbox[:total]))
            del self.inbox[:total]
            if model and model[1] == b"crowd":
                self.join(int(model[2]), int(model[3]))
                continue
            for piece in play(model[1], int(model[3])) if model else [NOT_FOUND]:
                self.transport.write(piece)

    def join(self, expected: int, size: int) -> None:
        """Wait for the whole crowd; then send each stream's first piece, later each one's second, and so on."""
        Replay.crowd.append(self.transport)
        if len(Replay.crowd) < expected:
            return
        crowd, Replay.crowd = Replay.crowd, []
        loop = asyncio.get_running_loop()
        for turn, piece in enumerate(play(b"crowd", size)):
            loop.call_later(turn * CROWD_PACE, lambda piece=piece: [each.write(piece) for each in crowd])


async def serve() -> None:
    """Listen on a free port of this machine until standard input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Replay, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    over = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), over.set)
    await over.wait()


if __name__ == "__main__":
    asyncio.run(serve())
