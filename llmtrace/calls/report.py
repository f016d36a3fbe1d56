"""The end of a call, made once and off the chunk path: facts -> phases -> spans and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import SpanContext, Status, StatusCode, set_span_in_context

from llmtrace.calls import attributes
from llmtrace.calls.chunk_weights import pace_of
from llmtrace.calls.result import CallState, Endpoint, Result
from llmtrace.calls.verdict import diagnose, write_evidence
from llmtrace.diagnosis.verdict import Verdict
from llmtrace.emit import content, names
from llmtrace.emit.metrics import Measurements
from llmtrace.emit.spans import Children
from llmtrace.estimate.baselines import Estimate
from llmtrace.estimate.hits import NOTHING_TOLD, Told
from llmtrace.observe import call as calls
from llmtrace.observe import internal_errors
from llmtrace.observe.answer import Answer
from llmtrace.observe.call import Call
from llmtrace.observe.clock import to_epoch
from llmtrace.observe.transport import Attempt
from llmtrace.phases.arrival import first_token
from llmtrace.phases.timeline import Observation, sample_of, split
from llmtrace.tasks import prices, units

if TYPE_CHECKING:
    from llmtrace.calls.engine import Engine

listeners: list[Callable[[Result], None]] = []
"""Called with each ended call, after its spans: for tools that compare (the demo, the accuracy runs)."""


class Reporter:
    """Turns an ended call into its spans and metrics."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def report(self, call: Call) -> None:
        """Emit ``call``. Called exactly once per call, by whoever ended it."""
        state: CallState = call.state
        if state.find_span is not None and not call.attempts:
            state.find_span(call)
        try:
            result = (state.judge or self._judge)(call, state)
            if state.recording:
                self._spans(result)
                self._remember(result)
            self._metrics(result)
        finally:
            if state.owns_span:
                state.span.end(to_epoch(call.end or call.start))
        if state.marks and units.has_budget(state.marks):
            units.spent(state.marks, _cost(result))
        for listener in listeners:
            listener(result)

    def _judge(self, call: Call, state: CallState) -> Result:
        """Everything that the spans and metrics will say."""
        call.chunk_timing.fold(call.returned)
        answer = _answer(call, state)
        _complete(answer, state)
        _locate(call, state, answer)
        if call.outcome in (calls.CLOSED_EARLY, calls.ABANDONED) and (
            len(answer.finish_reasons) >= state.request.choices
        ):
            call.outcome = calls.COMPLETED  # every choice had come to its end; only the closing lines were not read
        if answer.failed is not None and call.outcome == calls.COMPLETED:
            call.outcome = calls.ERROR  # it said so in a regular answer, which the client handed over as such
        attempt = call.attempts[-1] if call.attempts else None
        seen = _observe(call, attempt, answer)
        if not self._engine.settings.server_timings:
            seen.server = None
        estimate = self._estimate(call, state, seen)
        phases, complaint = split(seen, estimate)
        expected = self._expected(call, state, answer)
        verdicts: list[Verdict] = []
        if self._engine.settings.diagnosis:
            verdicts = diagnose(self._engine.diagnoser, call, state, answer, seen, expected)
        return Result(
            call,
            state,
            answer,
            seen,
            phases,
            complaint,
            attributes.failure(call, answer),
            estimate,
            expected,
            self._hit(state, seen),
            verdicts,
        )

    def _expected(self, call: Call, state: CallState, answer: Answer) -> int | None:
        """Prompt tokens that the history says should have come from the cache; then this prompt is history too."""
        prompt, usage = state.prompt, answer.usage
        if prompt is None or (call.first_token is None and call.answer is None):
            return None
        engine, found = self._engine, None
        if usage.input_tokens:
            found = engine.baselines.cached(
                state.route, prompt, state.endpoint.provider, usage.input_tokens, usage.cached_tokens
            ).tokens
        engine.prefixes.computed(prompt, (call.first_token or call.end or call.start) / 1e9)
        return found

    def _hit(self, state: CallState, seen: Observation) -> Told:
        """Whether a repeated beginning was cached, told from the time to the first token; then that is learned from.

        Only where the provider counts no cached tokens, and once the route's curve says what a prompt costs.
        """
        prompt, usage, first = state.prompt, seen.usage, seen.first_token
        if prompt is None or first is None or not seen.streaming or seen.first_token_error is not None:
            return NOTHING_TOLD
        if usage is None or not usage.input_tokens or usage.cached_tokens is not None:
            return NOTHING_TOLD
        engine = self._engine
        route = engine.baselines.route(state.route)
        if route is None or route.curve is None:
            return NOTHING_TOLD
        began = seen.request_arrived if seen.request_arrived is not None else seen.start
        pace = (first - began) / 1e9 / max(route.curve.cost(usage.input_tokens), 1e-6)
        return engine.hits.judge(state.route, pace, prompt.prefix)

    def _estimate(self, call: Call, state: CallState, seen: Observation) -> Estimate | None:
        """What the route's earlier calls say of this one; then this one is learned from."""
        if state.in_flight is None:
            return None
        return self._engine.baselines.end(state.route, state.in_flight, seen.end, sample_of(seen, call.first_chunk))

    def _spans(self, result: Result) -> None:
        state, call = result.state, result.call
        own = attributes.call_attributes(result)
        if state.span.is_recording():  # another instrumentation's may have ended before the stream did
            if result.failure is not None and state.owns_span:
                state.span.set_status(Status(StatusCode.ERROR, attributes.kind(call.error)))
            state.span.set_attributes(own)
            write_evidence(state.span, result.verdicts, call.end or call.start)
        result.pace = pace_of(result, self._engine.settings.tokenizer)
        children = Children(state.tracer, state.span)
        under = _attempts(children, result) if len(call.attempts) > 1 else None
        for phase in result.phases:
            marks = attributes.phase_attributes(result, phase)
            context = children.add(names.SPAN_PREFIX + phase.name, phase.start, phase.end, marks, under=under)
            for part in phase.parts:
                # No llmtrace.phase: whoever sums spans by phase would count decode twice.
                marks = {names.PART: part.name, names.SOURCE: phase.source}
                children.add(f"llm.{phase.name}.{part.name}", part.start, part.end, marks, under=context)
        mode = self._engine.settings.capture_content
        if mode != "no_content":
            _content(result, own, mode, self._engine.settings.semconv)

    def _remember(self, result: Result) -> None:
        """A failed call, for the one that may ask for the same again."""
        call, state = result.call, result.state
        if result.failure is not None and state.recording and state.owns_span:
            self._engine.earlier.failed(
                state.scope,
                state.operation.name,
                state.request.params,
                state.route,
                state.span.get_span_context(),
                result.failure,
                (call.end or call.start) / 1e9,
            )

    def _metrics(self, result: Result) -> None:
        meters, call, state = self._engine.meters(), result.call, result.state
        if meters is None or call.end is None:
            return
        where, answer = state.endpoint, result.answer
        first_chunk = attributes.first_chunk(result)
        meters.record(
            Measurements(
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
                gaps=() if first_chunk is None else [gap / 1e9 for gap in call.chunk_timing.gaps],
                usage=answer.usage,
                phases=[(phase.name, phase.source, phase.duration) for phase in result.phases],
                causes=[verdict.cause for verdict in result.verdicts],
                context=set_span_in_context(state.span),
            )
        )


def _cost(result: Result) -> float:
    """USD that the call's tokens cost; 0 where the tokens or their price are not known."""
    usage, state = result.answer.usage, result.state
    try:
        known = prices.price(state.endpoint.provider, result.answer.model or state.request.model)
    except ImportError as error:
        internal_errors.note("pricing a call", error)
        return 0.0
    return 0.0 if known is None else known.of(usage)


def _answer(call: Call, state: CallState) -> Answer:
    headers = call.attempts[-1].headers if call.attempts else None
    operation = state.operation
    try:
        if call.answer is not None:
            return operation.read_response(call.answer, headers)
        if call.body is not None and call.running is None:
            return call.body.read(operation, call, headers)
        if call.opening:
            return _streamed(call, state, headers)
    except Exception as error:
        internal_errors.note("reading an answer", error)
    return Answer()


def _streamed(call: Call, state: CallState, headers: Mapping[str, str] | None) -> Answer:
    """The answer in a stream's first and last chunks; in all that were kept, where the last few do not say its end."""
    recent, early, more = list(call.recent), getattr(call.recent, "early", ()), call.more() if call.more else ()

    def read(last: Sequence[Any]) -> Answer:
        first = call.opening[: max(call.chunk_timing.total - len(last) - len(early), 0)]
        return state.operation.read_chunks([*first, *early, *last, *more], headers)

    answer = read(recent[-state.closing :])
    return read(recent) if not answer.finish_reasons and len(recent) > state.closing else answer


def _complete(answer: Answer, state: CallState) -> None:
    try:
        if state.operation.complete is not None:
            state.operation.complete(state.request, answer)
    except Exception as error:
        internal_errors.note("reading an answer", error)


def _locate(call: Call, state: CallState, answer: Answer) -> None:
    """Where the call went, for a client that did not know when it was made."""
    where = state.endpoint
    if where.host is not None and answer.provider in (None, where.provider):
        return
    host, port = where.host, where.port
    if host is None and call.attempts:
        host, port = call.attempts[-1].address
    state.endpoint = Endpoint(where.url, answer.provider or where.provider, host, port)


def _observe(call: Call, attempt: Attempt | None, answer: Answer) -> Observation:
    came, error = first_token(call)
    chunk_timing = call.chunk_timing
    seen = Observation(
        start=attempt.start if attempt is not None and len(call.attempts) > 1 else call.start,
        end=call.end or call.start,
        streaming=call.streaming,
        attempted=attempt is not None,
        first_token=came,
        first_token_error=error,
        first_reasoning=call.first_reasoning,
        first_output=call.first_output,
        last_chunk=chunk_timing.last_arrival,
        chunks=chunk_timing.total,
        waited=chunk_timing.total > 0 or call.outcome in (calls.ERROR, calls.TIMED_OUT, calls.CANCELLED),
        consumer_wait=chunk_timing.consumer_wait / 1e9,
        usage=answer.usage,
        server=answer.timings,
    )
    if attempt is not None:
        seen.sent, seen.headers, seen.rtt = attempt.sent, attempt.headers_at, attempt.rtt
    return seen


def _attempts(children: Children, result: Result) -> SpanContext | None:
    """One span per HTTP attempt; returns the answering (last) one, under which the phases go."""
    call, context = result.call, None
    for number, attempt in enumerate(call.attempts):
        marks, failed = attributes.attempt_attributes(result, number)
        status = Status(StatusCode.ERROR, failed) if failed is not None else Status(StatusCode.UNSET)
        last = number == len(call.attempts) - 1
        end = call.end if last else attempt.end
        context = children.add(names.ATTEMPT, attempt.start, end or attempt.start, marks, status=status)
    return context


def _content(result: Result, own: dict[str, Any], mode: str, semconv: str) -> None:
    call, state = result.call, result.state
    try:
        operation, request = state.operation, state.request
        streamed = call.answer is None
        said = content.Content(
            operation.system_instructions(request),
            operation.tool_definitions(request),
            operation.input_messages(request),
            operation.output_messages(call.kept if streamed else call.answer, streamed),
        ).attributes(semconv)
        if mode in ("span_only", "span_and_event"):
            content.on_span(state.span, said)
        if mode in ("event_only", "span_and_event"):
            content.as_event(state.span, call.end or call.start, own, said)
    except Exception as error:
        internal_errors.note("capturing content", error)
