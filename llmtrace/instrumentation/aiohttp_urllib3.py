"""Hooks on aiohttp and on urllib3 (beneath botocore and requests): each request of a traced call is an attempt."""

from __future__ import annotations

from typing import Any

from llmtrace.calls.current import being_made
from llmtrace.instrumentation.http import asks_beside, failed, may_propagate, propagate
from llmtrace.instrumentation.patching import Patches
from llmtrace.observe import internal_errors
from llmtrace.observe.call import Call
from llmtrace.observe.clock import now
from llmtrace.observe.transport import Attempt
from llmtrace.providers.timings import pick_headers


def patch(patches: Patches) -> None:
    """Hook both libraries, whichever of them is or will be imported."""

    async def request(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        url, method = (
            args[1] if len(args) > 1 else kwargs.get("str_or_url"),
            args[0] if args else kwargs.get("method"),
        )
        attempt, kwargs = _begin(url, method, kwargs)
        try:
            response = await wrapped(*args, **kwargs)
        except BaseException as error:
            failed(attempt, error)
            raise
        _answered(attempt, response)
        return response

    async def connect(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        attempt = _connecting()
        result = await wrapped(*args, **kwargs)
        _connected(attempt)
        return result

    async def send(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = await wrapped(*args, **kwargs)
        attempt = _attempt()
        if attempt is not None:
            attempt.sent = now()
        return result

    def make_request(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        attempt, kwargs = _begin(instance, args[1] if len(args) > 1 else kwargs.get("method"), kwargs)
        try:
            response = wrapped(*args, **kwargs)
        except BaseException as error:
            failed(attempt, error)
            raise
        _answered(attempt, response)
        return response

    def new_connection(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        attempt = _connecting()
        result = wrapped(*args, **kwargs)
        _connected(attempt, result)
        return result

    def get_response(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        attempt = _attempt()
        if attempt is not None:
            attempt.sent = now()
            attempt.socket = attempt.socket or getattr(instance, "sock", None)
        return wrapped(*args, **kwargs)

    def hook_aiohttp(module: Any) -> None:
        patches.wrap(module, "ClientSession._request", request)

    def hook_connector(module: Any) -> None:
        patches.wrap(module, "TCPConnector._create_connection", connect)

    def hook_send(module: Any) -> None:
        patches.wrap(module, "ClientRequest.send", send)
        patches.wrap(module, "ClientRequest._send", send)

    def hook_pool(module: Any) -> None:
        patches.wrap(module, "HTTPConnectionPool._make_request", make_request)

    def hook_connection(module: Any) -> None:
        patches.wrap(module, "HTTPConnection._new_conn", new_connection)
        patches.wrap(module, "HTTPConnection.getresponse", get_response)

    for module, hook in (
        ("aiohttp.client", hook_aiohttp),
        ("aiohttp.connector", hook_connector),
        ("aiohttp.client_reqrep", hook_send),
        ("urllib3.connectionpool", hook_pool),
        ("urllib3.connection", hook_connection),
    ):
        patches.when_imported(module, hook)


def _attempt() -> Attempt | None:
    """The attempt that is under way in this context."""
    being = being_made()
    if being is None or not isinstance(being.call, Call) or not being.call.attempts:
        return None
    return being.call.attempts[-1]


def _begin(url: Any, method: Any, kwargs: dict[str, Any]) -> tuple[Attempt | None, dict[str, Any]]:
    """Begin an attempt; return it with the arguments to call on with. ``url``: text, or an object with a ``host``."""
    being = being_made()
    if being is None or asks_beside(method, kwargs.get("headers")):
        return None, kwargs
    outer_attempt = _attempt()
    if outer_attempt is not None and outer_attempt.end is None:
        return outer_attempt, kwargs  # an httpx client's, whose transport this is
    try:
        if may_propagate(being.propagate, url):
            headers: Any = kwargs.get("headers")
            headers = dict(headers) if headers is not None else {}
            propagate(headers)
            kwargs = {**kwargs, "headers": headers}
        if not isinstance(being.call, Call):
            return None, kwargs
        attempt = Attempt(now(), pick_headers)
        being.call.attempts.append(attempt)
        return attempt, kwargs
    except Exception as error:
        internal_errors.note("watching a request", error)
        return None, kwargs


def _connecting() -> Attempt | None:
    """The current attempt, which begins to connect; if the connection fails, it has a start of that and no end."""
    attempt = _attempt()
    if attempt is not None:
        attempt.connect_start, attempt.connect_end = now(), None
    return attempt


def _connected(attempt: Attempt | None, socket: Any = None) -> None:
    if attempt is not None:
        attempt.connect_end = now()
        attempt.socket = socket


def _answered(attempt: Attempt | None, response: Any) -> None:
    """Both libraries' responses have ``status`` and ``headers``; aiohttp's leads to its socket by its connection."""
    if attempt is None:
        return
    try:
        attempt.end = attempt.headers_at = now()
        attempt.status = response.status
        attempt.headers = attempt.pick(response.headers)
        transport = getattr(getattr(response, "connection", None), "transport", None)
        if transport is not None:
            attempt.socket = transport.get_extra_info("socket")
        attempt.measure_rtt()
    except Exception as error:
        internal_errors.note("reading a response's headers", error)
