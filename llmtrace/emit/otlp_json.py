"""Spans into a file of OTLP/JSON lines, in the shape of the Collector's file exporter."""

from __future__ import annotations

import base64
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from llmtrace.errors import LlmtraceError
from llmtrace.observe.process import Lock
from llmtrace.version import install_hint

_log = logging.getLogger(__name__)

_MISSING = f"writing OTLP/JSON needs the OTLP encoder: {install_hint('otlp')}"


class OtlpJsonFileExporter(SpanExporter):
    """Appends one line per batch of spans.

    Each line goes out in one write to a file opened for appending, so that Ctrl-C leaves whole lines and several
    processes may share one file. Only a process that is killed outright (SIGKILL, or SIGTERM without a handler) can
    leave its last line cut short, since the kernel then stops in the middle of the write. Every line therefore begins
    on a line of its own, whoever left the one before it cut. A batch that cannot be written is reported once in the
    log and dropped: the application goes on.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._encode = _encoder()
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._fd: int | None = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise LlmtraceError(f"cannot write {self.path}: {error.strerror or error}") from error
        self._lock = Lock()
        self._complained = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write the batch as one line."""
        if not spans:
            return SpanExportResult.SUCCESS
        try:
            line = memoryview(self._encode(spans))
            with self._lock:
                if self._fd is None:
                    return SpanExportResult.FAILURE
                self._end_cut_line(self._fd)
                while line:
                    line = line[os.write(self._fd, line) :]
        except (
            Exception
        ) as error:  # a full disk, or an attribute that cannot be encoded: never the application's affair
            if not self._complained:
                self._complained = True
                _log.warning("spans not written to %s: %s", self.path, error)
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing is held back: every batch is in the file when ``export`` returns."""
        return True

    def shutdown(self) -> None:
        """Close the file; safe to call twice."""
        with self._lock:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None

    @staticmethod
    def _end_cut_line(fd: int) -> None:
        """Keep a line that a killed process left cut short from swallowing ours.

        Where another process is in the middle of its write just now, this leaves an empty line behind that one.
        """
        size = os.fstat(fd).st_size
        if size and os.lseek(fd, size - 1, os.SEEK_SET) == size - 1 and os.read(fd, 1) != b"\n":
            os.write(fd, b"\n")


def _encoder() -> Callable[[Sequence[ReadableSpan]], bytes]:
    try:
        from google.protobuf.json_format import MessageToDict
        from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    except ImportError as error:
        raise LlmtraceError(_MISSING) from error

    def encode(spans: Sequence[ReadableSpan]) -> bytes:
        message: dict[str, Any] = MessageToDict(encode_spans(spans), use_integers_for_enums=True)
        for span in _spans(message):
            _hex_ids(span)
            for link in span.get("links", ()):
                _hex_ids(link)
        return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"

    return encode


def _spans(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for resource_spans in message.get("resourceSpans", ()):
        for scope_spans in resource_spans.get("scopeSpans", ()):
            yield from scope_spans.get("spans", ())


def _hex_ids(item: dict[str, Any]) -> None:
    """Protobuf's JSON writes bytes in base64; OTLP/JSON wants ids in hexadecimal."""
    for key in ("traceId", "spanId", "parentSpanId"):
        if key in item:
            item[key] = base64.b64decode(item[key]).hex()
