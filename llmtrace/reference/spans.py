"""The server's own account of a request as OpenTelemetry spans that continue the caller's trace.

One SERVER span `llm_request`, and under it `llm.queue`, `llm.adapter_swap` (where another adapter had to be put in),
`llm.kv_cache_hit` (where there was a hit), `llm.prefill` and `llm.decode`, built once at the end with explicit times.
They are contiguous and fill the parent; their starts are moved by less than a microsecond, as those of a call's phases
are (`llmtrace.phases.stagger`). Where asked, each chunk of a prompt is an `llm.prefill.chunk` under its
prefill.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmtrace.emit import names
from llmtrace.observe.clock import epoch_offset
from llmtrace.observe.host import host_name
from llmtrace.phases.stagger import call_start, falling, stagger_spans
from llmtrace.reference.timings import Phase, Timings
from llmtrace.version import VERSION, install_hint

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import TracerProvider

    from llmtrace.observe.loading import Loading

__all__ = ["ServerSpans", "from_environment"]

_log = logging.getLogger("llmtrace.reference")
_LATENCIES = {"queue": "time_in_queue", "decode": "time_in_model_decode"}


class ServerSpans:
    """Writes the spans of ended requests to a tracer provider."""

    def __init__(self, provider: TracerProvider, *, owned: bool = False, fingerprint: str = "") -> None:
        """`fingerprint`: the model's, which stands on every span."""
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self.chunks = False
        """Whether each chunk of a prompt gets a span under `llm.prefill`."""
        self._provider = provider
        self._owned = owned
        self._model = {names.MODEL_FINGERPRINT: fingerprint} if fingerprint else {}
        self._tracer = provider.get_tracer("llmtrace.reference")
        self._propagator = TraceContextTextMapPropagator()

    def emit(
        self,
        timings: Timings,
        *,
        carrier: Mapping[str, str],
        request_id: str,
        model: str,
        outcome: str,
        operation: str = "chat",
        finish_reasons: list[str] | None = None,
        error: BaseException | None = None,
    ) -> None:
        """Write one ended request. `carrier` holds the request's headers, names in lower case."""
        from opentelemetry import trace
        from opentelemetry.trace import SpanKind, Status, StatusCode

        phases = timings.phases()
        if timings.finished is None or not phases:
            return
        offset = epoch_offset()
        started, ended = call_start(timings.arrived + offset), timings.finished + offset
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": operation,
            "gen_ai.request.model": model,
            "gen_ai.response.model": model,
            "gen_ai.request.id": request_id,
            # No token counts: they stand on the client's span, and viewers add up what both sides say.
            "llmtrace.call.outcome": outcome,
            **self._model,
            **_latencies(timings),
        }
        if finish_reasons:
            attributes[names.FINISH_REASONS] = finish_reasons
        if error is not None:
            attributes[names.ERROR_TYPE] = type(error).__name__
        if timings.preempted:
            attributes[names.PREEMPTIONS] = len(timings.preempted)
        attributes |= _adapter(timings) | _grammar(timings)
        offset = epoch_offset()
        span = self._tracer.start_span(
            "llm_request",
            context=self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
            attributes=attributes,
            start_time=started,
        )
        if error is not None:
            span.set_status(Status(StatusCode.ERROR, str(error)[:200]))
        if span.is_recording():
            inside = trace.set_span_in_context(span)
            source = "device" if timings.timed_by == "cuda" else "server"
            begins = [started if phase.start <= timings.arrived else phase.start + offset for phase in phases]
            starts = falling(started, begins, ended)
            for phase, start, end in zip(phases, starts, [*starts[1:], ended], strict=True):
                child = self._tracer.start_span(
                    names.SPAN_PREFIX + phase.name,
                    context=inside,
                    attributes=self._model | _details(phase, timings, source),
                    start_time=start,
                )
                if self.chunks and phase.name == "prefill":
                    self._emit_chunks(timings, phase, start, end, trace.set_span_in_context(child), offset)
                child.end(end_time=end)
        span.end(end_time=ended)

    def emit_load(self, loading: Loading, model: str) -> None:
        """Write the load of the model that is served."""
        from llmtrace.emit.model_load import emit_model_load

        attributes = {names.REQUEST_MODEL: model, **self._model}
        emit_model_load(self._tracer, loading, attributes, side=names.SERVER_SIDE)

    def _emit_chunks(
        self, timings: Timings, prefill: Phase, start: int, end: int, inside: Context, offset: int
    ) -> None:
        """The chunks of ``prefill``, whose span lies from ``start`` to ``end`` (epoch ns), as far as they lie in it:
        the step of the first may have begun before the cache was looked up for this request."""
        chunks = [chunk for chunk in timings.chunks if chunk.start < prefill.end and chunk.end > prefill.start]
        measured = [
            (
                start if chunk.start <= prefill.start else chunk.start + offset,
                end if chunk.end >= prefill.end else chunk.end + offset,
            )
            for chunk in chunks
        ]
        times = stagger_spans(start, measured, end)
        for chunk, (begin, stop) in zip(chunks, times, strict=True):
            attributes: dict[str, Any] = {names.TOKENS: chunk.tokens, **self._model}
            if chunk.again:
                attributes[names.CHUNK_AGAIN] = True
            span = self._tracer.start_span(names.PREFILL_CHUNK, context=inside, attributes=attributes, start_time=begin)
            span.end(end_time=stop)

    def shutdown(self) -> None:
        """Shut the provider down if it is ours, which exports the last spans."""
        if self._owned:
            end = getattr(self._provider, "shutdown", None)
            if callable(end):
                end()


def _details(phase: Phase, timings: Timings, source: str) -> dict[str, Any]:
    """The attributes of a phase's span."""
    length = (phase.end - phase.start) / 1e9
    details: dict[str, Any] = {names.PHASE: phase.name, names.SIDE: names.SERVER_SIDE, names.SOURCE: source}
    if phase.name not in ("queue", "adapter_swap"):
        details[names.TOKENS] = phase.tokens
    if phase.name in ("prefill", "decode"):
        if swapping := timings.swapping(phase.start, phase.end):
            details[names.ADAPTER_SWAP] = swapping / 1e9
        details[names.OTHERS_DURATION] = phase.others / 1e9
        if phase.tokens > 0:
            details[names.PER_TOKEN] = length / phase.tokens
    if phase.name == "decode" and len(timings.batch) > 1:
        details[names.BATCH_SIZE] = sum(timings.batch[1:]) / (len(timings.batch) - 1)
        if timings.launch_bound is not None:
            details[names.LAUNCH_BOUND] = timings.launch_bound
    if source == "device":
        details[names.HOST_DURATION] = phase.host / 1e9
        details[names.CLOCK_ERROR] = timings.clock_error / 1e9
    return details


def _adapter(timings: Timings) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    if timings.adapter is not None:
        attributes[names.ADAPTER_ID] = timings.adapter.name
        attributes[names.ADAPTER_RANK] = timings.adapter.rank
        attributes[names.ADAPTER_MERGED] = timings.adapter.merged
        if (composition := timings.adapter.composition) is not None:
            attributes[names.ADAPTER_PARTS] = list(composition.names)
            attributes[names.ADAPTER_WEIGHTS] = list(composition.weights)
            attributes[names.ADAPTER_METHOD] = composition.method
    if timings.conflict is not None:
        attributes[names.ADAPTER_CHECK] = timings.conflict.check_ns / 1e9
        if (worst := timings.conflict.worst) is not None:
            attributes[names.ADAPTER_COSINE] = worst.cosine
            attributes[names.ADAPTER_SIGNS] = worst.signs
    if timings.swaps:
        attributes[names.ADAPTER_SWAPS] = len(timings.swaps)
        attributes[names.ADAPTER_SWAP] = sum(end - start for start, end in timings.swaps) / 1e9
    return attributes


def _grammar(timings: Timings) -> dict[str, Any]:
    if timings.grammar is None:
        return {}
    return {
        names.GRAMMAR_KIND: timings.grammar,
        names.GRAMMAR_COMPILE: timings.compile_ns / 1e9,
        names.GRAMMAR_MASK: timings.mask_ns / 1e9,
        names.GRAMMAR_MASK_PER_TOKEN: timings.mask_per_token / 1e9,
    }


def _latencies(timings: Timings) -> dict[str, float]:
    """The phases under vLLM's attribute names, in seconds."""
    assert timings.finished is not None
    seconds = timings.seconds()
    latencies = {f"gen_ai.latency.{name}": seconds[phase] for phase, name in _LATENCIES.items() if phase in seconds}
    latencies["gen_ai.latency.e2e"] = (timings.finished - timings.arrived) / 1e9
    if timings.first_token is not None and timings.scheduled is not None:
        latencies["gen_ai.latency.time_in_model_prefill"] = (timings.first_token - timings.scheduled) / 1e9
        latencies["gen_ai.latency.time_in_model_inference"] = (timings.finished - timings.scheduled) / 1e9
        latencies["gen_ai.latency.time_to_first_token"] = (timings.first_token - timings.arrived) / 1e9
    return latencies


def from_environment(about: Mapping[str, str] | None = None) -> ServerSpans | None:
    """Spans to the OTLP endpoint that the environment names; None where it names none.

    `about`: the model's attributes of the resource. What `OTEL_RESOURCE_ATTRIBUTES` names stands instead.
    """
    if not (os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")):
        return None
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or os.environ.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        _log.warning("an OTLP endpoint is set, but its exporter is not installed: %s", install_hint("otlp"))
        return None
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    about = about or {}
    ours = {
        names.SERVICE_NAME: "llmtrace-reference",
        names.SERVICE_VERSION: VERSION,
        # Two servers of one machine are two instances.
        names.SERVICE_INSTANCE: str(uuid.uuid4()),
        **host_name(),
        **about,
    }
    told = {pair.partition("=")[0].strip() for pair in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(",")}
    if os.environ.get("OTEL_SERVICE_NAME"):
        told.add(names.SERVICE_NAME)
    resource = Resource.create({name: value for name, value in ours.items() if name not in told})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return ServerSpans(provider, owned=True, fingerprint=about.get(names.MODEL_FINGERPRINT, ""))
