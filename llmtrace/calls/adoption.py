"""Whose span a call has: where another instrumentation opened one for this very call, the phases go under that.

Another instrumentation shows that a call is its own in one of three ways:

- its span is at hand, as the current one or as that of a framework's run: the call adopts it;
- it has left its key in the context, or its ``traceparent`` in the request's headers, and its span is not at hand: ours
  goes beneath that one as ``llm.call``, which says nothing that the other says (no operation, no usage);
- it opens its span later, between us and the request (``opened_beneath``).

A span is adopted once, and only for the same operation and the same model. The next call beneath it (a retry loop
inside somebody's span, an embedding made meanwhile) gets a span of its own.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from opentelemetry import context as otel
from opentelemetry import trace as trace_api
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Link, NonRecordingSpan, Span, SpanContext, SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from llmtrace.calls.current import being_made
from llmtrace.calls.retry_links import marks
from llmtrace.calls.state import CallState
from llmtrace.emit import names
from llmtrace.observe import internal_errors
from llmtrace.observe.call import Call
from llmtrace.observe.process import Lock
from llmtrace.providers.declare import Operation, Request

_GENERATING = frozenset(("chat", "text_completion", "generate_content"))
_MODEL_CALLS = _GENERATING | {"embeddings"}
_NO_OPERATIONS: frozenset[str] = frozenset()
_OPENINFERENCE = "openinference.span.kind"
_OPENINFERENCE_KINDS = {"LLM": _GENERATING, "EMBEDDING": frozenset(("embeddings",))}
"""OpenInference's name for each kind of model call, and the operations that it stands for."""
_OPENINFERENCE_MESSAGES = ("llm.input_messages.", "llm.output_messages.")
"""How its attributes of each message begin: a dozen for one message, so that a long conversation fills a span."""
_TRACELOOP_TYPE = "llm.request.type"
_TRACELOOP_TYPES = {"completion": "text_completion", "embedding": "embeddings"}
"""Traceloop's older names for operations, where they are not the conventions'."""
_TELLING = frozenset((names.OPERATION, _OPENINFERENCE, _TRACELOOP_TYPE))
_MODELS = (names.REQUEST_MODEL, "llm.model_name", "embedding.model_name")
"""Attributes in which the instrumentations say which model was asked."""
_MODEL_PREFIXES = "/.:"
"""What may stand between a model's name and a vendor's or a router's before it: ``us.anthropic.claude-3``."""

_INFERENCE_KEY = "opentelemetry.genai.client.inference.context"
_EMBEDDING_KEY = "opentelemetry.genai.client.embedding.context"
"""Context keys of OpenTelemetry's ``opentelemetry-util-genai`` (1.3b0): what is sent in such a context has its span."""
_TRACELOOP_KEY = "suppress_language_model_instrumentation"
"""Context key of Traceloop's (``opentelemetry-semantic-conventions-ai``). It stays set after an awaited LangChain call
is over, so by itself it says nothing about the call at hand."""
_W3C = TraceContextTextMapPropagator()

_NOTHING: Mapping[str, Any] = {}
_MOST = 4096


class Run(Protocol):
    """One run of a model, as a framework counts them; another instrumentation may have a span for it."""

    @property
    def models(self) -> Sequence[str]:
        """The names that the framework knows the model by; none where it does not say."""
        ...

    def span(self) -> Span | None:
        """The span, until the run is over."""
        ...


framework_runs: ContextVar[Iterable[Run]] = ContextVar("llmtrace_framework_runs", default=())
"""The runs that a framework started last in this context. They may be over, or this context may have left them."""


class Claims:
    """The spans and contexts of others that a call has claimed. Each is claimed once, by whichever thread is first.

    A span that shows its attributes is marked. Of the others, the last 4096 are remembered.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._lock = Lock()
        self._taken: dict[Hashable, weakref.ref[Any] | None] = {}

    def adopt(self, span: Span) -> bool:
        """Claim ``span``, which is recording; False where somebody has it.

        Not by its ids: a program that seeds ``random`` gets the same ones again.
        """
        with self._lock:
            if names.CALL_ADOPTED in _attributes(span):
                return False
            span.set_attribute(names.CALL_ADOPTED, True)
            return names.CALL_ADOPTED in _attributes(span) or self.take(_identity(span.get_span_context()))

    def take(self, key: Hashable, owner: Any = None) -> bool:
        """Claim ``key``; False where somebody has it. ``owner``: whose ``id`` the key is, which may be given anew."""
        with self._lock:
            if key in self._taken:
                known = self._taken.pop(key)
                if known is None or known() is owner:
                    self._taken[key] = known
                    return False
            self._taken[key] = None if owner is None else weakref.ref(owner)
            if len(self._taken) > self._most:
                del self._taken[next(iter(self._taken))]
            return True

    def has(self, span: Span) -> bool:
        """Whether somebody has ``span``."""
        return names.CALL_ADOPTED in _attributes(span) or _identity(span.get_span_context()) in self._taken


_claims = Claims()


class Place(NamedTuple):
    """Where a call belongs among the spans of others."""

    adopted: Span | None = None
    """Another instrumentation's span for this very call."""
    above: Span | None = None
    """What a span of ours goes beneath, where that is not the current one."""
    spoken_for: bool = False
    """Another instrumentation has a span for this very call, but not one that can be adopted."""


OWN = Place()


def place(
    current: Span,
    operation: Operation,
    request: Request,
    tracer: Tracer,
    headers: Mapping[str, Any] | None,
    parent: str,
) -> Place:
    """Where the call that begins now belongs; what is found to be its span is claimed for it.

    ``current``: the current span; ``headers``: those that the caller gave the request; ``parent``: the setting. Where
    somebody's span or run cannot be read, the call has a span of its own.
    """
    try:
        if current is INVALID_SPAN and not otel.get_current() and not framework_runs.get():
            return OWN  # there is neither a span, nor a key, nor a run
        return _place(current, operation, request, tracer, headers, parent)
    except Exception as error:
        internal_errors.note("looking at another instrumentation's span", error)
        return OWN


def _place(
    current: Span,
    operation: Operation,
    request: Request,
    tracer: Tracer,
    headers: Mapping[str, Any] | None,
    parent: str,
) -> Place:
    run = _span_of_run(operation, request)
    if parent == "own":
        if run is None or not _exported_together(run, tracer) or not _claims.take(_identity(run.get_span_context())):
            return OWN
        return Place(above=run)
    attributes = _attributes(current)
    operations = _operations(attributes)
    if run is not None and (not operations or _started_beneath(run, current)):
        place = _claimed(run, tracer, parent)
    elif not operations:
        if operation.name in _GENERATING and _is_overfull(current, attributes) and _exported_together(current, tracer):
            return Place(spoken_for=_claims.take(_identity(current.get_span_context())))
        return _spoken_for(current, operation, headers)
    elif operation.name in operations and _same_model(attributes, (), request.model):
        place = _claimed(current, tracer, parent)
    else:
        return OWN
    if place is not OWN:
        _claim_context(operation)
    return place


def _claimed(span: Span, tracer: Tracer, parent: str) -> Place:
    """``span``, which is for this very call, as its place; a span of ours where it cannot be."""
    if parent != "existing" and not _exported_together(span, tracer):
        return OWN
    if span.is_recording():
        return Place(adopted=span) if _claims.adopt(span) else OWN
    if _attributes(span) or not _claims.take(_identity(span.get_span_context())):
        return OWN  # it has ended, and only its context is still there; or it has had its call
    return Place(above=span, spoken_for=True)


def _is_overfull(span: Span, attributes: Mapping[str, Any]) -> bool:
    """Whether ``span`` is a model's whose messages have pushed out what says so: the SDK drops the oldest attributes.

    Nothing is to be written on it: that would push out more.
    """
    return bool(getattr(span, "dropped_attributes", 0)) and any(
        name.startswith(_OPENINFERENCE_MESSAGES) for name in attributes
    )


def _spoken_for(current: Span, operation: Operation, headers: Mapping[str, Any] | None) -> Place:
    """Whether another instrumentation whose span is not at hand says that the call is its own."""
    if _claim_context(operation):
        return Place(spoken_for=True)
    if headers and otel.get_value(_TRACELOOP_KEY) is True:
        named = _named_by(headers, current)
        if named is not None and _claims.take(_identity(named)):
            return Place(above=NonRecordingSpan(named), spoken_for=True)
    return OWN


def _claim_context(operation: Operation) -> bool:
    """Claim what ``opentelemetry-util-genai`` left in the context for the call that it has a span for."""
    owner = otel.get_value(_EMBEDDING_KEY if operation.name == "embeddings" else _INFERENCE_KEY)
    try:
        return owner is not None and _claims.take(id(owner), owner)
    except TypeError:  # what cannot be referred to weakly is none of theirs
        return False


def _named_by(headers: Mapping[str, Any], current: Span) -> SpanContext | None:
    """The span that the request's own ``traceparent`` names, if the application did not name it.

    An application that propagates by hand names its current span, or one above that. The spans that it could name from
    further up cannot be told from another instrumentation's, so this counts only beside that one's key.
    """
    carrier = _lowered(headers)
    if "traceparent" not in carrier:
        return None
    named = trace_api.get_current_span(_W3C.extract(carrier, Context())).get_span_context()
    here = current.get_span_context()
    if not named.is_valid or (here.is_valid and named.trace_id != here.trace_id):
        return None
    if named.span_id in (here.span_id, getattr(getattr(current, "parent", None), "span_id", None)):
        return None
    return SpanContext(named.trace_id, named.span_id, False, named.trace_flags, named.trace_state)


def _lowered(headers: Mapping[Any, Any]) -> dict[str, str]:
    return {str(name).lower(): value for name, value in headers.items() if isinstance(value, str)}


def _span_of_run(operation: Operation, request: Request) -> Span | None:
    """The span of the framework's run that this call is made in: the first that is open and has had no call."""
    if operation.name not in _GENERATING:
        return None
    for run in framework_runs.get():
        span = run.span()
        if span is None or _claims.has(span):
            continue
        if _same_model(_attributes(span), run.models, request.model):
            return span
    return None


def _attributes(span: Span) -> Mapping[str, Any]:
    """The attributes of ``span``; an empty mapping where it does not show them."""
    attributes = getattr(span, "attributes", None)
    return attributes if type(attributes) is MappingProxyType or isinstance(attributes, Mapping) else _NOTHING


def _operations(attributes: Mapping[str, Any]) -> frozenset[str]:
    """The operations that a span may stand for; none where it is not one call of a model (an agent, a tool, a task)."""
    if not attributes or _TELLING.isdisjoint(attributes):  # in one pass: each look into an SDK's span takes its lock
        return _NO_OPERATIONS
    operation = attributes.get(names.OPERATION)
    if operation is None and _OPENINFERENCE in attributes:
        return _OPENINFERENCE_KINDS.get(attributes[_OPENINFERENCE], _NO_OPERATIONS)
    if operation is None:
        operation = attributes.get(_TRACELOOP_TYPE)
        operation = _TRACELOOP_TYPES.get(str(operation), operation)
    return frozenset((operation,)) if operation in _MODEL_CALLS else _NO_OPERATIONS


def _same_model(attributes: Mapping[str, Any], known: Sequence[str], asked: str | None) -> bool:
    """Whether a span is for the model that is ``asked``, as far as it says; ``known``: what is known besides."""
    models = [attributes[name] for name in _MODELS if attributes.get(name)] or known
    return not models or asked is None or any(_one_model(str(each), asked) for each in models)


def _one_model(one: str, other: str) -> bool:
    if len(one) < len(other):
        one, other = other, one
    return one == other or (bool(other) and one.endswith(other) and one[-len(other) - 1] in _MODEL_PREFIXES)


def _identity(context: SpanContext) -> Hashable:
    """A span by its ids: of its wrappers, some can neither be hashed nor referred to weakly."""
    return context.trace_id, context.span_id


def _started_beneath(span: Span, above: Span) -> bool:
    parent = getattr(span, "parent", None)
    return parent is not None and parent.span_id == above.get_span_context().span_id


def opened_beneath(span: Span, above: Span, tracer: Tracer, parent: str) -> bool:
    """Whether ``span``, current as a request is sent, was opened for its call beneath ``above``, by the client or by
    another instrumentation. ``parent``: the setting."""
    attributes = _attributes(span)
    if span is above or not attributes:
        return False
    if names.OPERATION not in attributes and attributes.get(_OPENINFERENCE) not in _OPENINFERENCE_KINDS:
        return False
    return parent == "existing" or _exported_together(span, tracer)


def _exported_together(span: Any, tracer: Any) -> bool:
    """Whether ``span`` is exported where ours are, and not through a pipeline of the client's own.

    Spans of one provider share its resource object. Where either does not show one, they are taken to go together.
    """
    theirs, ours = getattr(span, "resource", None), getattr(tracer, "resource", None)
    return theirs is None or ours is None or theirs is ours


def served_by(current: Span, served: Mapping[str, Any]) -> Span:
    """What the call goes beneath: ``current`` or, where nothing traces the server that the call is made in, the span
    that the request which is being served names in its ``traceparent``. ``served``: that one's headers."""
    if current.get_span_context().is_valid:
        return current
    named = trace_api.get_current_span(_W3C.extract(_lowered(served), Context()))
    return named if named.get_span_context().is_valid else current


def was_dropped(span: Span) -> bool:
    """Whether ``span`` is one that a sampler dropped."""
    context = span.get_span_context()
    return context.is_valid and not context.trace_flags.sampled


def make_current(span: Span) -> None:
    """Make ``span`` current until the call being made is over, which gives back what was there before."""
    if being_made() is not None:
        otel.attach(trace_api.set_span_in_context(span))


def start_beneath(tracer: Tracer, start: int, links: Sequence[Link] | None, context: Context | None) -> Span:
    """The span of a call whose GenAI span is another instrumentation's. ``start``: epoch ns."""
    return tracer.start_span(names.CALL, context, SpanKind.INTERNAL, marks(links), links, start)


def stand_in(call: Call, state: CallState) -> None:
    """A span of ours for a call whose adopted span ended before it did: that one takes nothing in any more."""
    context = trace_api.set_span_in_context(state.span)
    state.span = start_beneath(state.tracer, call.to_epoch(call.start), None, context)
    state.owns_span, state.spoken_for, state.adopted = True, True, False
