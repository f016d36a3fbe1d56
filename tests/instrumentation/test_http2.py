"""HTTP/2 over TLS, against a real server: each call has its own moments, also where calls share a connection."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import openai
import pytest
import trustme
from hypercorn.asyncio import serve
from hypercorn.config import Config

from tests.support import apis
from tests.support.replay import chunk, openai_chunks, sse
from tests.support.spans import Spans, attributes

LINUX = sys.platform == "linux"
USAGE = {"prompt_tokens": 40, "completion_tokens": 6, "total_tokens": 46}


class Server:
    """A completion server that speaks HTTP/2: of the model ``held`` it sends one word and waits for ``go``."""

    def __init__(self, certificate: trustme.LeafCert, folder: Any) -> None:
        self.seen: list[tuple[str, int]] = []
        """HTTP version and the client's port, per request."""
        self.go = threading.Event()
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        self.port = listening.getsockname()[1]
        listening.listen()
        config = Config()
        config.bind = [f"fd://{listening.detach()}"]
        chain, key = folder / "chain.pem", folder / "key.pem"
        certificate.cert_chain_pems[0].write_to_path(str(chain))
        certificate.private_key_pem.write_to_path(str(key))
        config.certfile, config.keyfile = str(chain), str(key)
        config.alpn_protocols = ["h2"]
        self._config = config
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        async def stopped() -> None:
            while not self._stop.is_set():
                await asyncio.sleep(0.02)

        asyncio.run(serve(self.app, self._config, shutdown_trigger=stopped))  # type: ignore[arg-type]

    def close(self) -> None:
        self.go.set()
        self._stop.set()
        self._thread.join(10)

    async def app(self, scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        if scope["type"] != "http":
            return
        self.seen.append((scope["http_version"], scope["client"][1]))
        body = b""
        while (message := await receive()).get("more_body"):
            body += message["body"]
        model = json.loads(body + message["body"])["model"]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        first, *others = sse(*openai_chunks(("a", "b", "c", "d", "e"), role=False), chunk(None, usage=USAGE))
        await send({"type": "http.response.body", "body": first, "more_body": True})
        while model == "held" and not self.go.is_set():
            await asyncio.sleep(0.005)
        for event in others:
            await send({"type": "http.response.body", "body": event, "more_body": True})
            await asyncio.sleep(0.002)
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server(authority: trustme.CA, tmp_path: Any) -> Iterator[Server]:
    server = Server(authority.issue_cert("127.0.0.1"), tmp_path)
    yield server
    server.close()


@pytest.fixture
def trusted(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def client_of(server: Server, trusted: ssl.SSLContext, kind: str) -> Any:
    settings: dict[str, Any] = {"base_url": f"https://127.0.0.1:{server.port}/v1", "api_key": "k", "max_retries": 2}
    if kind == "async":
        return openai.AsyncOpenAI(http_client=apis.http.AsyncClient(http2=True, verify=trusted), **settings)
    return openai.OpenAI(http_client=apis.http.Client(http2=True, verify=trusted), **settings)


def asked(model: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Hello"}], "stream": True}


def network(spans: Spans, span: Any) -> dict[str, Any]:
    return attributes(spans.phases(span)["network"]) if "network" in spans.phases(span) else {}


def check_new(found: dict[str, Any]) -> None:
    assert found["llmtrace.network.new_connection"] is True
    assert found["llmtrace.network.connect"] > 0
    assert found["llmtrace.network.tls"] > 0
    assert found["llmtrace.network.rtt"] > 0
    assert found["llmtrace.network.time_to_headers"] > found["llmtrace.network.connect"]


def check_reused(found: dict[str, Any]) -> None:
    assert found["llmtrace.network.new_connection"] is False
    assert "llmtrace.network.connect" not in found
    assert "llmtrace.network.tls" not in found
    assert found["llmtrace.network.rtt"] > 0
    assert found["llmtrace.network.time_to_headers"] > 0


@pytest.mark.usefixtures("traced")
@pytest.mark.skipif(not LINUX, reason="a reused connection's round trip comes from Linux's TCP_INFO")
class TestHttp2:
    def test_one_after_the_other(self, server: Server, trusted: ssl.SSLContext, spans: Spans) -> None:
        with client_of(server, trusted, "sync") as client:
            for _ in range(2):
                assert len(list(client.chat.completions.create(**asked("quick")))) == 7
        assert [version for version, _ in server.seen] == ["2", "2"]
        assert len(set(server.seen)) == 1, "one connection"
        first, second = sorted(spans.parents(), key=lambda span: span.start_time)
        check_new(network(spans, first))
        check_reused(network(spans, second))

    def test_asyncio(self, server: Server, trusted: ssl.SSLContext, spans: Spans) -> None:
        async def talk() -> None:
            async with client_of(server, trusted, "async") as client:
                for _ in range(2):
                    stream = await client.chat.completions.create(**asked("quick"))
                    assert len([each async for each in stream]) == 7

        asyncio.run(talk())
        first, second = sorted(spans.parents(), key=lambda span: span.start_time)
        check_new(network(spans, first))
        check_reused(network(spans, second))

    def test_two_at_once_on_one_connection_keep_apart(
        self, server: Server, trusted: ssl.SSLContext, spans: Spans
    ) -> None:
        async def drained(stream: Any) -> int:
            return len([each async for each in stream])

        async def talk() -> None:
            async with client_of(server, trusted, "async") as client:
                held = await client.chat.completions.create(**asked("held"))
                pulling = held.__aiter__()
                await pulling.__anext__()
                rest = asyncio.ensure_future(drained(pulling))
                quick = await client.chat.completions.create(**asked("quick"))
                assert len([each async for each in quick]) == 7
                await asyncio.sleep(0.15)
                server.go.set()
                assert await rest == 6

        asyncio.run(talk())
        assert len(server.seen) == 2
        assert len(set(server.seen)) == 1, "one connection"
        by_model = {attributes(span)["gen_ai.request.model"]: span for span in spans.parents()}
        held, quick = by_model["held"], by_model["quick"]
        check_new(network(spans, held))
        check_reused(network(spans, quick))
        assert held.start_time < quick.start_time < quick.end_time < held.end_time
        paused = attributes(spans.phases(held)["decode"])
        assert paused["llmtrace.decode.stall.count"] >= 1
        assert paused["llmtrace.decode.chunk_gap.max"] >= 0.15
        assert attributes(spans.phases(quick)["decode"])["llmtrace.phase.tokens"] == 6
