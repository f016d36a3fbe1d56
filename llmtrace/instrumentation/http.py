"""Hooks on httpx and httpx2: each ``send`` of a traced call is an attempt, each close of its response is seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from llmtrace.calls.byte_taps import put
from llmtrace.calls.current import RESPONSE_KEY, Beside, Current, being_made
from llmtrace.calls.own_requests import Own
from llmtrace.instrumentation.patching import Patches
from llmtrace.observe import internal_errors
from llmtrace.observe.address import host_of, is_private
from llmtrace.observe.call import Call
from llmtrace.observe.clock import now
from llmtrace.observe.stream import closing
from llmtrace.observe.transport import Attempt
from llmtrace.providers.timings import pick_headers

LIBRARIES = ("httpx", "httpx2")
_W3C = TraceContextTextMapPropagator()


def patch(patches: Patches) -> None:
    """Hook both libraries, whichever of them is or will be imported."""

    def send(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        being = being_made()
        if being is None:
            return wrapped(*args, **kwargs)
        request = args[0] if args else kwargs.get("request")
        if _carries_nothing(being, request):
            return wrapped(*args, **kwargs)
        if not _is_own(being, instance, request):
            with Beside():
                return wrapped(*args, **kwargs)
        call = being.call
        if not isinstance(call, Call):
            _propagate(being.propagate, request)
            with UnderWay(being.own, _url(request)):
                return wrapped(*args, **kwargs)
        attempt = _begin(being.propagate, call, request, False)
        try:
            with UnderWay(being.own, _url(request)):
                response = wrapped(*args, **kwargs)
        except BaseException as error:
            failed(attempt, error)
            raise
        _answered(call, attempt, response)
        return response

    async def send_traced(
        being: Current, request: Any, wrapped: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        call = being.call
        if not isinstance(call, Call):
            _propagate(being.propagate, request)
            with UnderWay(being.own, _url(request)):
                return await wrapped(*args, **kwargs)
        attempt = _begin(being.propagate, call, request, True)
        try:
            with UnderWay(being.own, _url(request)):
                response = await wrapped(*args, **kwargs)
        except BaseException as error:
            failed(attempt, error)
            raise
        _answered(call, attempt, response)
        return response

    async def send_beside(wrapped: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with Beside():
            return await wrapped(*args, **kwargs)

    def asend(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        being = being_made()
        if being is None:
            return wrapped(*args, **kwargs)
        request = args[0] if args else kwargs.get("request")
        if _carries_nothing(being, request):
            return wrapped(*args, **kwargs)
        if _is_own(being, instance, request):
            return send_traced(being, request, wrapped, args, kwargs)
        return send_beside(wrapped, args, kwargs)

    def close(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        end = _closing(instance)
        if end is None:
            return wrapped(*args, **kwargs)
        try:
            return wrapped(*args, **kwargs)
        finally:
            _closed(end)

    async def aclose_traced(end: Callable[[], None], wrapped: Any, args: Any, kwargs: Any) -> None:
        try:
            await wrapped(*args, **kwargs)
        finally:
            _closed(end)

    def aclose(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        end = _closing(instance)
        return wrapped(*args, **kwargs) if end is None else aclose_traced(end, wrapped, args, kwargs)

    def hook(module: Any) -> None:
        if patches.holds(module.Client, "send"):
            return  # one library under both names
        patches.wrap(module, "Client.send", send)
        patches.wrap(module, "AsyncClient.send", asend)
        patches.wrap(module, "Response.close", close)
        patches.wrap(module, "Response.aclose", aclose)

    for library in LIBRARIES:
        patches.when_imported(library, hook)


def _begin(propagate: str, call: Call, request: Any, asynchronous: bool) -> Attempt | None:
    try:
        attempt = Attempt(now(), pick_headers)
        call.attempts.append(attempt)
        if call.state.find_span is not None:
            call.state.find_span(call)
        attempt.request = request
        theirs = request.extensions.get("trace")
        attempt.chain(theirs)
        mine = attempt.aevent if asynchronous else attempt.event
        request.extensions = {**request.extensions, "trace": mine}
        _propagate(propagate, request)
        return attempt
    except Exception as error:
        internal_errors.note("watching a request", error)
        return None


def _url(request: Any) -> Any:
    return getattr(request, "url", None)


def _carries_nothing(being: Current, request: Any) -> bool:
    """Whether nothing is recorded of the call being made, and this request may carry nothing of its trace either."""
    try:
        return not isinstance(being.call, Call) and not may_propagate(being.propagate, _url(request))
    except Exception as error:
        internal_errors.note("looking at a request", error)
        return False


def _is_own(being: Current, sender: Any, request: Any) -> bool:
    method, headers = getattr(request, "method", None), getattr(request, "headers", None)
    return being.own.is_sent_by(sender, request, method, headers, _url(request))


class UnderWay:
    """While it lasts, ``own`` has a request under way to ``url``. Never raises."""

    __slots__ = ("_own", "_url")

    def __init__(self, own: Own, url: Any) -> None:
        self._own, self._url = own, url

    def __enter__(self) -> None:
        self._own.url = self._url

    def __exit__(self, *raised: object) -> None:
        self._own.url = None


def may_propagate(mode: str, url: Any) -> bool:
    """Whether ``traceparent`` may be sent to ``url``: always, never, or (``auto``) to private hosts."""
    return mode != "never" and (mode != "auto" or is_private(host_of(url)))


def propagate(headers: Any) -> None:
    """Add ``traceparent`` (and ``tracestate``, nothing else) to a request's headers, unless it is there already."""
    if "traceparent" not in headers:
        _W3C.inject(headers)


def _propagate(mode: str, request: Any) -> None:
    try:
        if may_propagate(mode, request.url):
            propagate(request.headers)
    except Exception as error:
        internal_errors.note("propagating the trace", error)


def _answered(call: Call, attempt: Attempt | None, response: Any) -> None:
    if attempt is None:
        return
    try:
        attempt.end = now()
        attempt.answered(response, attempt.end)
        response.extensions[RESPONSE_KEY] = call
        if call.state.raw and not response.is_closed and response.is_success:
            put(response)
    except Exception as error:
        internal_errors.note("reading a response's headers", error)


def failed(attempt: Attempt | None, error: BaseException) -> None:
    """End ``attempt``, whose request raised ``error``."""
    if attempt is not None:
        attempt.end = now()
        attempt.error = error


def _closing(response: Any) -> Callable[[], None] | None:
    """A function that ends the call once the response is closed; None where this close ends no call."""
    try:
        call: Call | None = response.extensions.get(RESPONSE_KEY)
        if call is None or call.returned is None:
            return None  # not ours, or closed by the client itself before the application had it
        return closing(call)
    except Exception as error:
        internal_errors.note("seeing a response close", error)
        return None


def _closed(end: Callable[[], None]) -> None:
    try:
        end()
    except Exception as error:
        internal_errors.note("seeing a response close", error)
