"""Refuses requests that came here by another server's name, or from a page: as `llmtrace view` does."""

from __future__ import annotations

from collections.abc import Collection

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from llmtrace import listening
from llmtrace.reference.protocol import error_body

__all__ = ["Guard"]


class Guard:
    """ASGI middleware: a foreign Host is a 421, an Origin (a page's script, which this server has none of) a 403."""

    def __init__(self, app: ASGIApp, *, loopback: bool, names: Collection[str] = ()) -> None:
        """`loopback`: whether only this machine can reach the server. `names`: further host names that it goes by."""
        self._app = app
        self._loopback = loopback
        self._names = {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http":
            headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
            host, origin = headers.get(b"host", ""), headers.get(b"origin")
            if not listening.is_own(host, loopback=self._loopback, names=self._names):
                reason = f"this server is not {host[:80]!r}: use its address, or start it with --allow-host NAME"
                app = _refusal(421, reason, "wrong_host")
            elif origin is not None and origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}"):
                app = _refusal(403, f"pages of {origin[:80]!r} may not ask this server", "wrong_origin")
        await app(scope, receive, send)


def _refusal(status: int, reason: str, code: str) -> JSONResponse:
    return JSONResponse(error_body(reason, kind="invalid_request_error", code=code), status_code=status)
