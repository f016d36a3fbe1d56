"""botocore (beneath boto3) and aiobotocore (beneath aioboto3): every API call passes through one method, which names
the operation.

A stream's events come parsed out of ``EventStream``, which pulls raw ones from an inner generator: timing is spliced in
there, around the parsing, for an event may stand for an exception. A whole answer's body is read by the application,
whenever it likes: its bytes are looked at on the way, and the call ends where the answer was handed over.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import wrapt
from opentelemetry.trace import Span

from llmtrace.calls import finalizers
from llmtrace.calls.current import Making, may_begin
from llmtrace.calls.own_requests import Own
from llmtrace.calls.tracer import CallTracer
from llmtrace.instrumentation.methods import timed
from llmtrace.instrumentation.patching import Patches
from llmtrace.observe import call as calls
from llmtrace.observe import internal_errors
from llmtrace.observe.call import Call
from llmtrace.observe.clock import now
from llmtrace.observe.stream import asplice, closed, failed, splice
from llmtrace.providers.declare import Botocore, Provider

_LARGEST = 4 * 1024 * 1024
"""The most bytes of a body that are kept to be read; of a larger answer, only the headers are read."""


def patch(patches: Patches, tracer: CallTracer, provider: Provider, service: Botocore) -> None:
    """Patch the calls of the services in ``service``, now or when botocore is imported."""

    def api_call(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = _begin(tracer, provider, service, instance, *args, **kwargs)
        if call is None:
            return wrapped(*args, **kwargs)
        try:
            with Making(call, tracer.settings.propagate, _own(provider, service, instance)):
                result = wrapped(*args, **kwargs)
        except BaseException as error:
            tracer.failed(call, error)
            raise
        if isinstance(call, Call):
            _returned(tracer, call, result)
        return result

    async def aapi_call(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = _begin(tracer, provider, service, instance, *args, **kwargs)
        if call is None:
            return await wrapped(*args, **kwargs)
        try:
            with Making(call, tracer.settings.propagate, _own(provider, service, instance)):
                result = await wrapped(*args, **kwargs)
        except BaseException as error:
            tracer.failed(call, error)
            raise
        if isinstance(call, Call):
            _returned(tracer, call, result)
        return result

    module, name, wrapper = (
        ("aiobotocore.client", "AioBaseClient", aapi_call)
        if service.asynchronous
        else ("botocore.client", "BaseClient", api_call)
    )
    patches.when_imported(module, lambda module: patches.wrap(module, f"{name}._make_api_call", wrapper))


def _own(provider: Provider, service: Botocore, client: Any) -> Own:
    return Own(client, provider.senders, service.paths.get(client.meta.service_model.service_name, ""))


def _begin(
    tracer: CallTracer, provider: Provider, service: Botocore, client: Any, operation_name: str, api_params: Any
) -> Call | Span | None:
    try:
        if client.meta.service_model.service_name not in service.paths:
            return None
        operation = service.operation(operation_name, api_params)
        if operation is None or not may_begin():
            return None
        return tracer.begin(provider, operation, client, {**api_params, "operation": operation_name})
    except Exception as error:
        internal_errors.note("beginning a call", error)
        return None


def _returned(tracer: CallTracer, call: Call, result: Any) -> None:
    try:
        body = result.get("stream") or result.get("body")
        if hasattr(body, "_event_generator"):
            _splice(body, call)
        elif (raw := getattr(body, "_raw_stream", None) or getattr(body, "__wrapped__", None)) is not None:
            call.returned = now()
            call.answer = {**result, "body": b""}
            if not isinstance(body, wrapt.ObjectProxy):
                body.close = _closing(body, call)
                if hasattr(type(body), "__enter__"):
                    raw.close = _closing(raw, call, weakref.ref(body))  # what leaving ``with body`` closes
            _tap(raw, call)
            return
    except Exception as error:
        internal_errors.note("timing a stream", error)
    tracer.returned(call, result)


def _splice(stream: Any, call: Call) -> None:
    raw, parse = stream._event_generator, stream._parse_event
    stream._parse_event = _aunchanged if inspect.iscoroutinefunction(parse) else _unchanged
    if hasattr(raw, "__anext__"):
        stream._event_generator = timed(call, _aparsed(raw, parse), asplice)
    else:
        stream._event_generator = timed(call, _parsed(raw, parse), splice)
    _watch_close(stream, call)


def _parsed(raw: Iterator[Any], parse: Any) -> Iterator[Any]:
    for event in raw:
        if event := parse(event):
            yield event


async def _aparsed(raw: AsyncIterator[Any], parse: Any) -> AsyncIterator[Any]:
    async for event in raw:
        parsed = parse(event)
        if parsed := await parsed if inspect.isawaitable(parsed) else parsed:  # older versions parse at once
            yield parsed


def _unchanged(event: Any) -> Any:
    return event


async def _aunchanged(event: Any) -> Any:
    return event


def _watch_close(stream: Any, call: Call) -> None:
    """Note when the application closes ``stream``, without a reference that would keep the stream alive."""
    stream_reference, raw = weakref.ref(stream), stream._raw_stream

    def close() -> Any:
        try:
            closed(call)
        except Exception as error:
            internal_errors.note("seeing a stream close", error)
        living = stream_reference()
        return raw.close() if living is None else type(living).close(living)

    stream.close = close


def _tap(raw: Any, call: Call) -> None:
    """Collect the bytes read off ``raw``, a response of urllib3 or aiohttp, whose methods all end in one ``read``."""
    reading = _Reading(call)
    if "content" in vars(raw):
        raw.close = _closing(raw, call)
        raw.content = _Content(raw.content, reading)
        return
    read, response_reference = type(raw).read, weakref.ref(raw)

    def tapped(amt: int | None = None, *args: Any, **kwargs: Any) -> Any:
        response = response_reference()
        try:
            piece = read(response, amt, *args, **kwargs)
        except BaseException as error:
            reading.failed(error)
            raise
        if reading.take_in(piece, amt):
            vars(response).pop("read", None)
        return piece

    raw.read = tapped


def _closing(body: Any, call: Call, owner: weakref.ref[Any] | None = None) -> Any:
    """Closes ``body``, and with it the call of one that was not read to its end.

    ``owner``: what the application has in its hands. When that is gone it is a destructor that closes, not the
    application; urllib3's destructor does so by the method that is replaced here.
    """
    close, alive = type(body).close, weakref.ref(body)

    def closing() -> Any:
        try:
            if owner is None or owner() is not None:
                call.finish(calls.CLOSED_EARLY)
        except Exception as error:
            internal_errors.note("seeing a body close", error)
        response = alive()
        return None if response is None else close(response)

    return closing


class _Content(wrapt.ObjectProxy):  # pyright: ignore[reportMissingTypeArgument]
    """Stands for the stream that aiohttp's response is read from, and collects what passes."""

    def __init__(self, content: Any, reading: _Reading) -> None:
        super().__init__(content)
        self._self_reading = reading

    async def read(self, n: int = -1) -> bytes:
        try:
            piece = await self.__wrapped__.read(n)
        except BaseException as error:
            self._self_reading.failed(error)
            raise
        self._self_reading.take_in(piece, None if n < 0 else n)
        return piece


class _Reading:
    """The bytes read of one body so far. It lives as long as the body can be read on, and then ends the call."""

    def __init__(self, call: Call) -> None:
        self._guard = finalizers.guard(call)
        self._kept = bytearray()

    def take_in(self, piece: bytes, amount: int | None) -> bool:
        """Add a piece, which was read with the limit ``amount`` in bytes (None: no limit).

        Returns whether the body is complete.
        """
        call = self._guard.call
        if call.is_open and _is_complete(call, self._kept, piece, amount):
            call.finish(calls.COMPLETED, call.returned)
        return not call.is_open

    def failed(self, error: BaseException) -> None:
        """End the call, because reading raised ``error``."""
        failed(self._guard.call, error)


def _is_complete(call: Call, body: bytearray, piece: bytes, amt: int | None) -> bool:
    """Add ``piece`` to ``body``; return whether the body is complete with it.

    ``amt``: the limit of the read, in bytes.
    """
    try:
        if len(body) <= _LARGEST:
            body += piece
        length = call.answer["ResponseMetadata"]["HTTPHeaders"].get("content-length")
        if amt is not None and (piece or not amt) and str(len(body)) != length:
            return False
        call.answer["body"] = bytes(body) if len(body) <= _LARGEST else b""
    except Exception as error:
        internal_errors.note("reading a body", error)
    return True
