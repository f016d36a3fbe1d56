"""A stream that a proxy gathers, to a real client that closes its connection at the stream's end."""

from __future__ import annotations

import json
import socket
import sys
import time

import openai
import pytest

import llmtrace
from llmtrace.calls import tracer
from llmtrace.calls.result import Result
from tests.support.answering import answering
from tests.support.spans import Spans

CHUNKS = 24
_HEADERS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _answer(text: str) -> bytes:
    delta = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    chunk = {"id": "a", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [delta]}
    data = b"data: " + json.dumps(chunk).encode() + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


def _serve(connection: socket.socket) -> None:
    """Answer one request: silence, and then all chunks in one piece."""
    connection.recv(1 << 16)
    connection.sendall(_HEADERS)
    time.sleep(0.02)  # or they would be read with the headers
    connection.sendall(b"".join(_answer("word ") for _ in range(CHUNKS)) + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
    connection.recv(1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts a connection's segments")
def test_the_kernels_count_outlives_the_connection() -> None:
    told: list[tuple[bool, int | None]] = []

    def listen(ended: Result) -> None:
        attempt = ended.call.attempts[-1]
        told.append((attempt.tcp_info() is None, attempt.segments()))

    llmtrace.instrument("openai", tracer_provider=Spans().provider)
    tracer.listeners.append(listen)
    try:
        with (
            answering(_serve) as (host, port),
            openai.OpenAI(base_url=f"http://{host}:{port}/v1", api_key="unused") as client,
        ):
            stream = client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "Hello"}], stream=True
            )
            assert sum(1 for _ in stream) == CHUNKS
    finally:
        tracer.listeners.remove(listen)
        llmtrace.uninstrument()
    ((closed, segments),) = told
    assert closed, "else this shows nothing"
    assert segments is not None
    assert segments < CHUNKS / 2
