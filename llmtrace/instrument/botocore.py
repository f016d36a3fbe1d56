"""botocore (beneath boto3): every API call passes through one method, which names the operation.

A stream's events come parsed out of ``EventStream``, which pulls raw ones from an inner generator: timing is spliced in
there, around the parsing, for an event may stand for an exception. A whole answer's body is read by the application,
whenever it likes: what it reads is looked at on the way, and the call ends where the answer was handed over.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.trace import Span

from llmtrace.instrument.current import Making, current
from llmtrace.instrument.ends import collected
from llmtrace.instrument.engine import Engine
from llmtrace.instrument.methods import timed
from llmtrace.instrument.patching import Patches
from llmtrace.observe import call as calls
from llmtrace.observe import mishaps
from llmtrace.observe.call import Call
from llmtrace.observe.clock import now
from llmtrace.observe.stream import Guard, closed, failed, splice
from llmtrace.providers.declare import Botocore, Provider

_LARGEST = 4 * 1024 * 1024
"""Bytes of a body that are kept to read what it says; of a larger one, only the headers tell."""

_streams: weakref.WeakKeyDictionary[Any, Call] = weakref.WeakKeyDictionary()


def patch(patches: Patches, engine: Engine, provider: Provider, service: Botocore) -> None:
    """Patch the calls of ``service``, now or when botocore is imported."""

    def api_call(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = _begin(engine, provider, service, instance, *args, **kwargs)
        if call is None:
            return wrapped(*args, **kwargs)
        try:
            with Making(call, engine.settings.propagate):
                result = wrapped(*args, **kwargs)
        except BaseException as error:
            engine.failed(call, error)
            raise
        if isinstance(call, Call):
            _returned(engine, call, result)
        return result

    def close(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        _closing(instance)
        return wrapped(*args, **kwargs)

    patches.when_imported("botocore.client", lambda module: patches.wrap(module, "BaseClient._make_api_call", api_call))
    patches.when_imported("botocore.eventstream", lambda module: patches.wrap(module, "EventStream.close", close))


def _begin(
    engine: Engine, provider: Provider, service: Botocore, client: Any, operation_name: str, api_params: Any
) -> Call | Span | None:
    try:
        if client.meta.service_model.service_name != service.service:
            return None
        operation = service.operation(operation_name, api_params)
        if operation is None or current.get() is not None or not is_instrumentation_enabled():
            return None
        return engine.begin(provider, operation, client, {**api_params, "operation": operation_name})
    except Exception as error:
        mishaps.note("beginning a call", error)
        return None


def _returned(engine: Engine, call: Call, result: Any) -> None:
    try:
        body = result.get("stream") or result.get("body")
        if hasattr(body, "_event_generator"):
            _splice(body, call)
        elif hasattr(body, "_raw_stream"):
            call.returned = now()
            call.answer = {**result, "body": b""}
            _tap(body._raw_stream, call)
            return
    except Exception as error:
        mishaps.note("timing a stream", error)
    engine.returned(call, result)


def _splice(stream: Any, call: Call) -> None:
    parsed = _parsed(stream._event_generator, stream._parse_event)
    stream._parse_event = _already
    stream._event_generator = timed(call, parsed, splice)
    _streams[stream] = call


def _parsed(raw: Iterator[Any], parse: Any) -> Iterator[Any]:
    for event in raw:
        if event := parse(event):
            yield event


def _already(event: Any) -> Any:
    return event


def _closing(stream: Any) -> None:
    try:
        call = _streams.get(stream)
        if call is not None:
            closed(call)
    except Exception as error:
        mishaps.note("seeing a stream close", error)


def _tap(raw: Any, call: Call) -> None:
    """Look at what is read off ``raw``, urllib3's response, through whichever of its methods: all end in ``read``."""
    read, kept, guard, alive = type(raw).read, bytearray(), Guard(call, collected), weakref.ref(raw)

    def tapped(amt: int | None = None, *args: Any, **kwargs: Any) -> Any:
        response = alive()
        try:
            piece = read(response, amt, *args, **kwargs)
        except BaseException as error:
            failed(guard.call, error)
            raise
        if guard.call.is_open and _whole(guard.call, kept, piece, amt):
            guard.call.finish(calls.COMPLETED, guard.call.returned)
            vars(response).pop("read", None)
        return piece

    raw.read = tapped


def _whole(call: Call, kept: bytearray, piece: bytes, amt: int | None) -> bool:
    """Take in a piece; whether the body is whole with it."""
    try:
        if len(kept) <= _LARGEST:
            kept += piece
        length = call.answer["ResponseMetadata"]["HTTPHeaders"].get("content-length")
        if amt is not None and (piece or not amt) and str(len(kept)) != length:
            return False
        call.answer["body"] = bytes(kept) if len(kept) <= _LARGEST else b""
    except Exception as error:
        mishaps.note("reading a body", error)
    return True
