"""Raw streaming responses: the application reads bytes or lines itself, so the byte stream is timed instead.

The tap takes the place of the response's inner byte stream; the response object stays the client's own. Kept are the
times, the first bytes and the last ones, in which an answer's identity, usage and timings stand.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any

from llmtrace.calls import finalizers
from llmtrace.observe import call as calls
from llmtrace.observe.answer import Answer
from llmtrace.observe.call import NOTHING, REASONING, Call
from llmtrace.observe.chunk_timing import BLOCK
from llmtrace.observe.clock import now
from llmtrace.observe.stream import Guard, failed
from llmtrace.providers.declare import Operation
from llmtrace.providers.event_stream import events_in

_HEAD = 256 * 1024
_TAIL = 64 * 1024
_CODED = 4 * 1024 * 1024
"""Bytes kept of a compressed body, which can only be read from its beginning."""
_UNPACKED = 32 * 1024 * 1024
"""Bytes up to which it is unpacked: few may stand for very many."""

Pieces = list[tuple[int, bytes]]
"""Bytes, each with the time when they came (monotonic ns)."""


class RawBody:
    """The first and last bytes of a raw body, with the time of each piece of the head."""

    __slots__ = ("_decode", "_head", "_head_size", "_most", "_tail", "_tail_size", "documents")

    def __init__(self, decode: Callable[[Pieces], Pieces] | None = None, whole: bool = False) -> None:
        """``decode`` undoes the body's compression, if it has one; ``whole``: all of the body is kept, for its content
        is to be captured.
        """
        self._decode = decode
        self._most = sys.maxsize if whole else _HEAD if decode is None else _CODED
        self.documents: list[Any] = []
        """The JSON objects that were read: the one of a whole answer, or the events that were kept of a stream."""
        self._head: Pieces = []
        self._head_size = 0
        self._tail: deque[bytes] = deque()
        self._tail_size = 0

    def keep(self, at: int, piece: bytes) -> None:
        """Take in one piece as it came off the wire."""
        if self._head_size < self._most:
            self._head.append((at, piece))
            self._head_size += len(piece)
            return
        self._tail.append(piece)
        self._tail_size += len(piece)
        while self._tail_size - len(self._tail[0]) > _TAIL:
            self._tail_size -= len(self._tail.popleft())

    def read(self, operation: Operation, call: Call, headers: Mapping[str, str] | None) -> Answer:
        """The answer in the bytes; also finds when the first token came, for a stream of events."""
        if self._decode is not None:
            self._head = self._decode(self._head)
            self._tail.clear()
        head = b"".join(piece for _, piece in self._head)
        tail = b"".join(self._tail)
        if not head:
            return Answer()  # nobody read it
        if not call.streaming:
            try:
                whole = json.loads(head + tail)
            except ValueError:
                whole = {}  # cut off, longer than what is kept, or no JSON at all
            self.documents = [whole]
            return operation.read_response(whole, headers)
        chunks = self._events(operation, call)
        recent = [event for _, event in events_in(tail)]
        self.documents = [*chunks, *recent]
        return operation.read_chunks(self.documents, headers)

    def _events(self, operation: Operation, call: Call) -> list[Any]:
        ends: list[tuple[int, int]] = []
        size = 0
        for at, piece in self._head:
            size += len(piece)
            ends.append((size, at))
        events: list[Any] = []
        ahead = iter(ends)
        upto, at = next(ahead, (0, 0))
        for offset, event in events_in(b"".join(piece for _, piece in self._head)):
            while offset > upto:
                upto, at = next(ahead, (sys.maxsize, at))
            events.append(event)
            call.first_chunk = call.first_chunk or at
            kind = operation.classify_chunk(event)
            if kind == NOTHING:
                continue
            call.first_token = call.first_token or at
            if kind == REASONING:
                call.first_reasoning = call.first_reasoning or at
            else:
                call.first_output = call.first_output or at
        return events


TAP_KEY = "llmtrace.tap"
"""Where an httpx response's ``extensions`` hold a tap that waits to be opened."""


def put(response: Any) -> _Tap | None:
    """Put a tap that is not open yet into a streaming httpx (or httpx2) response, as soon as that is there: what the
    client then lays around the byte stream lies over the tap, and stays what the application finds.

    Returns the tap, None where there is no byte stream to tap.
    """
    bases: list[type] = []
    for ours, name in ((_Sync, "SyncByteStream"), (_Async, "AsyncByteStream")):
        theirs = getattr(_library(response), name, None)
        if theirs is not None and isinstance(response.stream, theirs):
            bases += (ours, theirs)
    if not bases:
        return None
    tap: _Tap = _class(tuple(bases))(response.stream)
    response.stream = response.extensions[TAP_KEY] = tap
    return tap


def tap(response: Any, call: Call) -> bool:
    """Time the bytes of an open response from here on; False where it has no byte stream to tap."""
    tap: _Tap | None = response.extensions.get(TAP_KEY) or put(response)
    if tap is None:
        return False
    del response.extensions[TAP_KEY]
    tap.open(call)
    coding = response.headers.get("content-encoding")
    decode = partial(_decoded, _library(response), coding) if coding else None
    call.body = RawBody(decode, whole=call.kept is not None)
    call.begin_chunks()
    return True


def _library(response: Any) -> Any:
    """httpx or httpx2, whichever made ``response``."""
    return sys.modules.get(type(response).__module__.partition(".")[0])


def _decoded(library: Any, coding: str, pieces: Pieces) -> Pieces:
    """The pieces without their compression, by the client library's own decoders; up to where they are whole."""
    came = 0

    def raw() -> Iterator[bytes]:
        nonlocal came
        for at, piece in pieces:
            came = at
            yield piece

    decoded: Pieces = []
    size = 0
    try:
        for piece in library.Response(200, headers={"content-encoding": coding}, content=raw()).iter_bytes():
            decoded.append((came, piece))
            size += len(piece)
            if size > _UNPACKED:
                break
    except library.DecodingError:
        pass  # cut off, or more than is kept
    return decoded


class _Tap:
    """What every tap has: the inner stream and, once it is open, its call, given up where a client's own stream object
    takes over."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.call: Call | None = None
        self.guard: Guard | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)  # what others have hung on the stream (the client's own tracing)

    def open(self, call: Call) -> None:
        """Time what passes from here on, as ``call``'s."""
        self.call = call
        self.guard = finalizers.guard(call)

    def _note(self, asked: int, piece: bytes) -> None:
        call = self.call
        if call is None or call.running is not None or not call.is_open:
            return
        at = now()
        block = call.chunk_timing.block
        block.append(asked)
        block.append(at)
        if call.body is not None:
            call.body.keep(at, piece)
        if len(block) >= 2 * BLOCK:
            call.chunk_timing.fold(call.returned)

    def _ended(self) -> None:
        call = self.call
        if call is not None and call.running is None:
            call.finish(calls.COMPLETED, call.chunk_timing.last_arrival)

    def _failed(self, error: BaseException) -> None:
        call = self.call
        if call is not None and call.running is None:
            failed(call, error)


class _Sync(_Tap):
    """A tap on a synchronous byte stream."""

    def __iter__(self) -> Iterator[bytes]:
        try:
            asked = now()
            for piece in self.inner:
                self._note(asked, piece)
                yield piece
                asked = now()
        except GeneratorExit:
            raise
        except BaseException as error:
            self._failed(error)
            raise
        self._ended()

    def close(self) -> None:
        self.inner.close()


class _Async(_Tap):
    """A tap on an asynchronous one."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            asked = now()
            async for piece in self.inner:
                self._note(asked, piece)
                yield piece
                asked = now()
        except GeneratorExit:
            raise
        except BaseException as error:
            self._failed(error)
            raise
        self._ended()

    async def aclose(self) -> None:
        await self.inner.aclose()


@cache
def _class(bases: tuple[type, ...]) -> Any:
    """A tap of the same kind as the stream beneath: the client checks it."""
    return type("Tap", bases, {"__module__": __name__})
