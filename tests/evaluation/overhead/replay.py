"""The replay server: plays prebuilt chat completions over raw sockets, so that its own cost is small and constant.

What is played is named by the model:

- ``replay-call-0``: a whole answer; ``replay-timed-0``: the same with the server's timings (vLLM's ``metrics``);
- ``replay-stream-200``: an SSE stream of 200 content chunks; ``replay-hold-200``: the same, then silence;
- ``replay-paced-400``: a stream of ten chunks that takes 400 ms: the first after a time that grows with the prompt's
  tokens (and for some calls with a queue), the others evenly after it. Its usage counts the prompt and what was cached.

Run as ``python -m tests.evaluation.overhead.replay``: prints its port, ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
from functools import cache

from tests.evaluation.overhead.files import allow_files

EVENTS_PER_PIECE = 8
"""Server-sent events in one HTTP chunk."""
PIECES_PER_WRITE = 8
MOST_CONNECTIONS = 8000
PACED_CHUNKS = 10
CHARACTERS_PER_TOKEN, CACHE_BLOCK = 4, 128
"""Of a paced call's usage: prompt tokens by its characters; whole blocks of what was said before are cached."""
FIXED, PER_TOKEN, QUEUED, QUEUE = 0.1, 0.4 / 3000, 0.2, 0.3
"""Of a paced call's time: until the first token, and more per uncached token; the share of calls that queue, and how
long at most."""
MODEL = re.compile(rb'"model":\s*"replay-([a-z]+)-(\d+)"')
LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
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


def framed(events: list[bytes]) -> list[bytes]:
    """The events in HTTP chunks of a moderate size, several of them to a write."""
    pieces = [b"".join(events[i : i + EVENTS_PER_PIECE]) for i in range(0, len(events), EVENTS_PER_PIECE)]
    chunks = [http_chunk(piece) for piece in pieces]
    return [b"".join(chunks[i : i + PIECES_PER_WRITE]) for i in range(0, len(chunks), PIECES_PER_WRITE)]


def http_chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def stream(kind: bytes, content_chunks: int) -> list[bytes]:
    """A streamed chat completion: role, content, finish, usage with the server's timings, [DONE]."""
    events = [event({"role": "assistant", "content": "", "refusal": None})]
    events += [event({"content": f" token{i % 10}"}) for i in range(content_chunks)]
    if kind == b"hold":
        return [STREAM_HEAD, *framed(events)]
    usage = envelope("chat.completion.chunk") | {"choices": [], "usage": USAGE, "metrics": METRICS}
    last = [event({}, "stop"), b"data: " + json.dumps(usage).encode() + b"\n\n", b"data: [DONE]\n\n"]
    return [STREAM_HEAD, *framed(events + last), b"0\r\n\r\n"]


def prompt_usage(messages: list[dict[str, str]]) -> tuple[dict[str, object], int]:
    """The usage of a paced call, and how many of its prompt tokens were not cached.

    A prompt that holds an answer continues a conversation: what came before its last question was computed before.
    """
    total = sum(len(message["content"]) for message in messages) // CHARACTERS_PER_TOKEN
    before = sum(len(message["content"]) for message in messages[:-1]) // CHARACTERS_PER_TOKEN
    cached = before // CACHE_BLOCK * CACHE_BLOCK
    usage = USAGE | {
        "prompt_tokens": total,
        "completion_tokens": PACED_CHUNKS,
        "total_tokens": total + PACED_CHUNKS,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
    }
    return usage, total - cached


def paced(messages: list[dict[str, str]], seconds: float, chance: random.Random) -> list[tuple[float, bytes]]:
    """When each write of a paced call goes out (s after it was asked for), and what it is."""
    usage, uncached = prompt_usage(messages)
    first = seconds * (FIXED + PER_TOKEN * uncached)
    if chance.random() < QUEUED:
        first += seconds * QUEUE * chance.random()
    role, *content = paced_events()
    last = envelope("chat.completion.chunk") | {"choices": [], "usage": usage}
    end = event({}, "stop") + b"data: " + json.dumps(last).encode() + b"\n\ndata: [DONE]\n\n"
    gap = (seconds - first) / len(content)
    writes = [(0.0, STREAM_HEAD), (first, http_chunk(role + content[0]))]
    writes += [(first + gap * number, http_chunk(chunk)) for number, chunk in enumerate(content[1:], 1)]
    return [*writes, (seconds, http_chunk(end) + b"0\r\n\r\n")]


@cache
def paced_events() -> list[bytes]:
    """The chunk that names the role, and the content chunks."""
    role = event({"role": "assistant", "content": "", "refusal": None})
    return [role, *(event({"content": f" token{number}"}) for number in range(PACED_CHUNKS))]


@cache
def play(kind: bytes, size: int) -> list[bytes]:
    """The writes that play ``kind``."""
    if kind in (b"call", b"timed"):
        return [answer(kind == b"timed")]
    return stream(kind, size)


class Replay(asyncio.Protocol):
    """One connection: reads whole requests and answers each with what its model names."""

    chance = random.Random(0)
    """Which paced calls queue."""

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
            body = bytes(self.inbox[end + 4 : total])
            del self.inbox[:total]
            if model and model[1] == b"paced":
                self.play_paced(json.loads(body)["messages"], int(model[2]) / 1e3)
                continue
            for piece in play(model[1], int(model[2])) if model else [NOT_FOUND]:
                self.transport.write(piece)

    def play_paced(self, messages: list[dict[str, str]], seconds: float) -> None:
        """Write each part at its moment."""
        loop = asyncio.get_running_loop()
        for delay, data in paced(messages, seconds, self.chance):
            loop.call_later(delay, self.transport.write, data)


async def serve() -> None:
    """Listen on a free port of this machine until standard input ends."""
    allow_files(MOST_CONNECTIONS)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Replay, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    over = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), over.set)
    await over.wait()


if __name__ == "__main__":
    asyncio.run(serve())
