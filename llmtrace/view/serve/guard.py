"""Decides which requests the server accepts: those to its own names, from pages that it served itself.

A page elsewhere can make a browser send requests here, and a name elsewhere can be made to point here (DNS
rebinding). So a Host header must be an address or one of this machine's names, and an Origin must be the page's own.
Pages of origins that were allowed may send spans, and nothing else: they read no trace.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from llmtrace import listening
from llmtrace.errors import LlmtraceError

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

_SPANS: Final = "/v1/traces"
_PREFLIGHT: Final = [
    (b"access-control-allow-methods", b"POST"),
    (b"access-control-allow-headers", b"content-type, content-encoding"),
    (b"access-control-max-age", b"600"),
    (b"access-control-allow-private-network", b"true"),
]
"""What a browser asks before it lets a page of another origin send JSON, here to this machine perhaps."""


_NAME: Final = re.compile(r"[0-9a-z._-]+|[0-9a-f:.]+")
"""A host as browsers send it: no pattern, and other scripts as ``xn--``. What none sends would allow no page."""


class Guard:
    """ASGI middleware: refuses foreign hosts (421) and foreign origins (403), and puts ``HEADERS`` on every answer.

    Args:
        app: the application behind it.
        loopback: whether only this machine can reach it: then only loopback addresses are names of it.
        names: further host names that it goes by.
        origins: those whose pages may send spans (``https://app.example``).
    """

    def __init__(self, app: Any, loopback: bool, names: Iterable[str] = (), origins: Iterable[str] = ()) -> None:
        self._app = app
        self._loopback = loopback
        self._names = {name.lower() for name in names}
        self._origins = frozenset(origins)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer or refuse one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        sends_spans = origin in self._origins and scope["path"] == _SPANS
        more = [(b"access-control-allow-origin", (origin or "").encode()), (b"vary", b"origin")] if sends_spans else []

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS, *more]
            await send(message)

        if not listening.is_own(host, loopback=self._loopback, names=self._names):
            await _refuse(
                guarded, 421, f"this server is not {host[:80]!r}: use its address, or start it with --allow-host NAME"
            )
        elif sends_spans and scope["method"] == "OPTIONS":
            await guarded({"type": "http.response.start", "status": 204, "headers": _PREFLIGHT})
            await guarded({"type": "http.response.body"})
        elif sends_spans:
            await self._app(scope, receive, guarded)
        elif origin is not None and origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}"):
            may = "may only send spans" if origin in self._origins else "may not ask this server"
            hint = "" if origin in self._origins else "; to let them send spans, start it with --allow-origin"
            await _refuse(guarded, 403, f"pages of {origin[:80]!r} {may}{hint}")
        else:
            await self._app(scope, receive, guarded)


async def _refuse(send: Send, status: int, reason: str) -> None:
    body = orjson.dumps({"error": reason})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def origin_of(text: str) -> str:
    """``text`` as browsers write an origin: scheme, host and a port that is not the scheme's own.

    Raises LlmtraceError where it is none: all that a page's address has beyond that is no part of its origin.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    bare = parts.path in ("", "/") and not parts.query and not parts.fragment and "@" not in text
    if parts.scheme not in ("http", "https") or not _NAME.fullmatch(parts.hostname or "") or not bare:
        raise LlmtraceError(f"--allow-origin takes an origin such as http://localhost:8080, not {text[:80]!r}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    usual = {"http": 80, "https": 443}[parts.scheme]
    return f"{parts.scheme}://{host}" + ("" if port in (None, usual) else f":{port}")
