"""Emit: the result of a call as spans, events, content and metrics."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from opentelemetry.trace import SpanContext, Status, StatusCode, set_span_in_context

from llmtrace.calls import adoption, attributes
from llmtrace.calls.chunk_weights import pace_of
from llmtrace.calls.reading import of_request
from llmtrace.calls.result import Result
from llmtrace.calls.services import Services
from llmtrace.calls.verdict import evidence_of
from llmtrace.config import Settings
from llmtrace.diagnosis.guilty import guilty_phase
from llmtrace.emit import later, names
from llmtrace.emit.metrics import Measurements
from llmtrace.emit.spans import Children, Event
from llmtrace.emit.values import safe_attributes
from llmtrace.observe import internal_errors
from llmtrace.observe.call import Call

_MOST_GAPS = 8
"""Gaps between a stream's chunks that become metric values: half of all that a call of ten chunks records."""


def emit_spans(result: Result, settings: Settings) -> None:
    """Put the call's attributes onto its span and its phases below it, as children."""
    state, call = result.state, result.call
    if state.adopted and not state.span.is_recording():
        adoption.stand_in(call, state)
    own = attributes.call_attributes(result)
    blamed = [(verdict, guilty_phase(verdict, result.phases)) for verdict in result.verdicts] if result.verdicts else ()
    if state.span.is_recording():
        if result.failure is not None and state.owns_span:
            state.span.set_status(Status(StatusCode.ERROR, attributes.kind(call.error)))
        state.span.set_attributes(safe_attributes(own))
        for verdict, guilty in blamed:
            if guilty is None:  # it is about the call as a whole
                middle = call.to_epoch((call.start + (call.end or call.start)) // 2)
                state.span.add_event(names.DIAGNOSIS, safe_attributes(evidence_of(verdict)), middle)
    result.pace = pace_of(result, settings.tokenizer)
    children = Children(state.tracer, state.span, call.epoch_offset)
    failed_behind_gateway = _emit_gateway_attempts(children, result)
    under = _emit_attempts(children, result) if failed_behind_gateway or len(call.attempts) > 1 else None
    for phase in result.phases:
        marks = attributes.phase_attributes(result, phase)
        events: Sequence[Event] = ()
        if blamed:
            middle = (phase.start + phase.end) // 2
            events = [(names.DIAGNOSIS, evidence_of(verdict), middle) for verdict, guilty in blamed if guilty is phase]
        context = children.add(
            names.SPAN_PREFIX + phase.name, phase.start, phase.end, marks, under=under, events=events
        )
        for part in phase.parts:
            # No llmtrace.phase: whoever sums spans by phase would count decode twice.
            marks = {names.PART: part.name, names.SIDE: names.CLIENT_SIDE, names.SOURCE: phase.source}
            children.add(f"llm.{phase.name}.{part.name}", part.start, part.end, marks, under=context)
    if result.failure is not None and isinstance(call.error, Exception) and state.is_genai_span:
        _emit_exception(result, call.error)
    if settings.capture_content != "no_content":
        _emit_content(result, own, settings)


def _emit_attempts(children: Children, result: Result) -> SpanContext | None:
    """One span per HTTP attempt; returns the answering (last) one, under which the phases go."""
    call, context = result.call, None
    for number, attempt in enumerate(call.attempts):
        marks, failed = attributes.attempt_attributes(result, number)
        status = Status(StatusCode.ERROR, failed) if failed is not None else Status(StatusCode.UNSET)
        last = number == len(call.attempts) - 1
        start, end = (result.seen.start, call.end) if last else (attempt.start, attempt.end)
        context = children.add(names.ATTEMPT, start, end or start, marks, status=status)
    return context


def _emit_gateway_attempts(children: Children, result: Result) -> bool:
    """Emit one span for each attempt of a gateway's own that failed, as it reports them; returns whether there was any.
    Its times are not known: the span has no length, and stands where the answering attempt begins.
    """
    hop, start = result.answer.hop, result.seen.start
    for attempt in () if hop is None else hop.attempts:
        status = Status(StatusCode.ERROR, "" if attempt.status is None else f"HTTP {attempt.status}")
        children.add(names.ATTEMPT, start, start, attributes.gateway_attempt_attributes(attempt), status=status)
    return hop is not None and bool(hop.attempts)


def _emit_exception(result: Result, error: Exception) -> None:
    try:
        from llmtrace.emit import events  # here, since it is wanted by calls that fail only

        events.exception(result.state.span, result.call.to_epoch(result.call.end or result.call.start), error)
    except Exception as ours:
        internal_errors.note("reporting an exception", ours)


def _emit_content(result: Result, own: dict[str, Any], settings: Settings) -> None:
    from llmtrace.emit import content  # here, since most programs capture none
    from llmtrace.providers.parts import without_data_urls

    call, state, mode = result.call, result.state, settings.capture_content
    try:
        operation, request = state.operation, state.request
        received, streamed = _received(call)
        captured = content.Content(
            without_data_urls(of_request(request, operation.system_instructions)),
            of_request(request, operation.tool_definitions),
            without_data_urls(of_request(request, operation.input_messages)),
            without_data_urls(operation.output_messages(received, streamed)),
        ).attributes(settings.semconv)
        if mode in ("span_only", "span_and_event") and state.is_genai_span:
            content.on_span(state.span, captured)
        if mode in ("event_only", "span_and_event"):
            content.as_event(state.span, call.to_epoch(call.end or call.start), own, captured)
    except Exception as error:
        internal_errors.note("capturing content", error)


def _received(call: Call) -> tuple[Any, bool]:
    """What was received, and whether that is the chunks of a stream; as JSON where the application read the bytes."""
    if call.answer is not None:
        return call.answer, False
    if call.body is not None and call.running is None:
        documents = call.body.documents
        return (documents, True) if call.streaming else (documents[0] if documents else None, False)
    return call.kept, True


def emit_metrics(result: Result, services: Services) -> None:
    """The call's values go through the instruments, soon and with its span as their exemplars' context."""
    meters, call, state = services.telemetry.meters(), result.call, result.state
    if meters is None or call.end is None:
        return
    where, answer = state.endpoint, result.answer
    first_chunk = attributes.first_chunk(result)
    measurements = Measurements(
        operation=state.operation.name,
        provider=where.provider,
        request_model=state.request.model,
        response_model=answer.model,
        address=where.host,
        port=where.port,
        refinements=attributes.refinements(where.provider, answer),
        failure=result.failure,
        duration=(call.end - call.start) / 1e9,
        time_to_first_chunk=first_chunk,
        gaps=() if first_chunk is None else _thinned(call.chunk_timing.gaps),
        usage=answer.usage,
        phases=[(phase.name, phase.source, phase.duration) for phase in result.phases],
        causes=[verdict.cause for verdict in result.verdicts] if result.verdicts else (),
        objectives=_objectives(result),
        charged=_charged(result),
        errors=_errors(result),
        context=set_span_in_context(state.span),
    )
    later.soon(partial(meters.record, measurements))


def _objectives(result: Result) -> dict[str, bool] | None:
    """Which objectives were met, ``objectives.CALL`` for all of them together."""
    judgement = result.judgement
    if judgement is None:
        return None
    from llmtrace.phases.objectives import CALL  # here, since few programs name any

    return dict(judgement.decided) if judgement.met is None else {**judgement.decided, CALL: judgement.met}


def _charged(result: Result) -> Sequence[tuple[str, str, float]]:
    """Objective, phase and seconds of what is charged for missed objectives."""
    if result.judgement is None:
        return ()
    return [(miss.objective, name, s) for miss in result.judgement.misses for name, s in miss.charged.items()]


def _errors(result: Result) -> Sequence[tuple[str, str, float]]:
    """Name and source of each phase that the engine told, and how far the estimate is off (s)."""
    if result.estimate is None:
        return ()
    return [(p.name, p.source, abs(p.blind.error)) for p in result.phases if p.blind is not None]


def _thinned(gaps: Sequence[int]) -> list[float]:
    """At most ``_MOST_GAPS`` of a stream's gaps (ns), evenly over the stream; in s.

    The SDK takes some 20 us for each value. A stream of 1,000 chunks would hold up the thread that ends it for longer
    than all else that llmtrace does for it; the distribution of its gaps is as well known from a part of them.
    """
    stride = -(-len(gaps) // _MOST_GAPS)
    return [gap / 1e9 for gap in (gaps[::stride] if stride > 1 else gaps)]
