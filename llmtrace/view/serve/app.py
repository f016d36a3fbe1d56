"""The viewer's HTTP addresses: the receiver, the API for the page, the live tail, the page itself."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from llmtrace.view.serve import otlp, page, queries, receive
from llmtrace.view.serve.bodies import RefusedError
from llmtrace.view.serve.filters import Pairs, only
from llmtrace.view.serve.guard import Guard
from llmtrace.view.serve.state import State
from llmtrace.view.serve.store import UnavailableError

LIVE_S: Final = 0.5
"""Seconds between two events of the live tail, at least."""
_SILENCE_S: Final = 15.0
_ANSWERS: Final = 128
_LARGEST_KEPT: Final = 1 << 20

Ask = Callable[[Pairs], dict[str, Any]]


def create(
    state: State, *, loopback: bool = True, names: tuple[str, ...] = (), origins: tuple[str, ...] = ()
) -> Starlette:
    """The application over a store and its writer."""
    answers = _Answers(state)
    app = Starlette(
        routes=[
            Route("/v1/traces", receive.traces, methods=["POST"]),
            Route("/v1/metrics", receive.dropped, methods=["POST"]),
            Route("/v1/logs", receive.dropped, methods=["POST"]),
            Route("/api/status", answers.fresh(state.status)),
            Route("/api/calls", answers.of(queries.calls)),
            Route("/api/facets", answers.of(queries.facets)),
            Route("/api/percentiles", answers.of(queries.percentiles)),
            Route("/api/compare", answers.of(queries.compare)),
            Route("/api/traces/{trace_id}", answers.trace),
            Route("/api/otlp", _otlp),
            Route("/api/live", _live),
            Route("/", _asset),
            Route("/assets/{name}", _asset),
        ],
        middleware=[Middleware(Guard, loopback=loopback, names=names, origins=origins)],
        exception_handlers={
            HTTPException: _http_error,
            RefusedError: _refused,
            UnavailableError: _unavailable,
            Exception: _failed,
        },
    )
    app.state.writer = state.writer
    app.state.state = state
    return app


class _Answers:
    """Answers from the store, each kept until the store changes: an open page asks the same again and again."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._kept: OrderedDict[str, tuple[int, bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, ask: Callable[[Any, Pairs], dict[str, Any]]) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            return self._answer(request, lambda pairs: ask(self._state.store, pairs))

        return answer

    def fresh(self, ask: Callable[[], dict[str, Any]]) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            only(request.query_params.multi_items(), ())
            return _json(orjson.dumps(ask()))

        return answer

    def trace(self, request: Request) -> Response:
        return self._answer(request, lambda pairs: self._state.traces.page(request.path_params["trace_id"], pairs))

    def _answer(self, request: Request, ask: Ask) -> Response:
        key, version = f"{request.url.path}?{request.url.query}", self._state.store.version
        with self._lock:
            remembered = self._kept.get(key)
        if remembered is not None and remembered[0] == version:
            return _json(remembered[1])
        body = orjson.dumps(ask(request.query_params.multi_items()))
        if len(body) <= _LARGEST_KEPT:
            with self._lock:
                self._kept[key] = (version, body)
                self._kept.move_to_end(key)
                while len(self._kept) > _ANSWERS:
                    self._kept.popitem(last=False)
        return _json(body)


def _json(body: bytes, status: int = 200) -> Response:
    return Response(body, status, headers={"cache-control": "no-store"}, media_type="application/json")


def _error(status: int, reason: str) -> Response:
    return _json(orjson.dumps({"error": reason}), status)


def _otlp(request: Request) -> Response:
    lines = otlp.lines(request.app.state.state.store, request.query_params.multi_items())
    return StreamingResponse(lines, headers={"cache-control": "no-store"}, media_type="application/x-ndjson")


async def _live(request: Request) -> Response:
    only(request.query_params.multi_items(), ())
    return StreamingResponse(
        _events(request.app.state.state),
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        media_type="text/event-stream",
    )


async def _events(state: State) -> AsyncIterator[bytes]:
    last_event, last = None, time.monotonic()
    while not state.closing.is_set():
        now = state.live()
        if now != last_event:
            last_event, last = now, time.monotonic()
            yield b"event: spans\ndata: " + orjson.dumps(now) + b"\n\n"
        elif time.monotonic() - last >= _SILENCE_S:
            last = time.monotonic()
            yield b": nothing new\n\n"
        await _until(state.closing, LIVE_S)


async def _until(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except asyncio.TimeoutError:
        return


async def _asset(request: Request) -> Response:
    asset = page.asset(request.path_params.get("name", "index.html"))
    if asset is None:
        raise HTTPException(404)
    return Response(asset.body, headers={"cache-control": "no-cache"}, media_type=asset.media_type)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404 and _reads_pages(request) and (missing := page.asset("missing.html")):
        return Response(missing.body, 404, headers={"cache-control": "no-store"}, media_type=missing.media_type)
    reason = {404: f"there is no {request.url.path[:80]}", 405: f"{request.method} is not taken here"}
    answer = _error(error.status_code, reason.get(error.status_code, error.detail))
    answer.headers.update(error.headers or {})
    return answer


def _reads_pages(request: Request) -> bool:
    """Whether a person's browser asks, to whom a page says more than JSON."""
    programs = request.url.path.startswith(("/api/", "/v1/"))
    return not programs and "text/html" in request.headers.get("accept", "")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return _error(error.status, str(error))


async def _unavailable(request: Request, error: Exception) -> Response:
    answer = _error(503, str(error))
    answer.headers["retry-after"] = "2"
    return answer


async def _failed(request: Request, error: Exception) -> Response:
    return _error(500, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
