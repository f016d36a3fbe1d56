"""Clients whose calls do not go through one funnel: each method that makes a call is patched, all in the same way.

A method's code says what kind it is: a function or a coroutine makes its request when it is called (awaited), a
generator when it is first pulled. The request says what it returns: a value or a stream. A stream is either an object
of the client's that pulls from an inner iterator (then timing is spliced in there) or a bare generator (then one of
ours stands in for it: of the same type and name, as lazy, closing the client's when it is closed).
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, NamedTuple

from opentelemetry.trace import Span

from llmtrace.calls import finalizers
from llmtrace.calls.current import Beside, Making, being_made, may_begin
from llmtrace.calls.own_requests import Own
from llmtrace.calls.tracer import CallTracer
from llmtrace.instrumentation.iterator_timing import keep_wrapped, watch
from llmtrace.instrumentation.patching import Patches
from llmtrace.observe import call as calls
from llmtrace.observe import internal_errors, stream
from llmtrace.observe.call import Call
from llmtrace.observe.clock import now
from llmtrace.observe.stream import asplice, splice
from llmtrace.providers.declare import Method, Provider

_END: Any = object()


def patch(patches: Patches, tracer: CallTracer, provider: Provider, method: Method) -> None:
    """Patch ``method``, now or when its module is imported. Does nothing where a version does not have it."""

    def hook(module: Any) -> None:
        owner_path, _, name = method.path.rpartition(".")
        owner = getattr(module, owner_path, None) if owner_path else module
        original = None if owner is None else vars(owner).get(name)
        if original is not None:
            patches.wrap_method(owner, name, _wrapper(_Method(patches, tracer, provider, method), original))

    stream.iterating_packages.add(method.module.partition(".")[0])
    patches.when_imported(method.module, hook)


def _wrapper(wrappers: _Method, original: Any) -> Any:
    if wrappers.managed:
        return wrappers.amanage if inspect.isasyncgenfunction(inspect.unwrap(original)) else wrappers.manage
    if inspect.isgeneratorfunction(original):
        return wrappers.generate
    if inspect.isasyncgenfunction(original):
        return wrappers.agenerate
    return wrappers.acall if inspect.iscoroutinefunction(original) else wrappers.call


class _Method:
    """The wrappers of one method, one for each kind of function."""

    def __init__(self, patches: Patches, tracer: CallTracer, provider: Provider, method: Method) -> None:
        self._patches = patches
        self._tracer = tracer
        self._provider = provider
        self._method = method
        self.managed = method.managed
        self._propagate = tracer.settings.propagate
        self._funnelled = False
        if method.read_stream is not None:
            keep_wrapped(patches, tracer)
        for module in provider.posts:
            patches.when_imported(module, self._hook_posts)
        for module in provider.callbacks:
            patches.when_imported(module, self._hook_callbacks)

    def call(self, wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Wraps a function, which makes the request itself or (``lazy``) when its stream is first pulled."""
        if self._method.lazy and self._streams(instance, args, kwargs):
            return self.generate(wrapped, instance, args, kwargs)
        call = self._begin(instance, args, kwargs)
        if call is None:
            return wrapped(*args, **kwargs)
        try:
            with Making(call, self._propagate, self._own(instance)):
                result = wrapped(*args, **kwargs)
        except BaseException as error:
            self._tracer.failed(call, error)
            raise
        return self._returned(call, result, splice)

    async def acall(self, wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Wraps a coroutine, which makes the request itself or (``lazy``) when its stream is first pulled."""
        if self._method.lazy and self._streams(instance, args, kwargs):
            inner = await wrapped(*args, **kwargs)
            return _StandIn(
                inner, lambda: self._open(inner, self._afirst, asplice, instance, args, kwargs)
            ).agenerator()
        call = self._begin(instance, args, kwargs)
        if call is None:
            return await wrapped(*args, **kwargs)
        try:
            with Making(call, self._propagate, self._own(instance)):
                result = await wrapped(*args, **kwargs)
        except BaseException as error:
            self._tracer.failed(call, error)
            raise
        return self._returned(call, result, asplice)

    def generate(self, wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Wraps a generator: no call begins before it is first pulled."""
        inner = wrapped(*args, **kwargs)
        return _StandIn(inner, lambda: self._open(inner, self._first, splice, instance, args, kwargs)).generator()

    def agenerate(self, wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Wraps an asynchronous generator: no call begins before it is first pulled."""
        inner = wrapped(*args, **kwargs)
        return _StandIn(inner, lambda: self._open(inner, self._afirst, asplice, instance, args, kwargs)).agenerator()

    def manage(self, wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Wraps a function of ``contextlib.contextmanager``, which makes the request when its manager is entered."""
        manager = wrapped(*args, **kwargs)
        manager.gen = self._entered(manager.gen, instance, args, kwargs)
        return manager

    def amanage(self, wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Wraps a function of ``contextlib.asynccontextmanager``."""
        manager = wrapped(*args, **kwargs)
        manager.gen = self._aentered(manager.gen, instance, args, kwargs)
        return manager

    def _entered(self, gen: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
        """Stands in for ``gen``, the manager's generator, whose first step makes the request."""
        call = self._begin(instance, args, kwargs)
        if call is None:
            return (yield from gen)
        try:
            with Making(call, self._propagate, self._own(instance)):
                entered = next(gen)
        except BaseException as error:
            self._tracer.failed(call, error)
            raise
        self._returned(call, entered, splice)
        try:
            yield entered
        except BaseException as error:
            try:
                yield gen.throw(error)
            except StopIteration:
                return
        yield from gen

    async def _aentered(
        self, gen: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AsyncIterator[Any]:
        call = self._begin(instance, args, kwargs)
        try:
            if call is None:
                entered = await anext(gen)
            else:
                with Making(call, self._propagate, self._own(instance)):
                    entered = await anext(gen)
        except BaseException as error:
            if call is not None:
                self._tracer.failed(call, error)
            raise
        if call is not None:
            self._returned(call, entered, asplice)
        try:
            yield entered
        except BaseException as error:
            try:
                yield await gen.athrow(error)
            except StopAsyncIteration:
                return
        async for more in gen:
            yield more

    def _begin(self, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | Span | None:
        """The call that starts here; None where it is not traced, or belongs to a call that is being made already."""
        try:
            if not may_begin():
                return None
            body = self._method.body(instance, args, kwargs)
            return None if body is None else self._tracer.begin(self._provider, self._method.operation, instance, body)
        except Exception as error:
            internal_errors.note("beginning a call", error)
            return None

    def _hook_posts(self, module: Any) -> None:
        """Every request of the library's own to a model goes through one of these functions."""
        for path in self._provider.posts[module.__name__]:
            owner_path, _, name = path.rpartition(".")
            owner = getattr(module, owner_path, None)
            original = None if owner is None else vars(owner).get(name)
            if original is None:
                continue
            self._funnelled = True
            if not self._patches.holds(owner, name):
                posting = _apost if inspect.iscoroutinefunction(original) else _post
                self._patches.wrap_method(owner, name, _built if name == "_build_request" else posting)

    def _hook_callbacks(self, module: Any) -> None:
        """What the application's callbacks send is none of the library's own requests."""
        for path in self._provider.callbacks[module.__name__]:
            owner_path, _, name = path.rpartition(".")
            owner = getattr(module, owner_path, None)
            if not self._patches.holds(owner, name):
                self._patches.wrap_method(owner, name, _called_back)

    def _own(self, client: Any) -> Own:
        own = Own(None if self._funnelled else client, self._provider.senders)
        if self._funnelled:
            own.funnel = 0
        return own

    def _streams(self, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        try:
            body = self._method.body(instance, args, kwargs)
            return body is not None and self._method.operation.read_request(body).streaming
        except Exception as error:
            internal_errors.note("reading a request", error)
            return False

    def _returned(self, call: Call | Span, result: Any, splicing: Any) -> Any:
        """What the application gets: ``result``, or a timed generator where ``result`` is a bare generator."""
        if not isinstance(call, Call):
            return result
        returned = result
        try:
            inner_name, read_stream = self._method.inner, self._method.read_stream
            bare = inspect.isgenerator(result) or inspect.isasyncgen(result)
            if read_stream is not None and call.streaming and call.is_open and not bare:
                watch(result, call, self._propagate, read_stream)
            elif call.streaming and call.is_open:
                inner = getattr(result, inner_name) if inner_name else result
                ours = timed(call, inner, splicing)
                if inner_name:
                    setattr(result, inner_name, ours)
                else:
                    stand_in = _StandIn(inner, lambda: _Opened(call, (inner, ours)))
                    returned = stand_in.agenerator() if splicing is asplice else stand_in.generator()
        except Exception as error:
            internal_errors.note("timing a stream", error)
        self._tracer.returned(call, result)
        return returned

    def _open(
        self, inner: Any, first: Any, splicing: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> _Opened:
        """Begin the call of a stream that is about to be pulled for the first time."""
        call = self._begin(instance, args, kwargs)
        if call is None:
            return _Opened(None, (inner,))
        making = first(inner, call, instance)
        if not isinstance(call, Call):
            return _Opened(None, (inner, making))
        return _Opened(call, (inner, making, timed(call, making, splicing)))

    def _first(self, inner: Iterator[Any], call: Call | Span, instance: Any) -> Iterator[Any]:
        """``inner``; in its first pull, in which the client makes its request, ``call`` is the current one."""
        with Making(call, self._propagate, self._own(instance)):
            first = next(inner, _END)
        if isinstance(call, Call):
            call.returned = now()
        if first is not _END:
            yield first
            yield from inner

    async def _afirst(self, inner: AsyncIterator[Any], call: Call | Span, instance: Any) -> AsyncIterator[Any]:
        with Making(call, self._propagate, self._own(instance)):
            first = await anext(inner, _END)
        if isinstance(call, Call):
            call.returned = now()
        if first is not _END:
            yield first
            async for item in inner:
                yield item


class _InFunnel:
    """While it lasts, one of the library's own functions for posting is under way."""

    __slots__ = ("_own",)

    def __init__(self) -> None:
        being = being_made()
        self._own = None if being is None or being.own.funnel is None else being.own

    def __enter__(self) -> None:
        if self._own is not None and self._own.funnel is not None:
            self._own.funnel += 1

    def __exit__(self, *raised: object) -> None:
        if self._own is not None and self._own.funnel is not None:
            self._own.funnel -= 1


def _post(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    with _InFunnel():
        return wrapped(*args, **kwargs)


def _called_back(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    with Beside():
        return wrapped(*args, **kwargs)


def _built(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The request that a client beneath has built, whether that client is traced itself or not."""
    request = wrapped(*args, **kwargs)
    being = being_made()
    if being is not None and being.own.funnel is not None:
        being.own.built = request
    return request


async def _apost(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    with _InFunnel():
        return await wrapped(*args, **kwargs)


class _Opened(NamedTuple):
    """A stream being read."""

    call: Call | None
    links: Sequence[Any]
    """The chain of iterators: the client's own first, and last the one that the application's pulls reach."""


class _StandIn:
    """Makes a generator that stands in for one of the client's."""

    def __init__(self, inner: Any, opening: Callable[[], _Opened]) -> None:
        self._inner = inner
        self._opening = opening
        self._made: Any = None

    def generator(self) -> Iterator[Any]:
        """The generator to hand out."""
        return self._with_names(self._generate())

    def agenerator(self) -> AsyncIterator[Any]:
        """The asynchronous generator to hand out."""
        return self._with_names(self._agenerate())

    def _with_names(self, generator: Any) -> Any:
        for name in ("__name__", "__qualname__"):
            if isinstance(title := getattr(self._inner, name, None), str):
                setattr(generator, name, title)
        self._made = weakref.ref(generator)
        return generator

    def _generate(self) -> Iterator[Any]:
        opened = self._opening()
        try:
            for item in opened.links[-1]:  # noqa: UP028 - delegating would close the links before this generator sees it
                yield item
        except BaseException as error:
            self._ended_by(opened.call, error)
            for link in reversed(opened.links):
                getattr(link, "close", _do_nothing)()
            raise

    async def _agenerate(self) -> AsyncIterator[Any]:
        opened = self._opening()
        try:
            async for item in opened.links[-1]:
                yield item
        except BaseException as error:
            self._ended_by(opened.call, error)
            for link in reversed(opened.links):
                await getattr(link, "aclose", _ado_nothing)()
            raise

    def _ended_by(self, call: Call | None, error: BaseException) -> None:
        """End the call: the application closed the generator, threw into it or dropped it, or pulling raised."""
        if call is None:
            return
        if not isinstance(error, GeneratorExit):
            stream.failed(call, error)
        elif self._made() is not None:  # a generator that is being collected has lost its weak references
            call.finish(calls.CLOSED_EARLY)


def _do_nothing() -> None:
    pass


async def _ado_nothing() -> None:
    pass


def timed(call: Call, inner: Any, splicing: Any) -> Any:
    """A generator that times the pulls from ``inner``; sets ``call.running``, which tells a pull under way."""
    generator = splicing(inner, call, finalizers.guard(call))
    generator_reference = weakref.ref(generator)
    state = "ag_running" if splicing is asplice else "gi_running"
    call.running = lambda: getattr(generator_reference(), state, False)
    return generator
