"""Hooks on aiohttp and on urllib3 (beneath botocore and requests): each request of a traced call is an attempt."""

from __future__ import annotations

from typing import Any

from llmtrace.calls.current import Beside, Current, being_made
from llmtrace.instrumentation.http import UnderWay, failed, may_propagate, propagate
from llmtrace.instrumentation.patching import Patches
from llmtrace.observe import internal_errors
from llmtrace.observe.call import Call
from llmtrace.observe.clock import now
from llmtrace.observe.transport import Attempt
from llmtrace.providers.timings import pick_headers


def patch(patches: Patches) -> None:
    """Hook both libraries, whichever of them is or will be imported."""

    async def request(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        where, method = (
            args[1] if len(args) > 1 else kwargs.get("str_or_url"),
            args[0] if args else kwargs.get("method"),
        )
        being = being_made()
        if being is None or being.own.is_on_its_way(_joined(instance, where)):
            return await _aseen(_attempt(), wrapped, args, kwargs)
        if not being.own.is_sent_by(instance, None, method, kwargs.get("headers"), where):
            with Beside():
                return await wrapped(*args, **kwargs)
        attempt, kwargs = _begin(being, where, kwargs)
        with UnderWay(being.own, _joined(instance, where)):
            return await _aseen(attempt, wrapped, args, kwargs)

    async def connect(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        attempt = _connecting()
        result = await wrapped(*args, **kwargs)
        _connected(attempt)
        return result

    async def send(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        attempt = _attempt()
        if attempt is not None:
            # Here, for a connection that is used again: with a short answer it is given back before the answer is.
            attempt.sending = now()
            _sends_on(attempt, args[0] if args else kwargs.get("conn"))
        result = await wrapped(*args, **kwargs)
        if attempt is not None:
            attempt.sent = now()
        return result

    def make_request(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        being = being_made()
        where = _pooled(instance, args[2] if len(args) > 2 else kwargs.get("url"))
        if being is None or being.own.is_on_its_way(where):
            return _seen(_attempt(), wrapped, args, kwargs)
        method = args[1] if len(args) > 1 else kwargs.get("method")
        if not being.own.is_sent_by(instance, None, method, kwargs.get("headers"), where):
            with Beside():
                return wrapped(*args, **kwargs)
        attempt, kwargs = _begin(being, instance, kwargs)
        with UnderWay(being.own, where):
            return _seen(attempt, wrapped, args, kwargs)

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


def _joined(session: Any, where: Any) -> Any:
    """The URL of a request of aiohttp's, which may have been given as a path beneath the session's."""
    build = getattr(session, "_build_url", None)
    try:
        return where if build is None else build(where)
    except Exception:  # no URL at all: aiohttp will say so itself
        return where


def _pooled(pool: Any, path: Any) -> str:
    """The URL of a request of urllib3's, which a pool of one host's connections is given the path of."""
    scheme, host, port = pool.scheme, pool.host, pool.port
    place = host if port is None or port == {"http": 80, "https": 443}.get(scheme) else f"{host}:{port}"
    return f"{scheme}://{place}{path}"


def _seen(attempt: Attempt | None, wrapped: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        response = wrapped(*args, **kwargs)
    except BaseException as error:
        failed(attempt, error)
        raise
    _answered(attempt, response)
    return response


async def _aseen(attempt: Attempt | None, wrapped: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        response = await wrapped(*args, **kwargs)
    except BaseException as error:
        failed(attempt, error)
        raise
    _answered(attempt, response)
    return response


def _begin(being: Current, where: Any, kwargs: dict[str, Any]) -> tuple[Attempt | None, dict[str, Any]]:
    """A new attempt, and the arguments to go on with. ``where``: a URL or something with a ``host``."""
    try:
        if may_propagate(being.propagate, where):
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


def _sends_on(attempt: Attempt, connection: Any) -> None:
    """Note the socket that a request is about to be sent on."""
    try:
        transport = getattr(connection, "transport", None)
        if transport is not None:
            attempt.socket = transport.get_extra_info("socket")
    except Exception as error:
        internal_errors.note("looking at a connection", error)


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
