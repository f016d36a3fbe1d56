"""Exporters that leave the program alone: they are short of patience, and silent after their first complaint."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TextIO

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from llmtrace import conventions
from llmtrace.emit import names
from llmtrace.launch import signals
from llmtrace.launch.destinations import Destination, listens
from llmtrace.launch.probe import patience
from llmtrace.observe.address import without_credentials
from llmtrace.wording import clean

_log = logging.getLogger("llmtrace")
_MOST_WAITING = 512
"""Children of calls that have not ended yet, kept for the terminal."""


class Impatient(SpanExporter):
    """Sends by ``inner`` where somebody listens at ``endpoint``, and drops the batch at once where nobody does."""

    def __init__(self, inner: SpanExporter, endpoint: str) -> None:
        self._inner, self._endpoint = inner, endpoint
        self._complained = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send the batch; the first failure is logged, and no other."""
        if listens(self._endpoint):
            return self._inner.export(spans)
        if not self._complained:
            self._complained = True
            _log.warning("nobody listens at %s any more: spans are dropped", without_credentials(self._endpoint))
        return SpanExportResult.FAILURE

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing is held back here."""
        return self._inner.force_flush(timeout_millis)

    def shutdown(self) -> None:
        """End the inner exporter."""
        self._inner.shutdown()


def otlp(destination: Destination) -> SpanExporter:
    """An exporter to an OTLP endpoint, over the protocol that it takes."""
    place, timeout = destination.place, patience(os.environ)
    grpc = destination.kind == "otlp_grpc"
    inner = signals.exporter("TRACES", grpc=grpc)(endpoint=place, timeout=timeout, **encryption(place, grpc))
    return Impatient(inner, place)


def encryption(place: str, grpc: bool) -> dict[str, Any]:
    """What an exporter over gRPC has to be told beside its address: whether that is without encryption."""
    return {"insecure": place.startswith("http://")} if grpc else {}


def to_stderr(text: str) -> None:
    """Write where ``sys.stderr`` leads at this moment; nowhere, if that is closed."""
    stream: TextIO | None = sys.stderr
    with suppress(OSError, ValueError):
        if stream is not None:
            stream.write(text)
            stream.flush()


def own_stderr() -> Callable[[str], object]:
    """Writes to the terminal's stderr as it is now, even where the program catches its own (pytest does)."""
    try:
        handle = os.dup(2)
    except OSError:  # closed
        return lambda text: None

    def write(text: str) -> None:
        with suppress(OSError):
            os.write(handle, text.encode(errors="replace"))

    return write


class ConsoleExporter(SpanExporter):
    """Prints each call as it ends, with its phases, on stderr."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._children: dict[int, list[ReadableSpan]] = {}

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Keep the phases until their call, which ends after them, is here."""
        for span in spans:
            attributes = span.attributes or {}
            if names.OUTCOME in attributes and span.context is not None:
                self._write(_as_text(span, self._phases(span.context.span_id)))
            elif span.parent is not None and span.name.startswith("llm."):
                self._children.setdefault(span.parent.span_id, []).append(span)
                if len(self._children) > _MOST_WAITING:
                    del self._children[next(iter(self._children))]
        return SpanExportResult.SUCCESS

    def _phases(self, span_id: int) -> list[ReadableSpan]:
        phases = self._children.pop(span_id, [])
        for span in list(phases):
            if span.name == names.ATTEMPT and span.context is not None:
                phases += self._phases(span.context.span_id)
        return sorted(phases, key=lambda span: span.start_time or 0)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing is held back."""
        return True

    def shutdown(self) -> None:
        """Nothing is held open."""


def _as_text(call: ReadableSpan, phases: Sequence[ReadableSpan]) -> str:
    attributes = call.attributes or {}
    parts = [call.name, _seconds(call), str(attributes[names.OUTCOME])]
    if (ttft := attributes.get(names.TTFT)) is not None:
        parts.append(f"first token after {ttft:.3f} s")
    if (tokens := attributes.get(conventions.INPUT_TOKENS)) is not None:
        parts.append(f"{tokens} -> {attributes.get(conventions.OUTPUT_TOKENS, '?')} tokens")
    lines = [clean("  ".join(parts))]
    for phase in phases:
        own = phase.attributes or {}
        line = f"  {phase.name:<20} {_seconds(phase):>10}  {own.get(names.SOURCE, '')}"
        if (uncertainty := own.get(names.UNCERTAINTY)) is not None:
            line += f", within {uncertainty:.3f} s"
        if (why := own.get(names.MERGED_BECAUSE)) is not None:
            line += f", not split: {why}"
        lines.append(clean(line.rstrip()))
    causes: Any = attributes.get(names.DIAGNOSIS) or ()
    lines += [clean(f"  cause: {cause}") for cause in causes]
    return "\n".join(lines) + "\n"


def _seconds(span: ReadableSpan) -> str:
    return f"{((span.end_time or 0) - (span.start_time or 0)) / 1e9:.3f} s"
