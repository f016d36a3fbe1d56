"""Unpacks request bodies within limits."""

from __future__ import annotations

import zlib
from typing import Final
from zlib import decompressobj

from llmtrace.errors import LlmtraceError

BODY_BYTES: Final = 16 << 20
"""The most bytes of a body as sent."""
UNPACKED_BYTES: Final = 64 << 20
"""The most bytes of an unpacked body."""
ENCODINGS: Final = ("gzip", "deflate", "identity")
_STEP: Final = 1 << 20
_PIECE: Final = 4096


class RefusedError(LlmtraceError):
    """A request that is refused, with its HTTP status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def too_long() -> RefusedError:
    """The error for a body over the limit (413)."""
    return RefusedError(413, f"the body is over the limit of {BODY_BYTES >> 20} MiB: export smaller batches")


def unpack(body: bytes, encoding: str) -> bytes:
    """The body as it was before it was compressed. Raises RefusedError (400, 413, 415)."""
    encoding = encoding.strip().lower() or "identity"
    if encoding == "identity":
        return body
    if encoding not in ENCODINGS:
        raise RefusedError(
            415,
            f"the compression {encoding[:40]!r} is not known: use gzip (OTEL_EXPORTER_OTLP_COMPRESSION=gzip) or none",
        )
    try:
        if encoding == "gzip":
            return _inflate(body, 31)
        try:
            return _inflate(body, zlib.MAX_WBITS)
        except zlib.error:
            return _inflate(body, -zlib.MAX_WBITS)  # deflate without zlib's frame, as some clients send it
    except (zlib.error, EOFError) as error:
        raise RefusedError(400, f"the body is no {encoding} data, or is cut short") from error


def _inflate(body: bytes, window: int) -> bytes:
    """Every member of the data; never more memory than the limit and a step.

    The data goes in by small pieces: what a member leaves over is copied, and a body may be made of very many.
    """
    whole = bytearray()
    view, at = memoryview(body), 0
    while at < len(view):
        machine = decompressobj(window)
        while at < len(view) and not machine.eof:
            piece = machine.unconsumed_tail or view[at : at + _PIECE]
            whole += machine.decompress(piece, _STEP)
            at += len(piece) - len(machine.unconsumed_tail) - len(machine.unused_data)
            if len(whole) > UNPACKED_BYTES:
                raise RefusedError(
                    413,
                    f"the body is over the limit of {UNPACKED_BYTES >> 20} MiB once unpacked: export smaller batches",
                )
        if not machine.eof:
            whole += machine.flush()
            if not machine.eof:
                raise EOFError
        while at < len(view) and view[at] == 0:  # padding
            at += 1
    return bytes(whole)
