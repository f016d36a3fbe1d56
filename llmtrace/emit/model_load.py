"""A model's load as spans: ``llm.model_load``, and its parts below it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import SpanContext, Status, StatusCode, Tracer

from llmtrace.emit import names
from llmtrace.emit.spans import Children
from llmtrace.emit.values import safe_attributes
from llmtrace.observe.loading import Loading
from llmtrace.phases.model import CLIENT, MODEL_LOAD, SCHEMA_VERSION, SERVER, Part, Phase
from llmtrace.phases.stagger import call_start, stagger_parts

if TYPE_CHECKING:
    from opentelemetry.context import Context


def emit_model_load(
    tracer: Tracer,
    loading: Loading,
    attributes: Mapping[str, Any],
    *,
    side: str = names.CLIENT_SIDE,
    context: Context | None = None,
    error: BaseException | None = None,
) -> SpanContext:
    """Write a load that has ended, below the current span or that of ``context``; returns its own span's context.

    One that failed has no parts: nobody saw in which it was, or that it had read anything.
    """
    offset = loading.offset
    told = loading.parts() if error is None else ()
    parts = [Part(name, start, end) for name, start, end in told]
    source = CLIENT if side == names.CLIENT_SIDE else SERVER
    phase = Phase(MODEL_LOAD, call_start(loading.start + offset) - offset, loading.end, source, parts=parts)
    stagger_parts(phase)
    about = {
        names.PHASE: MODEL_LOAD,
        names.SIDE: side,
        names.SOURCE: source,
        names.SCHEMA: SCHEMA_VERSION,
        names.LOAD_BYTES: loading.bytes or None,
        names.ERROR_TYPE: None if error is None else type(error).__qualname__,
        **attributes,
    }
    known = {name: value for name, value in about.items() if value is not None}
    span = tracer.start_span(
        names.SPAN_PREFIX + MODEL_LOAD, context, attributes=safe_attributes(known), start_time=phase.start + offset
    )
    if error is not None:
        span.set_status(Status(StatusCode.ERROR, type(error).__qualname__))
    if span.is_recording():
        children = Children(tracer, span, offset)
        for part in phase.parts:
            marks = {names.PART: part.name, names.SIDE: side, names.SOURCE: source}
            children.add(f"{names.SPAN_PREFIX}{MODEL_LOAD}.{part.name}", part.start, part.end, marks)
    span.end(loading.end + offset)
    return span.get_span_context()
