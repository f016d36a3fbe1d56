"""One call's way, in one direction: begin, then (at its end) read, phases, verdict, emit.

Nothing in here may reach the application: each entry point catches what we get wrong and lets the call go on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry.trace import Span

from llmtrace.calls import attributes
from llmtrace.calls.begin import Beginning
from llmtrace.calls.byte_taps import RawBody, tap
from llmtrace.calls.emit import emit_metrics, emit_spans
from llmtrace.calls.phases import split_call
from llmtrace.calls.read import observe, read_answer
from llmtrace.calls.result import Result
from llmtrace.calls.services import Services
from llmtrace.calls.state import CallState
from llmtrace.calls.verdict import diagnose
from llmtrace.config import Settings
from llmtrace.observe import call as calls
from llmtrace.observe import internal_errors
from llmtrace.observe.answer import Answer
from llmtrace.observe.call import Call
from llmtrace.observe.clock import now
from llmtrace.observe.in_use import InUse, in_use
from llmtrace.observe.stream import cause_of
from llmtrace.phases.observation import Observation
from llmtrace.providers.declare import Operation, Provider
from llmtrace.tasks import units

_NO_FIELDS: Mapping[str, Any] = {}
listeners: list[Callable[[Result], None]] = []
"""Called with each result, after its spans: for tools that compare (the demo, the accuracy runs)."""


class CallTracer:
    """The calls of one client library, from their begin to their spans."""

    def __init__(self, settings: Settings, tracer_provider: Any = None, meter_provider: Any = None) -> None:
        self.settings = settings
        self.services = Services(settings, tracer_provider, meter_provider)
        self.in_use = InUse()
        """The calls under way."""
        self._provider_in_use = InUse() if tracer_provider is None else in_use(tracer_provider)
        self._beginning = Beginning(self.services, self._ended)

    def begin(
        self,
        provider: Provider,
        operation: Operation,
        client: Any,
        body: Any,
        url: Any = None,
        covers: bool = False,
        headers: Mapping[str, Any] | None = None,
    ) -> Call | Span | None:
        """A call sets out. ``url``: where it goes, if not to the client's base URL; ``covers``: another instrumentation
        lies beneath, which may open its span before the request is sent; ``headers``: those that the caller gave the
        request, in which another instrumentation may have named its span.

        Returns the call; its bare span where neither traces nor metrics want to know more; None where the call is not
        to be traced at all.
        """
        try:
            if not isinstance(body, dict):
                return None
            call = self._beginning.begin(provider, operation, client, body, url, covers, headers)
            if isinstance(call, Call):
                self.in_use.begin(call)
                self._provider_in_use.begin(call)
                if provider.in_process:
                    from llmtrace.calls import model_loads  # here, since few programs load a model

                    call.state.loaded = model_loads.first_call(client, call.state.span)
            return call
        except Exception as error:
            internal_errors.note("beginning a call", error)
            return None

    def returned(self, call: Call | Span, result: Any) -> None:
        """The client handed ``result`` to the application: the end of the call, unless a stream goes on."""
        if not isinstance(call, Call):
            return
        try:
            call.returned = now()
            # Not kept from here on: an open call must not be what keeps a response alive that the application drops.
            response = call.attempts[-1].take_response() if call.attempts else None
            if call.running is not None or not call.is_open:
                return
            still_open = response is not None and not response.is_closed and not response.is_stream_consumed
            if still_open and tap(response, call):
                return
            # Not ``getattr``: a model of pydantic's takes long to say that it has no such attribute.
            raw = getattr(result, "__dict__", _NO_FIELDS).get("http_response")
            if raw is None or response is None:
                call.answer = result
            else:
                call.body = RawBody(whole=call.kept is not None)
                call.body.keep(call.returned, response.content)
        except Exception as error:
            internal_errors.note("reading a response", error)
        call.finish(calls.COMPLETED, call.returned)

    def failed(self, call: Call | Span, error: BaseException) -> None:
        """The client raised: the end of the call."""
        if not isinstance(call, Call):
            return
        try:
            _keep_whole(call)
        except Exception as ours:
            internal_errors.note("reading a response", ours)
        try:
            call.finish(cause_of(error), error=error)
        except Exception as ours:
            internal_errors.note("ending a call", ours)

    def drop(self, state: CallState) -> None:
        """Nothing is to be learned from the call of ``state``: its route need not know of it."""
        if state.in_flight is not None:
            self.services.baselines.drop(state.route, state.in_flight)
            state.in_flight = None

    def close(self) -> None:
        """Save what was learned: this client is traced no more."""
        self.services.baselines.save()

    # --- the end, made exactly once for each call, by whoever ended it ----------------------------------------------
    def _ended(self, call: Call) -> None:
        state: CallState = call.state
        try:
            self._report(call, state)
        except Exception as error:
            internal_errors.note("ending a call", error)
            self.drop(state)
        finally:
            call.release()
            self._provider_in_use.end(call)
            self.in_use.end(call)

    def _report(self, call: Call, state: CallState) -> None:
        if state.find_span is not None and not call.attempts:
            state.find_span(call)
        try:
            result = (state.judge or self._judge)(call, state)
            if state.loaded is not None and self.settings.diagnosis:
                from llmtrace.calls import model_loads

                model_loads.diagnose(result, state.loaded)
            if self.services.objectives is not None:
                result.judgement = self.services.objectives.judge(result)
            if state.recording:
                emit_spans(result, self.settings)
                self._remember(result)
            emit_metrics(result, self.services)
        finally:
            if state.owns_span:
                state.span.end(call.to_epoch(call.end or call.start))
        if state.baggage_attributes and state.question is not None and state.question.repairs:
            units.repaired(state.baggage_attributes)
        if state.baggage_attributes and units.has_budget(state.baggage_attributes):
            units.spent(state.baggage_attributes, _cost(result))
        for listener in listeners:
            listener(result)

    def _judge(self, call: Call, state: CallState) -> Result:
        """Everything that the spans and metrics will say."""
        answer = read_answer(call, state, self.settings.server_timings)
        if state.over_http and not call.attempts:
            return self._asked_nobody(call, state, answer)
        seen = observe(call, state, answer)
        split = split_call(self.services, call, state, answer, seen)
        verdicts = (
            diagnose(self.services.diagnoser, call, state, answer, seen, split.expected_cached, split.estimate)
            if self.settings.diagnosis and seen.computed
            else ()
        )
        return Result(
            call,
            state,
            answer,
            seen,
            split.phases,
            split.complaint,
            attributes.failure(call, answer),
            split.estimate,
            split.expected_cached,
            split.lost,
            split.hit,
            verdicts,
        )

    def _asked_nobody(self, call: Call, state: CallState, answer: Answer) -> Result:
        """The result of a call that no request was made for: how it ended and how long it took, which is all that there
        is to be known of it. What its answer counts was spent by another call, or by none.
        """
        self.drop(state)
        seen = Observation(call.start, call.end or call.start, call.streaming)
        failure = attributes.failure(call, answer)
        return Result(call, state, Answer(), seen, [], None, failure, None, asked=False)

    def _remember(self, result: Result) -> None:
        """A call, for the one that may ask for the same again because it failed, or because its answer did."""
        call, state = result.call, result.state
        if result.failure is None and state.question is not None:
            ended = (call.end or call.start) / 1e9
            self.services.repairs.answered(state.question, state.span.get_span_context(), ended, result.answer.id)
        if result.failure is not None and (state.owns_span or state.adopted):
            self.services.retry_links.failed(
                state.scope,
                state.operation.name,
                state.request,
                state.route,
                state.span.get_span_context(),
                result.failure,
                (call.end or call.start) / 1e9,
            )


def _keep_whole(call: Call) -> None:
    """Keep the body of a whole answer that the client took and then raised (what it is to be parsed into is not in it,
    its length ran out): it is paid for all the same.
    """
    response = call.attempts[-1].take_response() if call.attempts and not call.streaming else None
    if response is not None and response.is_success and response.is_stream_consumed:
        call.body = RawBody(whole=call.kept is not None)
        call.body.keep(now(), response.content)


def _cost(result: Result) -> float:
    """USD that the call cost, as the provider or a gateway tells it; else what its tokens cost by the price list, 0
    where the tokens or their price are not known.
    """
    usage, state, hop = result.answer.usage, result.state, result.answer.hop
    if hop is not None and hop.cost is not None:
        return hop.cost
    from llmtrace.tasks import prices  # here, since few calls are made within a budget

    try:
        known = prices.price(state.endpoint.provider, result.answer.model or state.request.model)
    except ImportError as error:
        internal_errors.note("pricing a call", error)
        return 0.0
    return 0.0 if known is None else known.of(usage)
