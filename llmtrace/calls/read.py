"""Read: what the provider reported and what was seen of the stream, of a call that has ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llmtrace.calls.state import CallState, Endpoint
from llmtrace.observe import call as calls
from llmtrace.observe import internal_errors
from llmtrace.observe.answer import Answer, Usage
from llmtrace.observe.call import Call
from llmtrace.phases.arrival import first_token
from llmtrace.phases.observation import Observation
from llmtrace.phases.stagger import stagger_spans
from llmtrace.providers import gateways
from llmtrace.providers.timings import read_processing_time


def read_answer(call: Call, state: CallState, server_timings: bool) -> Answer:
    """The answer, as far as it was received. Where it shows how the call really ended, the call's outcome follows.

    ``server_timings``: the setting. Without it nothing that the engine or the provider reports of its own work is
    looked at, neither the count of cached tokens that stands among its timings nor the headers that tell of its time.
    """
    call.chunk_timing.fold(call.returned)
    try:
        answer = _read(call, state)
        _complete(call, state, answer, server_timings)
        _leave_out_the_impossible(answer)
    except Exception as error:
        internal_errors.note("reading an answer", error)
        answer = Answer()
    _take_in_gateway(call, state, answer, server_timings)
    _locate(call, state, answer)
    every_choice_ended = len(answer.finish_reasons) >= state.request.choices
    if call.outcome in (calls.CLOSED_EARLY, calls.ABANDONED) and every_choice_ended:
        call.outcome = calls.COMPLETED  # only the closing lines were not read
    if answer.failed is not None and call.outcome == calls.COMPLETED:
        call.outcome = calls.ERROR  # it said so in a regular answer, which the client handed over as such
    return answer


def _complete(call: Call, state: CallState, answer: Answer, server_timings: bool) -> None:
    """Complete the answer by what the request knows, and by what the engine and the provider say of their own work."""
    counted = answer.usage.cached_tokens
    if not server_timings:
        answer.timings = None
    if state.operation.complete is not None:
        state.operation.complete(state.request, answer)
    if not server_timings:
        answer.timings, answer.usage.cached_tokens = None, counted
        _drop_engine_facts(answer)
        return
    if answer.timings is not None and answer.usage.cached_tokens is None:
        answer.usage.cached_tokens = answer.timings.cached_tokens
    answer.cached_by_timings = counted is None and answer.usage.cached_tokens is not None
    if call.attempts:
        answer.processing_time = read_processing_time(call.attempts[-1].headers)


def _leave_out_the_impossible(answer: Answer) -> None:
    """Forget how many tokens were cached where that is more than the whole prompt has."""
    usage, timings = answer.usage, answer.timings
    prompt = usage.input_tokens
    if prompt is None:
        return
    if usage.cached_tokens is not None and usage.cached_tokens > prompt:
        usage.cached_tokens = usage.cached_by_modality = None
        answer.cached_by_timings = False
    if timings is not None and timings.cached_tokens is not None and timings.cached_tokens > prompt:
        timings.cached_tokens = None
    if answer.cached_by_tier and sum(answer.cached_by_tier.values()) > prompt:
        answer.cached_by_tier = None


def _take_in_gateway(call: Call, state: CallState, answer: Answer, server_timings: bool) -> None:
    """Take in what a gateway on the way said of it. What its cache answered was computed for another call, which the
    counts and timings in it are about.
    """
    headers = call.attempts[-1].headers if call.attempts else None
    answer.hop = hop = gateways.joined(answer.hop, gateways.read_headers(headers, call.streaming))
    if hop is None:
        return
    if hop.gateway is None and state.endpoint.provider == gateways.OPENROUTER:
        hop.gateway = gateways.OPENROUTER
    if not server_timings:
        hop.spent = None
    if hop.cached:
        answer.usage, answer.timings = Usage(), None
        _drop_engine_facts(answer)


def _drop_engine_facts(answer: Answer) -> None:
    """Drop what an engine tells of its work beside its timings."""
    answer.speculation = answer.queue_depth = answer.cached_by_tier = None
    answer.cache_miss = answer.cache_missed_tokens = None


def observe(call: Call, state: CallState, answer: Answer) -> Observation:
    """What was seen of the call, of its last attempt where there were several."""
    if len(call.attempts) > 1:
        _stagger(call)
    arrival, arrival_error = first_token(call)
    chunks = call.chunk_timing
    attempt = call.attempts[-1] if call.attempts else None
    seen = Observation(
        start=attempt.start if attempt is not None and len(call.attempts) > 1 else call.start,
        end=call.end or call.start,
        streaming=call.streaming and state.operation.in_tokens,
        first_token=arrival,
        first_token_error=arrival_error,
        first_reasoning=call.first_reasoning,
        first_output=call.first_output,
        last_chunk=chunks.last_arrival,
        chunks=chunks.total,
        gaps=chunks.gaps,
        waited=chunks.total > 0 or call.outcome in (calls.ERROR, calls.TIMED_OUT, calls.CANCELLED),
        consumer_wait=chunks.consumer_wait / 1e9,
        usage=answer.usage,
        server=answer.timings,
        gateway=None if answer.hop is None else answer.hop.spent,
        computed=answer.hop is None or not answer.hop.cached,
    )
    if attempt is not None:
        seen.take_transport(attempt)
    return seen


def _stagger(call: Call) -> None:
    """Move the attempts' times below the microsecond, so that viewers see one after the other."""
    end = call.end or call.start
    times = [(attempt.start, attempt.end or attempt.start) for attempt in call.attempts[:-1]]
    times = stagger_spans(call.start, [*times, (call.attempts[-1].start, end)], end)
    for attempt, (start, stop) in zip(call.attempts, times, strict=True):
        attempt.start, attempt.end = start, stop


def _read(call: Call, state: CallState) -> Answer:
    headers = call.attempts[-1].headers if call.attempts else None
    if call.answer is not None:
        return state.operation.read_response(call.answer, headers)
    if call.body is not None and call.running is None:
        return call.body.read(state.operation, call, headers)
    if call.opening:
        return _streamed(call, state, headers)
    return Answer()


def _streamed(call: Call, state: CallState, headers: Mapping[str, str] | None) -> Answer:
    """The answer in a stream's first and last chunks; in all that were kept, where the last few do not say its end."""
    recent, early, more = list(call.recent), getattr(call.recent, "early", ()), call.more() if call.more else ()

    def read(last: Sequence[object]) -> Answer:
        first = call.opening[: max(call.chunk_timing.total - len(last) - len(early), 0)]
        return state.operation.read_chunks([*first, *early, *last, *more], headers)

    answer = read(recent[-state.closing :])
    return read(recent) if not answer.finish_reasons and len(recent) > state.closing else answer


def _locate(call: Call, state: CallState, answer: Answer) -> None:
    """Where the call went, for a client that did not know when it was made."""
    where = state.endpoint
    if where.host is not None and answer.provider in (None, where.provider):
        return
    host, port = where.host, where.port
    if host is None and call.attempts:
        host, port = call.attempts[-1].address
    state.endpoint = Endpoint(where.url, answer.provider or where.provider, host, port)
