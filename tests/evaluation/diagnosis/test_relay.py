"""The relay of the diagnosis harness, over real sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.evaluation.diagnosis.relay import Way, relay
from tests.support.answering import answering


@pytest.fixture
def upstream() -> Iterator[tuple[str, int]]:
    """Answers each request with its own bytes in brackets, and the end of a chunked body."""

    def echo(connection: socket.socket) -> None:
        while data := connection.recv(65536):
            connection.sendall(b"<" + data + b">")
            connection.sendall(b"0\r\n\r\n")

    with answering(echo) as address:
        yield address


def answer(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(data)
        answered = b""
        while not answered.endswith(b"0\r\n\r\n"):
            answered += connection.recv(65536)
        return answered


@pytest.mark.parametrize("bursts", [0, 4, -1])
@pytest.mark.parametrize("delay", [0.0, 0.02])
@pytest.mark.parametrize(("wait", "stretch"), [(0.0, 1.0), (0.02, 1.5)])
def test_bytes_come_through_whole_and_renamed(
    upstream: tuple[str, int], bursts: int, delay: float, wait: float, stretch: float
) -> None:
    way = Way(
        upstream,
        delay=delay,
        wait=wait,
        stretch=stretch,
        bursts=bursts,
        asks=[(b"one", b"two")],
        says=[(b"two", b"six")],
    )
    with relay(way) as port:
        assert answer(port, b"say one") == b"<say six>0\r\n\r\n"
        way.says = []
        assert answer(port, b"say one") == b"<say two>0\r\n\r\n"
