"""The transport beneath the traced client: takes the engine's word out of each answer before the client sees it.

So what is traced can't know the truth, and the truth is known of streams without usage too: these ask for it here,
below the client, and what comes of it goes no further.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx2

from tests.evaluation.phases.measured import Truth
from tests.evaluation.phases.truths import truth_of

_TOLD = ("metrics", "timings")
_WORTH_READING = re.compile(rb'"(metrics|timings|usage)":\s*\{')
_EVENT_END = b"\n\n"
_DATA = b"data: "


@dataclass(frozen=True, slots=True)
class Word:
    """What the engine said of one call."""

    truth: Truth
    prompt: int
    cached: int
    output: int


class Blindfold(httpx2.AsyncBaseTransport):
    """Wraps a transport. ``words``: the engine's word by the answer's id."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        """``address``: where requests go, whatever the client knows the host by."""
        self._address = address
        limits = httpx2.Limits(max_connections=1000, max_keepalive_connections=100)
        self._inner = httpx2.AsyncHTTPTransport(limits=limits)
        self.words: dict[str, Word] = {}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send it; streams that did not ask for usage ask for it here."""
        body = json.loads(request.content or b"{}")
        without_usage = bool(body.get("stream")) and "stream_options" not in body
        if without_usage:
            content = json.dumps({**body, "stream_options": {"include_usage": True}}).encode()
            headers = {name: value for name, value in request.headers.items() if name.lower() != "content-length"}
            request = httpx2.Request(
                request.method, request.url, headers=headers, content=content, extensions=request.extensions
            )
        request.url = request.url.copy_with(host=self._address)
        response = await self._inner.handle_async_request(request)
        kept = [(name, value) for name, value in response.headers.multi_items() if name.lower() != "content-length"]
        stream = _Filtered(response.stream, self, bool(body.get("stream")), without_usage)
        return httpx2.Response(response.status_code, headers=kept, stream=stream, extensions=response.extensions)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()

    def take(self, data: dict[str, Any]) -> None:
        """Note what an answer's last event, or a whole answer, tells."""
        truth, usage = truth_of(data), data.get("usage") or {}
        if truth is not None:
            cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
            prompt, output = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
            self.words[str(data.get("id"))] = Word(truth, prompt, cached, output)


class _Filtered(httpx2.AsyncByteStream):
    def __init__(self, inner: Any, blindfold: Blindfold, streamed: bool, without_usage: bool) -> None:
        self._inner = inner
        self._blindfold = blindfold
        self._streamed = streamed
        self._without_usage = without_usage
        self._usage: dict[str, Any] = {}

    async def __aiter__(self) -> AsyncIterator[bytes]:
        held = b""
        async for data in self._inner:
            held += data
            if self._streamed:
                whole, end, held = held.rpartition(_EVENT_END)
                if end:
                    yield self._events(whole + end)
        if held:
            yield self._events(held) if self._streamed else self._whole(held)

    def _whole(self, body: bytes) -> bytes:
        try:
            data = json.loads(body)
        except ValueError:
            return body
        self._blindfold.take(data)
        return json.dumps({key: value for key, value in data.items() if key not in _TOLD}).encode()

    def _events(self, raw: bytes) -> bytes:
        if not _WORTH_READING.search(raw):
            return raw
        return b"".join(self._event(event + _EVENT_END) for event in raw.split(_EVENT_END) if event)

    def _event(self, event: bytes) -> bytes:
        """``event`` without the engine's word; nothing where it was there for that word alone."""
        if not event.startswith(_DATA) or not _WORTH_READING.search(event):
            return event
        data = json.loads(event[len(_DATA) :])
        self._usage = data.get("usage") or self._usage  # engines tell the two in one event or in two
        self._blindfold.take({**data, "usage": self._usage})
        hidden = (*_TOLD, "usage") if self._without_usage else _TOLD
        kept = {key: value for key, value in data.items() if key not in hidden}
        if self._without_usage and not kept.get("choices"):
            return b""
        return _DATA + json.dumps(kept).encode() + _EVENT_END

    async def aclose(self) -> None:
        await self._inner.aclose()
