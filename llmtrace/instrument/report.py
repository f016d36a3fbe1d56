"""The end of a call, made once and off the chunk path: facts -> phases -> spans and metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.trace import SpanContext, Status, StatusCode, set_span_in_context

from llmtrace.emit import attributes as names
from llmtrace.emit import content
from llmtrace.emit.spans import Children
from llmtrace.observe import call as calls
from llmtrace.observe import mishaps
from llmtrace.observe.call import Call
from llmtrace.observe.clock import to_epoch
from llmtrace.observe.facts import Answer
from llmtrace.observe.transport import Attempt
from llmtrace.phases.arrival import first_token
from llmtrace.phases.baseline import Estimate
from llmtrace.phases.model import DECODE, KV_CACHE_HIT, NETWORK, SCHEMA_VERSION, Phase
from llmtrace.phases.timeline import Observation, split
from llmtrace.providers.timings import read_route
from llmtrace.version import VERSION

if TYPE_CHECKING:
    from llmtrace.instrument.engine import Engine, Payload

_CUT_SHORT = (calls.CLOSED_EARLY, calls.ABANDONED, calls.CANCELLED, calls.TIMED_OUT, calls.ERROR)

listeners: list[Any] = []
"""Called with (payload, call, observation, answer, phases, estimate) after each call: for tools that compare."""


class Reporter:
    """Turns an ended call into its spans and metrics."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def report(self, call: Call) -> None:
        """Emit ``call``. Called exactly once per call, by whoever ended it."""
        payload: Payload = call.payload
        if not payload.recording and self._engine.meters() is None:
            _end_span(payload, call)
            return
        try:
            self._report(call, payload)
        finally:
            _end_span(payload, call)

    def _report(self, call: Call, payload: Payload) -> None:
        call.pulls.fold(call.returned)
        answer = self._answer(call, payload)
        if call.outcome in (calls.CLOSED_EARLY, calls.ABANDONED) and (
            len(answer.finish_reasons) >= payload.request.choices
        ):
            call.outcome = calls.COMPLETED  # every choice had come to its end; only the closing lines were not read
        attempt = call.attempts[-1] if call.attempts else None
        retried = len(call.attempts) > 1
        seen = _observe(call, attempt, answer, retried)
        if not self._engine.settings.server_timings:
            seen.server = None
        estimate = self._estimate(call, payload, seen)
        phases, complaint = split(seen, estimate)
        failure = _failure(call, attempt)
        if payload.recording:
            self._spans(call, payload, answer, seen, phases, complaint, failure, retried)
        self._metrics(call, payload, answer, phases, failure)
        for listener in listeners:
            listener(payload, call, seen, answer, phases, estimate)

    def _answer(self, call: Call, payload: Payload) -> Answer:
        headers = call.attempts[-1].headers if call.attempts else None
        operation = payload.operation
        try:
            if call.answer is not None:
                return operation.read_response(call.answer, headers)
            if call.body is not None:
                return call.body.read(operation, call, headers)
            if call.first is not None:
                return operation.read_chunks([call.first, *call.recent], headers)
        except Exception as error:
            mishaps.note("reading an answer", error)
        return Answer()

    def _estimate(self, call: Call, payload: Payload, seen: Observation) -> Estimate | None:
        """What the route's earlier calls say of this one; then this one is learned from."""
        uncached = seen.uncached_tokens
        if not seen.streaming or seen.first_token is None or uncached is None or seen.buffered:
            return None
        key = (payload.provider_name, payload.endpoint.host, payload.endpoint.port, payload.request.model)
        estimate = self._engine.baselines.estimate(key, uncached)
        begin = seen.request_arrived
        if seen.first_token_error is None:
            wait = seen.first_token - (begin if begin is not None else seen.start)
            self._engine.baselines.learn(key, uncached, max(0, wait) / 1e9)
        return estimate

    # --- spans ----------------------------------------------------------------------------------------------------
    def _spans(
        self,
        call: Call,
        payload: Payload,
        answer: Answer,
        seen: Observation,
        phases: list[Phase],
        complaint: str | None,
        failure: str | None,
        retried: bool,
    ) -> None:
        span = payload.span
        if not span.is_recording():
            return  # another instrumentation's span, ended before the stream was
        own = _call_attributes(call, payload, answer, seen, phases)
        if complaint is not None:
            own[names.TIMINGS_REJECTED] = complaint
        if failure is not None:
            own[names.ERROR_TYPE] = failure
            if payload.owns_span:
                span.set_status(Status(StatusCode.ERROR, _describe(call.error)))
        span.set_attributes(own)
        children = Children(payload.tracer, span)
        under: SpanContext | None = None
        if retried:
            under = _attempts(children, call)
        for phase in phases:
            context = children.add(
                names.SPAN_PREFIX + phase.name, phase.start, phase.end, _phase_attributes(call, phase, seen), under=under
            )
            for part in phase.parts:
                marks = {names.PHASE: phase.name, names.SOURCE: phase.source}
                children.add(f"llm.{phase.name}.{part.name}", part.start, part.end, marks, under=context)
        mode = self._engine.settings.capture_content
        if mode != "no_content":
            self._content(call, payload, own, mode)

    def _content(self, call: Call, payload: Payload, own: dict[str, Any], mode: str) -> None:
        try:
            operation = payload.operation
            sent = operation.input_messages(payload.request)
            streamed = call.answer is None
            received = operation.output_messages(call.kept if streamed else call.answer, streamed)
            if mode in ("span_only", "span_and_event"):
                content.on_span(payload.span, sent, received)
            if mode in ("event_only", "span_and_event"):
                content.as_event(payload.span, call.end or call.start, own, sent, received, VERSION)
        except Exception as error:
            mishaps.note("capturing content", error)

    # --- metrics --------------------------------------------------------------------------------------------------
    def _metrics(
        self, call: Call, payload: Payload, answer: Answer, phases: list[Phase], failure: str | None
    ) -> None:
        meters = self._engine.meters()
        if meters is None or call.end is None:
            return
        where = payload.endpoint
        key = (
            payload.operation.name,
            payload.provider_name,
            payload.request.model,
            answer.model,
            where.host,
            where.port,
        )
        series = meters.series(key, failure)
        context = set_span_in_context(payload.span)
        series.duration.add((call.end - call.start) / 1e9, context)
        if call.first_chunk is not None:
            series.to_first.add((call.first_chunk - call.start) / 1e9, context)
            if call.pulls.gaps:
                series.per_chunk.extend([gap / 1e9 for gap in call.pulls.gaps], context)
        if answer.usage.input_tokens is not None:
            series.input_tokens.add(answer.usage.input_tokens, context)
        if answer.usage.output_tokens is not None:
            series.output_tokens.add(answer.usage.output_tokens, context)
        for phase in phases:
            series.phase(phase.name, phase.source).add(phase.duration, context)
        meters.settle(series)


def _observe(call: Call, attempt: Attempt | None, answer: Answer, retried: bool) -> Observation:
    came, error = first_token(call)
    seen = Observation(
        start=attempt.start if retried and attempt is not None else call.start,
        end=call.end or call.start,
        streaming=call.streaming,
        attempted=attempt is not None,
        first_token=came,
        first_token_error=error,
        first_reasoning=call.first_reasoning,
        first_output=call.first_output,
        last_chunk=call.pulls.last_arrival,
        chunks=call.pulls.total,
        waited=call.pulls.total > 0 or call.outcome in (calls.ERROR, calls.TIMED_OUT, calls.CANCELLED),
        consumer_wait=call.pulls.consumer_wait / 1e9,
        usage=answer.usage,
        server=answer.timings,
    )
    if attempt is not None:
        seen.sent, seen.headers, seen.rtt = attempt.sent, attempt.headers_at, attempt.rtt
    return seen


def _end_span(payload: Payload, call: Call) -> None:
    if payload.owns_span:
        payload.span.end(to_epoch(call.end or call.start))


def _failure(call: Call, attempt: Attempt | None) -> str | None:
    """``error.type``: the HTTP status code where that was the failure, else the exception's qualified name."""
    if call.outcome not in (calls.ERROR, calls.TIMED_OUT):
        return None
    error = call.error
    if error is None:
        return call.outcome
    if isinstance(getattr(error, "status_code", None), int):
        return str(error.status_code)  # type: ignore[attr-defined]
    if call.outcome == calls.TIMED_OUT and not isinstance(error, Exception):
        return "TimeoutError"  # the application's deadline, which asyncio delivers as a cancellation
    return _qualified(error)


def _qualified(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _describe(error: BaseException | None) -> str | None:
    # Messages of client errors hold the provider's answer, which may quote the prompt: the type only.
    return None if error is None else type(error).__name__


def _call_attributes(
    call: Call, payload: Payload, answer: Answer, seen: Observation, phases: list[Phase]
) -> dict[str, Any]:
    usage = answer.usage
    found: dict[str, Any] = {}
    if payload.owns_span:
        found.update(payload.operation.request_attributes(payload.request))
        if call.streaming:
            found[names.REQUEST_STREAM] = True
        for name, value in (
            (names.RESPONSE_ID, answer.id),
            (names.RESPONSE_MODEL, answer.model),
            (names.INPUT_TOKENS, usage.input_tokens),
            (names.OUTPUT_TOKENS, usage.output_tokens),
            (names.CACHE_READ_TOKENS, usage.cached_tokens),
            (names.CACHE_WRITE_TOKENS, usage.cache_write_tokens),
            (names.REASONING_TOKENS, usage.reasoning_tokens),
        ):
            if value is not None:
                found[name] = value
        if answer.finish_reasons or (call.outcome == calls.ERROR and call.pulls.total):
            found[names.FINISH_REASONS] = answer.finish_reasons or ("error",)
        if call.first_chunk is not None:
            found[names.TIME_TO_FIRST_CHUNK] = (call.first_chunk - call.start) / 1e9
        found.update(answer.extra)
    found[names.SCHEMA] = SCHEMA_VERSION
    found[names.OUTCOME] = call.outcome
    if seen.first_token is not None:
        found[names.TTFT] = (seen.first_token - call.start) / 1e9
    if call.pulls.total:
        found[names.CHUNKS] = call.pulls.total
    if answer.timings is not None:
        found[names.ENGINE] = answer.timings.engine
    if route := _route(call, answer):
        found[names.ROUTE] = route
    if call.outcome in _CUT_SHORT and call.streaming:
        found[names.CANCEL_PHASE] = phases[-1].name
        if usage.output_tokens is not None:
            found[names.DELIVERED_TOKENS] = usage.output_tokens
            found[names.DELIVERED_BASIS] = "usage"
        elif call.pulls.total:
            # A chunk holds at least one token; how many, nobody told: a lower bound.
            came = call.pulls.total - call.first_token_index if call.first_token is not None else 0
            found[names.DELIVERED_TOKENS] = came
            found[names.DELIVERED_BASIS] = "chunks"
    return found


def _route(call: Call, answer: Answer) -> str:
    """Who answered, as far as the answer says: model, system fingerprint and allow-listed routing headers."""
    told: list[str] = []
    if answer.model:
        told.append(f"model={answer.model}")
    if answer.fingerprint:
        told.append(f"fingerprint={answer.fingerprint}")
    headers = call.attempts[-1].headers if call.attempts else None
    if headers is not None:
        told.extend(f"{name}={value}" for name, value in sorted(read_route(headers).items()))
    return ";".join(told)


def _attempts(children: Children, call: Call) -> SpanContext:
    """One span per HTTP attempt; returns the answering (last) one, under which the phases go."""
    context: SpanContext | None = None
    last = len(call.attempts) - 1
    end = call.end or call.start
    for number, attempt in enumerate(call.attempts):
        marks: dict[str, Any] = {}
        if number:
            marks[names.RESEND_COUNT] = number
        if attempt.status is not None:
            marks[names.STATUS_CODE] = attempt.status
        error = attempt.error
        if number == last and error is None:
            error = call.error
        wrong = attempt.status is not None and attempt.status >= 400
        outcome = calls.ERROR if wrong else calls.COMPLETED
        if number == last:
            outcome = call.outcome or outcome
        elif error is not None:
            outcome = calls.TIMED_OUT if "Timeout" in type(error).__name__ else calls.ERROR
        marks[names.OUTCOME] = outcome
        status = Status(StatusCode.UNSET)
        if outcome in (calls.ERROR, calls.TIMED_OUT):
            marks[names.ERROR_TYPE] = str(attempt.status) if wrong or error is None else _qualified(error)
            status = Status(StatusCode.ERROR, _describe(error))
        stop = end if number == last else attempt.end or attempt.start
        context = children.add(names.ATTEMPT, attempt.start, stop, marks, status=status)
    assert context is not None
    return context


def _phase_attributes(call: Call, phase: Phase, seen: Observation) -> dict[str, Any]:
    found: dict[str, Any] = {names.PHASE: phase.name, names.SOURCE: phase.source}
    if phase.uncertainty is not None:
        found[names.UNCERTAINTY] = phase.uncertainty
    if phase.tokens is not None:
        found[names.TOKENS] = phase.tokens
    if phase.per_token is not None:
        found[names.PER_TOKEN] = phase.per_token
    if phase.server_duration is not None:
        found[names.SERVER_DURATION] = phase.server_duration
    if phase.name == NETWORK:
        _network_attributes(call, found, seen)
    elif phase.name == KV_CACHE_HIT and phase.time_saved is not None:
        found[names.TIME_SAVED] = phase.time_saved
    elif phase.name == DECODE:
        _decode_attributes(call, found)
    return found


def _network_attributes(call: Call, found: dict[str, Any], seen: Observation) -> None:
    attempt = call.attempts[-1] if call.attempts else None
    if attempt is None:
        return
    found[names.NEW_CONNECTION] = attempt.new_connection
    if attempt.connect_start is not None and attempt.connect_end is not None:
        found[names.CONNECT] = (attempt.connect_end - attempt.connect_start) / 1e9
    if attempt.tls_start is not None and attempt.tls_end is not None:
        found[names.TLS] = (attempt.tls_end - attempt.tls_start) / 1e9
    if attempt.rtt is not None:
        found[names.RTT] = attempt.rtt
    if attempt.headers_at is not None:
        found[names.HEADERS] = (attempt.headers_at - seen.start) / 1e9


def _decode_attributes(call: Call, found: dict[str, Any]) -> None:
    pulls = call.pulls
    quantiles = pulls.quantiles(0.5, 0.99)
    if quantiles is not None:
        found[names.ITL_P50], found[names.ITL_P99] = quantiles
        found[names.ITL_MAX] = pulls.gap_max / 1e9
        count, duration = pulls.stalls(quantiles[0] * 1e9)
        found[names.STALL_COUNT] = count
        if count:
            found[names.STALL_DURATION] = duration
    found[names.CONSUMER_WAIT] = pulls.consumer_wait / 1e9
