"""Decides which requests the server accepts: those to its own names, from pages that it served itself.

A page elsewhere can make a browser send requests here, and a name elsewhere can be made to point here (DNS
rebinding). So a Host header must be an address or one of this machine's names, and an Origin must be the page's own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final

import orjson

from llmtrace import listening

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

HEADERS: Final = [
    (b"content-security-policy", b"default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]


class Guard:
    """ASGI middleware: refuses foreign hosts (421) and foreign origins (403), and puts ``HEADERS`` on every answer.

    Args:
        app: the application behind it.
        loopback: whether only this machine can reach it: then only loopback addresses are names of it.
        names: further host names that it goes by.
    """

    def __init__(self, app: Any, loopback: bool, names: Iterable[str] = ()) -> None:
        self._app = app
        self._loopback = loopback
        self._names = {name.lower() for name in names}

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer or refuse one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        if not listening.is_own(host, loopback=self._loopback, names=self._names):
            await _refuse(
                guarded, 421, f"this server is not {host[:80]!r}: use its address, or start it with --allow-host NAME"
            )
        elif origin is not None and origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}"):
            await _refuse(guarded, 403, f"pages of {origin[:80]!r} may not ask this server")
        else:
            await self._app(scope, receive, guarded)


async def _refuse(send: Send, status: int, reason: str) -> None:
    body = orjson.dumps({"error": reason})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
