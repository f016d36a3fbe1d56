"""``POST /v1/traces``: OTLP/HTTP as the specification has it, answered once the spans are on the disk."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from llmtrace.errors import LlmtraceError
from llmtrace.view.serve.bodies import BODY_BYTES, ENCODINGS, RefusedError, too_long, unpack
from llmtrace.view.serve.protobuf import NotOtlpError, response, status
from llmtrace.view.serve.store import UnavailableError
from llmtrace.view.serve.writer import Taken, Writer

PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"
_SENT_WITHIN_S: Final = 30.0
_DRAINED: Final = 8 * BODY_BYTES
"""The most bytes of an oversize body that are read and thrown away, so that its sender reads the answer."""


async def traces(request: Request) -> Response:
    """Answer an export request: store its spans, or refuse it."""
    writer: Writer = request.app.state.writer
    kind = _kind(request)
    binary = kind == PROTOBUF
    try:
        if kind not in (PROTOBUF, JSON):
            raise RefusedError(415, f"the content type {kind[:40]!r} is not taken: send {PROTOBUF} or {JSON}")
        encoding = request.headers.get("content-encoding", "")
        body = await _body(request)
        if encoding.strip().lower() not in ("", "identity"):
            body = await asyncio.to_thread(unpack, body, encoding)
        taken = await asyncio.wrap_future(writer.body(body, binary))
    except RefusedError as error:
        return _refusal(error.status, str(error), binary, writer)
    except NotOtlpError as error:
        return _refusal(400, str(error), binary, writer)
    except UnavailableError as error:
        return _refusal(503, str(error), binary, writer)
    except LlmtraceError as error:
        return _refusal(400, str(error), binary, writer)
    return Response(_answer(taken, binary), media_type=PROTOBUF if binary else JSON)


async def dropped(request: Request) -> Response:
    """Answer an export of metrics or logs as if it were kept: its sender has nothing to mend."""
    try:
        await _body(request)
    except RefusedError as error:
        return _refusal(error.status, str(error), _is_binary(request), request.app.state.writer)
    body = request.app.state.state.notes.dropped()
    return Response(body, media_type=PROTOBUF) if _is_binary(request) else Response(b"{}", media_type=JSON)


def _is_binary(request: Request) -> bool:
    return _kind(request) == PROTOBUF


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _body(request: Request) -> bytes:
    try:
        return await asyncio.wait_for(_read(request), _SENT_WITHIN_S)
    except asyncio.TimeoutError as error:
        raise RefusedError(408, f"the body did not come within {_SENT_WITHIN_S:.0f} s") from error


async def _read(request: Request) -> bytes:
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > _DRAINED:
        raise too_long()
    parts: list[bytes] = []
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size <= BODY_BYTES:
                parts.append(part)
            elif size > _DRAINED:
                break
            else:
                parts.clear()
    except ClientDisconnect as error:
        raise RefusedError(400, "the body was cut short") from error
    if size > BODY_BYTES:
        raise too_long()
    return b"".join(parts)


def _answer(taken: Taken, binary: bool) -> bytes:
    if binary:
        return response(taken.rejected, taken.reason)
    partial: dict[str, Any] = {"rejectedSpans": str(taken.rejected), "errorMessage": taken.reason}
    return orjson.dumps({"partialSuccess": partial} if taken.rejected else {})


def _refusal(code: int, reason: str, binary: bool, writer: Writer) -> Response:
    if code != 503:
        writer.reject(f"{code}: {reason}", 1)
    headers = {
        408: {"connection": "close"},
        413: {"connection": "close"},
        415: {"accept-encoding": ", ".join(ENCODINGS)},
        503: {"retry-after": "2"},
    }
    return Response(
        status(reason) if binary else orjson.dumps({"error": reason}),
        code,
        headers=headers.get(code),
        media_type=PROTOBUF if binary else JSON,
    )
