"""Hooks on httpx and httpx2: each ``send`` of a traced call is an attempt, each close of its response is seen."""

from __future__ import annotations

from typing import Any

from opentelemetry import propagate

from llmtrace.instrument.current import RESPONSE_KEY, current
from llmtrace.instrument.engine import Engine
from llmtrace.instrument.patching import Patches
from llmtrace.observe import mishaps
from llmtrace.observe.call import Call
from llmtrace.observe.clock import now
from llmtrace.observe.stream import closed
from llmtrace.observe.transport import Attempt
from llmtrace.providers.timings import pick_headers

LIBRARIES = ("httpx", "httpx2")


def patch(patches: Patches, engine: Engine) -> None:
    """Hook both libraries, whichever of them is or will be imported."""

    def send(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = current.get()
        if call is None:
            return wrapped(*args, **kwargs)
        attempt = _begin(engine, call, args, kwargs, False)
        try:
            response = wrapped(*args, **kwargs)
        except BaseException as error:
            _failed(attempt, error)
            raise
        _answered(call, attempt, response)
        return response

    async def send_traced(call: Call, wrapped: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        attempt = _begin(engine, call, args, kwargs, True)
        try:
            response = await wrapped(*args, **kwargs)
        except BaseException as error:
            _failed(attempt, error)
            raise
        _answered(call, attempt, response)
        return response

    def asend(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = current.get()
        return wrapped(*args, **kwargs) if call is None else send_traced(call, wrapped, args, kwargs)

    def close(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        _closing(instance)
        return wrapped(*args, **kwargs)

    def hook(module: Any) -> None:
        patches.wrap(module, "Client.send", send)
        patches.wrap(module, "AsyncClient.send", asend)
        patches.wrap(module, "Response.close", close)
        patches.wrap(module, "Response.aclose", close)

    for library in LIBRARIES:
        patches.when_imported(library, hook)


def _begin(
    engine: Engine, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], asynchronous: bool
) -> Attempt | None:
    try:
        attempt = Attempt(now(), pick_headers)
        call.attempts.append(attempt)
        request = args[0] if args else kwargs["request"]
        theirs = request.extensions.get("trace")
        attempt.chain(theirs)
        mine = attempt.aevent if asynchronous else attempt.event
        request.extensions = {**request.extensions, "trace": mine}
        mode = engine.settings.propagate
        wanted = mode == "always" or (mode == "auto" and call.payload.endpoint.private)
        if wanted and "traceparent" not in request.headers:
            propagate.inject(request.headers)
        return attempt
    except Exception as error:
        mishaps.note("watching a request", error)
        return None


def _answered(call: Call, attempt: Attempt | None, response: Any) -> None:
    if attempt is None:
        return
    try:
        attempt.end = now()
        attempt.answered(response, attempt.end)
        response.extensions[RESPONSE_KEY] = call
    except Exception as error:
        mishaps.note("reading a response's headers", error)


def _failed(attempt: Attempt | None, error: BaseException) -> None:
    if attempt is not None:
        attempt.end = now()
        attempt.error = error


def _closing(response: Any) -> None:
    try:
        call: Call | None = response.extensions.get(RESPONSE_KEY)
        if call is None or call.returned is None:
            return  # not ours, or closed by the client itself before the application had it
        closed(call)
    except Exception as error:
        mishaps.note("seeing a response close", error)
