"""Whose span a call has: where another instrumentation opened one for this very call, the phases go under that.

A span is adopted once, and only for the same operation and model: a second call that finds it current (a retry loop, an
embedding made meanwhile) gets a span of its own beneath it.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

from opentelemetry import context as otel
from opentelemetry import trace as trace_api
from opentelemetry.trace import Span, Tracer

from llmtrace.calls.current import being_made
from llmtrace.emit import names
from llmtrace.providers.declare import Operation, Request

_OPENINFERENCE = "openinference.span.kind"
_OPENINFERENCE_KINDS = {"chat": "LLM", "text_completion": "LLM", "generate_content": "LLM", "embeddings": "EMBEDDING"}
"""What OpenInference calls the operations that are one call of a model."""
_TRACELOOP_KIND = "llm.request.type"
_MODELS = (names.REQUEST_MODEL, "llm.model_name", "embedding.model_name")
"""Attributes in which the instrumentations say which model was asked."""

_adopted: WeakSet[Span] = WeakSet()


def claimed(span: Span, operation: Operation, request: Request) -> Span | None:
    """The current ``span``, if another instrumentation opened it for this very call; it is then adopted."""
    if not span.is_recording() or span in _adopted:
        return None
    attributes: Any = getattr(span, "attributes", None)
    if not attributes or not _same_operation(attributes, operation.name):
        return None
    model = next((attributes[name] for name in _MODELS if name in attributes), None)
    if model is not None and request.model is not None and model != request.model:
        return None
    _adopted.add(span)
    return span


def _same_operation(attributes: Any, operation: str) -> bool:
    told = attributes.get(names.OPERATION)
    if told is not None:
        return told == operation
    kind = attributes.get(_OPENINFERENCE)
    if kind is not None:
        return kind == _OPENINFERENCE_KINDS.get(operation)
    return attributes.get(_TRACELOOP_KIND) == operation


def opened_beneath(span: Span, above: Span, tracer: Tracer, parent: str) -> bool:
    """Whether ``span``, current as a request is sent, was opened for its call beneath ``above``, by the client or by
    another instrumentation. ``parent``: the setting."""
    attributes: Any = getattr(span, "attributes", None)
    if span is above or not attributes:
        return False
    if names.OPERATION not in attributes and attributes.get(_OPENINFERENCE) != "LLM":
        return False
    return parent == "existing" or _exported_together(span, tracer)


def _exported_together(span: Any, tracer: Any) -> bool:
    """Whether ``span`` goes where ours do, and not into a pipeline of the client's own, to its maker.

    Spans of one provider share its resource object. Where either does not show one, they are taken to go together.
    """
    theirs, ours = getattr(span, "resource", None), getattr(tracer, "resource", None)
    return theirs is None or ours is None or theirs is ours


def was_dropped(span: Span) -> bool:
    """Whether ``span`` is one that a sampler dropped."""
    context = span.get_span_context()
    return context.is_valid and not context.trace_flags.sampled


def make_current(span: Span) -> None:
    """Make ``span`` current until the call being made is over, which gives back what was there before."""
    if being_made() is not None:
        otel.attach(trace_api.set_span_in_context(span))
