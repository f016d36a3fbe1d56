"""Clients that Stainless generates (openai, anthropic, groq, together, ...) share one shape, so one patch serves all.

Every call passes through ``SyncAPIClient.request`` or ``AsyncAPIClient.request``, retries included; every stream is a
``Stream`` or ``AsyncStream`` that pulls from its ``_iterator``. Patching there, below the resource methods, covers
``create``, ``parse``, ``stream()``, raw and streaming responses alike, and lies inside whatever another
instrumentation wraps around the resource methods, in whichever order the two are switched on. (One that wraps the
same method and was there first is wrapped itself: its span then lies beneath ours.)
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

from opentelemetry import context as otel
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.trace import Span, set_span_in_context

from llmtrace.instrument.current import RESPONSE_KEY, current
from llmtrace.instrument.ends import collected
from llmtrace.instrument.engine import Engine
from llmtrace.instrument.patching import Patches
from llmtrace.observe import mishaps, stream
from llmtrace.observe.call import Call
from llmtrace.observe.stream import Guard, asplice, splice
from llmtrace.providers.declare import Operation, Provider


def patch(patches: Patches, engine: Engine, provider: Provider) -> None:
    """Patch the client that ``provider`` declares, now or when it is imported."""

    def request(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        begun = _begin(engine, provider, instance, args, kwargs)
        if begun is None:
            return wrapped(*args, **kwargs)
        call, args, kwargs = begun
        try:
            with _Current(call):
                result = wrapped(*args, **kwargs)
        except BaseException as error:
            engine.failed(call, error)
            raise
        engine.returned(call, result)
        return result

    async def arequest(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        begun = _begin(engine, provider, instance, args, kwargs)
        if begun is None:
            return await wrapped(*args, **kwargs)
        call, args, kwargs = begun
        try:
            with _Current(call):
                result = await wrapped(*args, **kwargs)
        except BaseException as error:
            engine.failed(call, error)
            raise
        engine.returned(call, result)
        return result

    def opened(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        wrapped(*args, **kwargs)
        _splice(instance, False)

    def aopened(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        wrapped(*args, **kwargs)
        _splice(instance, True)

    def hook_clients(module: Any) -> None:
        for name, wrapper in (("SyncAPIClient", request), ("AsyncAPIClient", arequest)):
            base: Any = getattr(module, name, None)
            # Another instrumentation may have put a method of its own on a subclass, over the base's as it was then.
            for owner in [base, *_subclasses(base)] if base is not None else []:
                patches.wrap_method(owner, "request", wrapper)

    def hook_streams(module: Any) -> None:
        patches.wrap(module, "Stream.__init__", opened)
        patches.wrap(module, "AsyncStream.__init__", aopened)

    stream.iterating_packages.add(provider.stream_module.partition(".")[0])
    patches.when_imported(provider.client_module, hook_clients)
    patches.when_imported(provider.stream_module, hook_streams)


Begun = tuple[Call | Span, tuple[Any, ...], dict[str, Any]]


class _Current:
    """Makes a call (unsampled: its bare span) the current one while the client's request runs."""

    __slots__ = ("_call", "_mine", "_theirs")

    def __init__(self, call: Call | Span) -> None:
        self._call = call

    def __enter__(self) -> None:
        call = self._call
        self._mine = current.set(call)
        self._theirs = otel.attach(set_span_in_context(call.payload.span if isinstance(call, Call) else call))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        if kind is GeneratorExit:
            return  # dropped while suspended, perhaps in another context: there is nothing to give back here
        otel.detach(self._theirs)
        current.reset(self._mine)


def _subclasses(base: type) -> list[type]:
    found = base.__subclasses__()
    return [*found, *(below for cls in found for below in _subclasses(cls))]


def _begin(
    engine: Engine, provider: Provider, client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Begun | None:
    """The call that this request starts, and the arguments to go on with; None where it is not one to trace."""
    try:
        options: Any = args[1] if len(args) > 1 else kwargs.get("options")
        operation = _operation(provider, options)
        if operation is None or current.get() is not None or not is_instrumentation_enabled():
            return None
        body: Any = options.json_data
        if engine.settings.request_usage and isinstance(body, dict):
            asked = operation.ask_for_usage(body)
            if asked is not None:
                options = getattr(options, "model_copy", options.copy)(update={"json_data": dict(asked)})
                body = options.json_data
                if len(args) > 1:
                    args = (args[0], options, *args[2:])
                else:
                    kwargs = {**kwargs, "options": options}
        extra = getattr(options, "extra_json", None)
        if isinstance(extra, Mapping) and isinstance(body, dict):
            body = {**body, **extra}
        call = engine.begin(provider, operation, client, body)
        return None if call is None else (call, args, kwargs)
    except Exception as error:
        mishaps.note("beginning a call", error)
        return None


def _operation(provider: Provider, options: Any) -> Operation | None:
    path = getattr(options, "url", None)
    for operation in provider.operations:
        if path == operation.path and options.method.lower() == "post":
            return operation
    return None


def _splice(opened: Any, asynchronous: bool) -> None:
    """Put the timing iterator in the place of the stream's own, where the stream belongs to a traced call."""
    try:
        call: Call | None = opened.response.extensions.get(RESPONSE_KEY)
        if call is None or not call.is_open or call.running is not None:
            return
        timed: Any = (asplice if asynchronous else splice)(opened._iterator, call, Guard(call, collected))
        alive = weakref.ref(timed)
        state = "ag_running" if asynchronous else "gi_running"
        call.running = lambda: getattr(alive(), state, False)
        opened._iterator = timed
    except Exception as error:
        mishaps.note("timing a stream", error)
