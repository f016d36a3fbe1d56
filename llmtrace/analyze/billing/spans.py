"""What was billed, as spans below the calls that it was billed for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmtrace.analyze.billing.join import Match
from llmtrace.emit import names
from llmtrace.emit.otlp_json import OtlpJsonFileExporter
from llmtrace.errors import LlmtraceError

_BATCH = 512


def write(matches: Sequence[Match], path: Path) -> None:
    """Append a span for each match to a file of OTLP/JSON lines.

    A match has the same span each time, so that what is written twice counts once.

    Raises:
        LlmtraceError: the file cannot be written.
    """
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import SpanExportResult

    resource = Resource({"service.name": "llmtrace-reconcile"})
    exporter = OtlpJsonFileExporter(path)
    try:
        for at in range(0, len(matches), _BATCH):
            spans = [_span(match, resource) for match in matches[at : at + _BATCH]]
            if exporter.export(spans) is not SpanExportResult.SUCCESS:
                raise LlmtraceError(f"cannot write {path}")
    finally:
        exporter.shutdown()


def _span(match: Match, resource: Any) -> Any:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, TraceFlags

    record, call = match.record, match.call
    trace_id = int(call.trace_id, 16)
    own = hashlib.sha256(f"{call.trace_id} {call.span_id} {record.source}".encode()).digest()[:8]
    sampled = TraceFlags(TraceFlags.SAMPLED)
    attributes: dict[str, Any] = {
        names.BILLED_OUTPUT: record.output_tokens,
        names.BILLED_BY: record.hop,
        names.BILLED_JOIN: match.by,
    }
    if record.input_tokens is not None:
        attributes[names.BILLED_INPUT] = record.input_tokens
    if record.usd is not None:
        attributes[names.BILLED_USD] = record.usd
    return ReadableSpan(
        name=names.BILLED,
        context=SpanContext(trace_id, int.from_bytes(own, "big") or 1, is_remote=False, trace_flags=sampled),
        parent=SpanContext(trace_id, int(call.span_id, 16), is_remote=True, trace_flags=sampled),
        resource=resource,
        attributes=attributes,
        # At the end of the call: that is when it was billed.
        start_time=call.end_ns,
        end_time=call.end_ns,
        instrumentation_scope=InstrumentationScope("llmtrace"),
    )
