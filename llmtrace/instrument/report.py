"""The end of a call, made once and off the chunk path: facts -> phases -> spans and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import SpanContext, Status, StatusCode

from llmtrace.emit import attributes as names
from llmtrace.emit import content, prices, tasks
from llmtrace.emit.readable import overflow
from llmtrace.emit.spans import Children
from llmtrace.instrument import describe
from llmtrace.instrument.diagnose import diagnose, write_evidence
from llmtrace.instrument.ended import Ended, Endpoint, Payload
from llmtrace.instrument.pieces import pace_of
from llmtrace.observe import call as calls
from llmtrace.observe import mishaps
from llmtrace.observe.call import Call
from llmtrace.observe.clock import to_epoch
from llmtrace.observe.facts import Answer
from llmtrace.observe.transport import Attempt
from llmtrace.phases.arrival import first_token
from llmtrace.phases.baseline import Estimate
from llmtrace.phases.diagnosis.verdict import Verdict
from llmtrace.phases.hits import NOTHING_TOLD, Told
from llmtrace.phases.timeline import Observation, sight_of, split

if TYPE_CHECKING:
    from llmtrace.instrument.engine import Engine

_OPENING = 5
"""Attributes that a span is started with, at most."""

listeners: list[Callable[[Ended], None]] = []
"""Called with each ended call, after its spans: for tools that compare (the demo, the accuracy runs)."""


class Reporter:
    """Turns an ended call into its spans and metrics."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def report(self, call: Call) -> None:
        """Emit ``call``. Called exactly once per call, by whoever ended it."""
        payload: Payload = call.payload
        if payload.find_span is not None and not call.attempts:
            payload.find_span(call)
        try:
            ended = (payload.judge or self._judge)(call, payload)
            if payload.recording:
                self._spans(ended)
                self._remember(ended)
            self._metrics(ended)
        finally:
            if payload.owns_span:
                payload.span.end(to_epoch(call.end or call.start))
        if payload.marks and tasks.has_budget(payload.marks):
            tasks.spent(payload.marks, _cost(ended))
        for listener in listeners:
            listener(ended)

    def _judge(self, call: Call, payload: Payload) -> Ended:
        """Everything that the spans and metrics will say."""
        call.pulls.fold(call.returned)
        answer = _answer(call, payload)
        _complete(answer, payload)
        _locate(call, payload, answer)
        if call.outcome in (calls.CLOSED_EARLY, calls.ABANDONED) and (
            len(answer.finish_reasons) >= payload.request.choices
        ):
            call.outcome = calls.COMPLETED  # every choice had come to its end; only the closing lines were not read
        if answer.failed is not None and call.outcome == calls.COMPLETED:
            call.outcome = calls.ERROR  # it said so in a regular answer, which the client handed over as such
        attempt = call.attempts[-1] if call.attempts else None
        seen = _observe(call, attempt, answer)
        if not self._engine.settings.server_timings:
            seen.server = None
        estimate = self._estimate(call, payload, seen)
        phases, complaint = split(seen, estimate)
        expected = self._expected(call, payload, answer)
        verdicts: list[Verdict] = []
        if self._engine.settings.diagnosis:
            verdicts = diagnose(self._engine.diagnoser, call, payload, answer, seen, expected)
        return Ended(
            call,
            payload,
            answer,
            seen,
            phases,
            complaint,
            describe.failure(call, answer),
            estimate,
            expected,
            self._hit(payload, seen),
            verdicts,
        )

    def _expected(self, call: Call, payload: Payload, answer: Answer) -> int | None:
        """Prompt tokens that the history says should have come from the cache; then this prompt is history too."""
        prompt, usage = payload.prompt, answer.usage
        if prompt is None or (call.first_token is None and call.answer is None):
            return None
        engine, found = self._engine, None
        if usage.input_tokens:
            found = engine.baselines.cached(
                payload.route, prompt, payload.endpoint.provider, usage.input_tokens, usage.cached_tokens
            ).tokens
        engine.prefixes.computed(prompt, (call.first_token or call.end or call.start) / 1e9)
        return found

    def _hit(self, payload: Payload, seen: Observation) -> Told:
        """Whether a repeated beginning was cached, told from the time to the first token; then that is learned from.

        Only where the provider counts no cached tokens, and once the route's curve says what a prompt costs.
        """
        prompt, usage, first = payload.prompt, seen.usage, seen.first_token
        if prompt is None or first is None or not seen.streaming or seen.first_token_error is not None:
            return NOTHING_TOLD
        if usage is None or not usage.input_tokens or usage.cached_tokens is not None:
            return NOTHING_TOLD
        engine = self._engine
        route = engine.baselines.route(payload.route)
        if route is None or route.curve is None:
            return NOTHING_TOLD
        began = seen.request_arrived if seen.request_arrived is not None else seen.start
        pace = (first - began) / 1e9 / max(route.curve.cost(usage.input_tokens), 1e-6)
        return engine.hits.judge(payload.route, pace, prompt.prefix)

    def _estimate(self, call: Call, payload: Payload, seen: Observation) -> Estimate | None:
        """What the route's earlier calls say of this one; then this one is learned from."""
        if payload.flight is None:
            return None
        return self._engine.baselines.end(payload.route, payload.flight, seen.end, sight_of(seen, call.first_chunk))

    def _spans(self, ended: Ended) -> None:
        payload, call = ended.payload, ended.call
        own = describe.call_attributes(ended)
        if payload.span.is_recording():  # another instrumentation's may have ended before the stream did
            if ended.failure is not None and payload.owns_span:
                payload.span.set_status(Status(StatusCode.ERROR, describe.kind(call.error)))
            _write(payload, own, self._engine.settings.span_attributes, call.end or call.start)
            write_evidence(payload.span, ended.verdicts, call.end or call.start)
        ended.pace = pace_of(ended, self._engine.settings.tokenizer)
        children = Children(payload.tracer, payload.span)
        under = _attempts(children, ended) if len(call.attempts) > 1 else None
        for phase in ended.phases:
            marks = describe.phase_attributes(ended, phase)
            context = children.add(names.SPAN_PREFIX + phase.name, phase.start, phase.end, marks, under=under)
            for part in phase.parts:
                # No llmtrace.phase: whoever sums spans by phase would count decode twice.
                marks = {names.PART: part.name, names.SOURCE: phase.source}
                children.add(f"llm.{phase.name}.{part.name}", part.start, part.end, marks, under=context)
        mode = self._engine.settings.capture_content
        if mode != "no_content":
            _content(ended, own, mode)

    def _remember(self, ended: Ended) -> None:
        """A failed call, for the one that may ask for the same again."""
        call, payload = ended.call, ended.payload
        if ended.failure is not None and payload.recording and payload.owns_span:
            self._engine.earlier.failed(
                payload.scope,
                payload.operation.name,
                payload.request.params,
                payload.route,
                payload.span.get_span_context(),
                ended.failure,
                (call.end or call.start) / 1e9,
            )

    def _metrics(self, ended: Ended) -> None:
        meters, call, payload = self._engine.meters(), ended.call, ended.payload
        if meters is None or call.end is None:
            return
        where, usage = payload.endpoint, ended.answer.usage
        key = (
            payload.operation.name,
            where.provider,
            payload.request.model,
            ended.answer.model,
            where.host,
            where.port,
        )
        series = meters.series(key, ended.failure)
        span = payload.span
        series.duration.add((call.end - call.start) / 1e9, span)
        if (first := describe.first_chunk(ended)) is not None:
            series.to_first.add(first, span)
            if call.pulls.gaps:
                series.per_chunk.extend([gap / 1e9 for gap in call.pulls.gaps], span)
        if usage.input_tokens is not None:
            series.input_tokens.add(usage.input_tokens, span)
        if usage.output_tokens is not None:
            series.output_tokens.add(usage.output_tokens, span)
        for phase in ended.phases:
            series.phase(phase.name, phase.source).add(phase.duration, span)
        for verdict in ended.verdicts:
            series.diagnosed(verdict.cause)
        meters.settle(series)


def _write(payload: Payload, own: dict[str, Any], most: int, end: int) -> None:
    """The call's attributes onto its span, and what is too much for a span of our own into an event on it."""
    moved: Mapping[str, Any] = {}
    if payload.owns_span and len(own) + _OPENING > most:
        there: Any = getattr(payload.span, "attributes", None)
        own = dict(own)
        moved = overflow(own, there or (), most)
    payload.span.set_attributes(own)
    if moved:
        payload.span.add_event(names.DETAILS, moved, to_epoch(end))


def _cost(ended: Ended) -> float:
    """USD that the call's tokens cost; 0 where the tokens or their price are not known."""
    usage, payload = ended.answer.usage, ended.payload
    try:
        known = prices.price(payload.endpoint.provider, ended.answer.model or payload.request.model)
    except ImportError as error:
        mishaps.note("pricing a call", error)
        return 0.0
    return 0.0 if known is None else known.of(usage)


def _answer(call: Call, payload: Payload) -> Answer:
    headers = call.attempts[-1].headers if call.attempts else None
    operation = payload.operation
    try:
        if call.answer is not None:
            return operation.read_response(call.answer, headers)
        if call.body is not None and call.running is None:
            return call.body.read(operation, call, headers)
        if call.opening:
            return _streamed(call, payload, headers)
    except Exception as error:
        mishaps.note("reading an answer", error)
    return Answer()


def _streamed(call: Call, payload: Payload, headers: Mapping[str, str] | None) -> Answer:
    """The answer in a stream's first and last chunks; in all that were kept, where the last few do not say its end."""
    recent, early, more = list(call.recent), getattr(call.recent, "early", ()), call.more() if call.more else ()

    def read(last: Sequence[Any]) -> Answer:
        first = call.opening[: max(call.pulls.total - len(last) - len(early), 0)]
        return payload.operation.read_chunks([*first, *early, *last, *more], headers)

    answer = read(recent[-payload.closing :])
    return read(recent) if not answer.finish_reasons and len(recent) > payload.closing else answer


def _complete(answer: Answer, payload: Payload) -> None:
    try:
        if payload.operation.complete is not None:
            payload.operation.complete(payload.request, answer)
    except Exception as error:
        mishaps.note("reading an answer", error)


def _locate(call: Call, payload: Payload, answer: Answer) -> None:
    """Where the call went, for a client that did not know when it was made."""
    where = payload.endpoint
    if where.host is not None and answer.provider in (None, where.provider):
        return
    host, port = where.host, where.port
    if host is None and call.attempts:
        host, port = call.attempts[-1].address
    payload.endpoint = Endpoint(where.url, answer.provider or where.provider, host, port)


def _observe(call: Call, attempt: Attempt | None, answer: Answer) -> Observation:
    came, error = first_token(call)
    pulls = call.pulls
    seen = Observation(
        start=attempt.start if attempt is not None and len(call.attempts) > 1 else call.start,
        end=call.end or call.start,
        streaming=call.streaming,
        attempted=attempt is not None,
        first_token=came,
        first_token_error=error,
        first_reasoning=call.first_reasoning,
        first_output=call.first_output,
        last_chunk=pulls.last_arrival,
        chunks=pulls.total,
        waited=pulls.total > 0 or call.outcome in (calls.ERROR, calls.TIMED_OUT, calls.CANCELLED),
        consumer_wait=pulls.consumer_wait / 1e9,
        usage=answer.usage,
        server=answer.timings,
    )
    if attempt is not None:
        seen.sent, seen.headers, seen.rtt = attempt.sent, attempt.headers_at, attempt.rtt
    return seen


def _attempts(children: Children, ended: Ended) -> SpanContext | None:
    """One span per HTTP attempt; returns the answering (last) one, under which the phases go."""
    call, context = ended.call, None
    for number, attempt in enumerate(call.attempts):
        marks, failed = describe.attempt_attributes(ended, number)
        status = Status(StatusCode.ERROR, failed) if failed is not None else Status(StatusCode.UNSET)
        last = number == len(call.attempts) - 1
        end = call.end if last else attempt.end
        context = children.add(names.ATTEMPT, attempt.start, end or attempt.start, marks, status=status)
    return context


def _content(ended: Ended, own: dict[str, Any], mode: str) -> None:
    call, payload = ended.call, ended.payload
    try:
        operation = payload.operation
        sent = operation.input_messages(payload.request)
        streamed = call.answer is None
        received = operation.output_messages(call.kept if streamed else call.answer, streamed)
        if mode in ("span_only", "span_and_event"):
            content.on_span(payload.span, sent, received)
        if mode in ("event_only", "span_and_event"):
            content.as_event(payload.span, call.end or call.start, content.Messages(own, sent, received))
    except Exception as error:
        mishaps.note("capturing content", error)
