"""Clients that Stainless generates (openai, anthropic, groq, together, ...) share one shape, so one patch serves all.

Every call passes through ``SyncAPIClient.request`` or ``AsyncAPIClient.request``, retries included; every stream is a
``Stream`` or ``AsyncStream`` that pulls from its ``_iterator``. Patching there, below the resource methods, covers
``create``, ``parse``, ``stream()``, raw and streaming responses alike, and lies inside whatever another
instrumentation wraps around the resource methods, in whichever order the two are switched on. (One that wraps the
same method and was there first is wrapped itself: its span is looked for once the request is sent.)
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Any

from opentelemetry.trace import Span

from llmtrace.calls import finalizers
from llmtrace.calls.current import RESPONSE_KEY, Making, being_made, may_begin
from llmtrace.calls.own_requests import NOT_YET, Own
from llmtrace.calls.state import Endpoint
from llmtrace.calls.tracer import CallTracer
from llmtrace.instrumentation.patching import Patches
from llmtrace.observe import internal_errors, stream
from llmtrace.observe.address import address_of
from llmtrace.observe.call import Call
from llmtrace.observe.stream import asplice, splice
from llmtrace.providers.declare import Operation, Provider, Stainless


def patch(patches: Patches, tracer: CallTracer, provider: Provider, client: Stainless) -> None:
    """Patch ``client``, now or when it is imported."""

    def wrappers(covers: bool) -> tuple[Any, Any]:
        """The wrappers for the synchronous and the asynchronous client.

        ``covers``: the method that they wrap is another instrumentation's wrapper.
        """

        def request(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            begun = _begin(tracer, provider, client, covers, instance, args, kwargs)
            if begun is None:
                with _Beneath(instance):
                    return wrapped(*args, **kwargs)
            call, args, kwargs = begun
            try:
                with Making(call, _propagation(tracer, instance), Own(instance, built=NOT_YET)):
                    result = wrapped(*args, **kwargs)
            except BaseException as error:
                tracer.failed(call, error)
                raise
            tracer.returned(call, result)
            return result

        async def arequest(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            begun = _begin(tracer, provider, client, covers, instance, args, kwargs)
            if begun is None:
                with _Beneath(instance):
                    return await wrapped(*args, **kwargs)
            call, args, kwargs = begun
            try:
                with Making(call, _propagation(tracer, instance), Own(instance, built=NOT_YET)):
                    result = await wrapped(*args, **kwargs)
            except BaseException as error:
                tracer.failed(call, error)
                raise
            tracer.returned(call, result)
            return result

        return request, arequest

    def build(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        request = wrapped(*args, **kwargs)
        being = being_made()
        if being is not None and being.own.client is instance:
            being.own.built = request
        return request

    def opened(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        wrapped(*args, **kwargs)
        _splice(instance, False)

    def aopened(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        wrapped(*args, **kwargs)
        _splice(instance, True)

    def hook_clients(module: Any) -> None:
        for position, name in enumerate(("SyncAPIClient", "AsyncAPIClient")):
            base: Any = getattr(module, name, None)
            # Another instrumentation may have put a method of its own on a subclass, over the base's as it was then.
            for owner in [base, *_subclasses(base)] if base is not None else []:
                method = "_request" if spans_itself(base) else "request"
                covers = hasattr(vars(owner).get(method), "__wrapped__")
                patches.wrap_method(owner, method, wrappers(covers)[position])

        base = getattr(module, "BaseClient", None)
        # Azure's client builds in a method of its own, and then the base's.
        for owner in [base, *_subclasses(base)] if base is not None else []:
            patches.wrap_method(owner, "_build_request", build)

    def spans_itself(base: Any) -> bool:
        """Whether the client's ``request`` opens a span of its own and calls ``_request`` beneath it."""
        return client.own_spans and "_request" in vars(base)

    def hook_streams(module: Any) -> None:
        patches.wrap(module, "Stream.__init__", opened)
        patches.wrap(module, "AsyncStream.__init__", aopened)
        for name, asynchronous in (("Stream", False), ("AsyncStream", True)):
            stream_class: Any = getattr(module, name, None)
            lazy: Any = vars(stream_class).get("_iterator") if stream_class is not None else None
            if isinstance(lazy, cached_property):
                patches.put(stream_class, "_iterator", _lazily_timed(lazy, asynchronous))

    stream.iterating_packages.add(client.stream_module.partition(".")[0])
    patches.when_imported(client.client_module, hook_clients)
    patches.when_imported(client.stream_module, hook_streams)


class _Beneath:
    """A client's request beneath a call of something above it (LiteLLM): its requests are that call's."""

    __slots__ = ("_before", "_client", "_own")

    def __init__(self, client: Any) -> None:
        being = being_made()
        own = None if being is None else being.own
        # A library without functions for posting sends by itself: this client is then the application's own, in a hook.
        self._own = None if own is None or own.built is not None or own.funnel is None else own
        self._client = client

    def __enter__(self) -> None:
        own = self._own
        if own is not None:
            self._before = own.client, own.built
            own.client, own.built = self._client, NOT_YET

    def __exit__(self, *raised: object) -> None:
        if self._own is not None:
            self._own.client, self._own.built = self._before


_RAW = "X-Stainless-Raw-Response"
"""The header by which ``with_raw_response`` and ``with_streaming_response`` ask for the response itself."""
_NONE: Mapping[str, Any] = {}
Begun = tuple[Call | Span, tuple[Any, ...], dict[str, Any]]


def _subclasses(base: type) -> list[type]:
    direct = base.__subclasses__()
    return [*direct, *(deeper for cls in direct for deeper in _subclasses(cls))]


def _propagation(tracer: CallTracer, client: Any) -> str:
    """The setting ``propagate``; ``auto`` means ``never`` for a client that decides itself about its span's headers."""
    mode = tracer.settings.propagate
    return "never" if mode == "auto" and _propagates_itself(type(client)) else mode


@lru_cache(64)
def _propagates_itself(cls: type) -> bool:
    return hasattr(cls, "open_telemetry")


def _begin(
    tracer: CallTracer,
    provider: Provider,
    client: Stainless,
    covers: bool,
    instance: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Begun | None:
    """The call that this request starts, and the arguments to go on with; None where the request is not traced."""
    try:
        options: Any = args[1] if len(args) > 1 else kwargs.get("options")
        given = options
        operation = _operation(client, options)
        if operation is None or not may_begin():
            return None
        body: Any = options.json_data
        if tracer.settings.request_usage and isinstance(body, dict):
            asking_body = _asking(operation, body)
            if asking_body is not None:
                options = _copy(options, json_data=dict(asking_body))
                body = options.json_data
        if tracer.settings.slo_headers and isinstance(body, dict):
            options = _with_objectives(tracer, provider, instance, options, body)
        if options is not given and len(args) > 1:
            args = (args[0], options, *args[2:])
        elif options is not given:
            kwargs = {**kwargs, "options": options}
        extra_fields = getattr(options, "extra_json", None)
        if extra_fields is not None and isinstance(extra_fields, Mapping) and isinstance(body, dict):
            body = {**body, **extra_fields}
        url = options.url if options.url.startswith("http") else None
        headers = options.headers if isinstance(options.headers, Mapping) else _NONE
        call = tracer.begin(provider, operation, instance, body, url, covers, headers)
        if isinstance(call, Call):
            call.state.raw = _RAW in headers
        return None if call is None else (call, args, kwargs)
    except Exception as error:
        internal_errors.note("beginning a call", error)
        return None


def _asking(operation: Operation, body: dict[str, Any]) -> Mapping[str, Any] | None:
    """The body that asks for usage as well; None where it is to stay, also because it cannot be read."""
    try:
        return operation.ask_for_usage(body)
    except Exception as error:
        internal_errors.note("asking for usage", error)
        return None


def _copy(options: Any, **changes: Any) -> Any:
    return getattr(options, "model_copy", options.copy)(update=changes)


def _with_objectives(tracer: CallTracer, provider: Provider, client: Any, options: Any, body: dict[str, Any]) -> Any:
    """``options`` with the headers that tell the call's objectives, but for those that the application sends itself."""
    if tracer.services.objectives is None:
        return options
    host, port = address_of(provider.base_url(client))
    asked = Endpoint(None, provider.provider_name(client, host), host, port)
    given: Mapping[str, str] = options.headers if isinstance(options.headers, Mapping) else _NONE
    own = {name.lower() for name in given}
    ours = tracer.services.objectives.headers(asked, body.get("model"))
    return _copy(options, headers={**{name: value for name, value in ours.items() if name not in own}, **given})


def _operation(client: Stainless, options: Any) -> Operation | None:
    url: Any = getattr(options, "url", None)
    if not isinstance(url, str) or options.method.lower() != "post":
        return None
    path = url.partition("?")[0]
    absolute = path.startswith("http")
    for operation in client.operations:
        if path == operation.path or (absolute and path.endswith(operation.path)):
            return operation
    return None


def _call_of(stream_object: Any) -> Call | None:
    """The traced call of a stream that was just opened; None where something above this client times the stream.

    (LiteLLM is such: it hands out a stream object of its own.)
    """
    call = _call_behind(stream_object.response)
    return call if call is not None and call.running is None else None


def _call_behind(response: Any) -> Call | None:
    """The open call of a response.

    A program's tests may put anything in its place: any attribute may have any value.
    """
    call: Any = getattr(response, "extensions", _NONE).get(RESPONSE_KEY)
    if not isinstance(call, Call) or not call.is_open:
        return None
    return call if call.state.operation.path else None


def _splice(stream_object: Any, asynchronous: bool) -> None:
    """Put the timing iterator in the place of the stream's own, where the stream belongs to a traced call."""
    try:
        call = _call_of(stream_object)
        if call is None:
            return
        if isinstance(getattr(type(stream_object), "_iterator", None), cached_property):
            _await_first_use(stream_object, call)
        else:
            stream_object._iterator = _timed(stream_object._iterator, call, asynchronous)
    except Exception as error:
        internal_errors.note("timing a stream", error)


def _timed(inner: Any, call: Call, asynchronous: bool) -> Any:
    timed: Any = (asplice if asynchronous else splice)(inner, call, finalizers.guard(call))
    iterator_reference = weakref.ref(timed)
    state = "ag_running" if asynchronous else "gi_running"
    call.running = lambda: getattr(iterator_reference(), state, False)
    return timed


class _Unread:
    """The value of ``call.running`` for a stream that has no iterator yet: no pull is under way."""

    __slots__ = ("watch",)

    def __init__(self, watch: Any) -> None:
        self.watch = watch

    def __call__(self) -> bool:
        return False


def _await_first_use(stream_object: Any, call: Call) -> None:
    """Watch a stream that makes its iterator when it is first pulled: if it is dropped before that, the call ends."""

    def dropped(_: Any) -> None:
        if call.is_open and call.running is unread:
            finalizers.hand_over(call)

    # The watch lives as long as the state does: until the iterator is made, or the call ends.
    unread = _Unread(weakref.ref(stream_object, dropped))
    call.running = unread


def _lazily_timed(lazy: cached_property[Any], asynchronous: bool) -> cached_property[Any]:
    """A property like ``lazy``, with timing around the iterator that it makes."""

    def make(stream_object: Any) -> Any:
        inner = lazy.func(stream_object)
        try:
            call = _call_behind(stream_object.response)
            return inner if call is None else _timed(inner, call, asynchronous)
        except Exception as error:
            internal_errors.note("timing a stream", error)
            return inner

    timed_property = cached_property(make)
    timed_property.__set_name__(type, "_iterator")
    return timed_property
