"""An ended call in attributes: the parent's, each phase's, each attempt's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmtrace.calls.cancellation import cancellation_attributes
from llmtrace.calls.finish_reasons import finish_reasons
from llmtrace.calls.model_sent import model_sent
from llmtrace.calls.reading import of_params, of_request
from llmtrace.calls.result import Result
from llmtrace.calls.state import CallState
from llmtrace.calls.verdict import attributes_of
from llmtrace.emit import names
from llmtrace.emit.values import class_name
from llmtrace.estimate.losses import TOOLS_CHANGED, Loss
from llmtrace.observe import call as calls
from llmtrace.observe.answer import Answer, Hop, ToldAttempt
from llmtrace.observe.call import Call
from llmtrace.observe.chunk_timing import ChunkTiming
from llmtrace.observe.stream import cause_of
from llmtrace.observe.transport import Attempt
from llmtrace.phases.model import (
    DECODE,
    ESTIMATE,
    KV_CACHE_HIT,
    NETWORK,
    PREFILL,
    QUEUE,
    SCHEMA_VERSION,
    Blind,
    Estimate,
    Phase,
)
from llmtrace.phases.pace import Pace
from llmtrace.providers.prompt import place_of
from llmtrace.providers.timings import read_route

_NO_FACTS: Mapping[str, Any] = {}
_CUT_SHORT = (calls.CLOSED_EARLY, calls.ABANDONED, calls.CANCELLED, calls.TIMED_OUT, calls.ERROR)


def failure(call: Call, answer: Answer) -> str | None:
    """``error.type``: the HTTP status code where that was the failure, else the exception's qualified name.

    Where nothing was raised but the answer says that it failed: the provider's name for it.
    """
    if call.outcome not in (calls.ERROR, calls.TIMED_OUT):
        return None
    error = call.error
    if error is None:
        return answer.failed or call.outcome
    status = getattr(error, "status_code", None)
    if call.attempts and isinstance(error, Exception) and (call.returned is None or isinstance(status, int)):
        status = call.attempts[-1].status  # some clients' exceptions do not say it, others invent one
    if isinstance(status, int) and status >= 400:
        return str(status)
    if call.outcome == calls.TIMED_OUT and not isinstance(error, Exception):
        return "TimeoutError"  # the application's deadline, which asyncio delivers as a cancellation
    return class_name(error)


def kind(error: BaseException | None) -> str | None:
    """The exception's type. Its message stays out: it holds the provider's answer, which may quote the prompt."""
    return None if error is None else type(error).__name__


def call_attributes(result: Result) -> dict[str, Any]:
    """The parent's attributes beyond those it was started with."""
    call, state, answer = result.call, result.state, result.answer
    usage, chunk_timing = answer.usage, call.chunk_timing
    attributes: dict[str, Any] = {}
    if state.is_genai_span:
        attributes.update(of_request(state.request, state.operation.request_attributes))
        if call.streaming:
            attributes[names.REQUEST_STREAM] = True
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
                attributes[name] = value
        for counts, by_modality in (
            (names.INPUT_BY_MODALITY, usage.input_by_modality),
            (names.OUTPUT_BY_MODALITY, usage.output_by_modality),
            (names.CACHE_READ_BY_MODALITY, usage.cached_by_modality),
        ):
            for modality, tokens in (by_modality or {}).items():
                if tokens and modality in counts:
                    attributes[counts[modality]] = tokens
        if result.asked and (reasons := finish_reasons(result)):
            attributes[names.FINISH_REASONS] = reasons
        if state.endpoint.url is None and state.endpoint.host is not None:  # the client did not know at the start
            attributes[names.SERVER_ADDRESS], attributes[names.SERVER_PORT] = state.endpoint.host, state.endpoint.port
        if answer.provider is not None:
            attributes[names.PROVIDER] = answer.provider
        if (first := first_chunk(result)) is not None:
            attributes[names.TIME_TO_FIRST_CHUNK] = first
        if answer.extra:
            attributes.update(answer.extra)
    if state.baggage_attributes:
        attributes.update(state.baggage_attributes)
    if state.question is not None and state.question.repairs:
        attributes[names.REPAIRS] = state.question.repairs
    if state.loaded is not None:
        attributes[names.LOAD_BEFORE] = state.loaded.seconds
    attributes[names.SCHEMA] = SCHEMA_VERSION
    attributes[names.OUTCOME] = call.outcome
    if result.seen.first_token is not None:
        attributes[names.TTFT] = (result.seen.first_token - call.start) / 1e9
    if chunk_timing.total and result.asked:
        attributes[names.CHUNKS] = chunk_timing.total
    if answer.timings is not None:
        attributes[names.ENGINE] = answer.timings.engine
        if answer.timings.model_load is not None:
            attributes[names.MODEL_LOAD] = answer.timings.model_load
        if answer.timings.grammar_compile is not None:
            attributes[names.GRAMMAR_COMPILE] = answer.timings.grammar_compile
        if answer.timings.grammar_mask is not None:
            attributes[names.GRAMMAR_MASK] = answer.timings.grammar_mask
    if result.estimate is not None:
        attributes[names.ANCHOR] = result.estimate.anchor
    if result.expected_cached and not any(phase.name == KV_CACHE_HIT for phase in result.phases):
        attributes[names.EXPECTED_TOKENS] = result.expected_cached
    if result.lost is not None:
        attributes.update(_lost(result, result.lost))
    attributes.update(_engine_facts(result, None))
    if result.hit.hit is not None:
        attributes[names.HIT_PROBABILITY] = result.hit.hit
    if result.hit.prefix is not None:
        attributes[names.PREFIX_PROBABILITY] = result.hit.prefix
    if result.complaint is not None:
        attributes[names.TIMINGS_REJECTED] = result.complaint
    if result.failure is not None and state.owns_span:
        attributes[names.ERROR_TYPE] = result.failure
    if not state.is_genai_span:
        attributes.update(_adopted_attributes(call, state))
    headers = call.attempts[-1].headers if call.attempts else None
    if route := _route(answer, headers):
        attributes[names.ROUTE] = route
    if answer.hop is not None:
        attributes.update(_gateway_attributes(answer.hop))
    if answer.processing_time is not None:
        attributes[names.PROCESSING_TIME] = answer.processing_time
    if call.streaming and result.asked and call.outcome in _CUT_SHORT:
        attributes.update(cancellation_attributes(result))
    if result.verdicts:
        attributes.update(attributes_of(result.verdicts))
    if result.judgement is not None:
        from llmtrace.calls import objectives  # here, since few programs name any

        attributes.update(objectives.attributes_of(result.judgement))
    return attributes


def _gateway_attributes(hop: Hop) -> dict[str, Any]:
    """What the call's span says of the gateway that it went through."""
    known = {
        names.GATEWAY_NAME: hop.gateway,
        names.GATEWAY_RETRIES: hop.retries,
        names.GATEWAY_FALLBACKS: hop.fallbacks,
        names.GATEWAY_CACHE: "hit" if hop.cached else None,
        names.COST: hop.cost,
    }
    return {name: value for name, value in known.items() if value is not None}


def gateway_attempt_attributes(attempt: ToldAttempt) -> dict[str, Any]:
    """The attributes of an attempt that a gateway made and reported."""
    known = {
        names.ATTEMPT_TOLD: True,
        names.UPSTREAM: attempt.upstream,
        names.REQUEST_MODEL: attempt.model,
        names.STATUS_CODE: attempt.status,
        names.OUTCOME: calls.ERROR,
        names.ERROR_TYPE: None if attempt.status is None else str(attempt.status),
    }
    return {name: value for name, value in known.items() if value is not None}


def _adopted_attributes(call: Call, state: CallState) -> dict[str, Any]:
    """The attributes that another instrumentation's span lacks, or has for times that it measured itself."""
    attributes: dict[str, Any] = {names.CALL_STREAMING: call.streaming}
    if state.adopted:
        attributes[names.CALL_ADOPTED] = True
        attributes[names.CALL_START] = call.to_epoch(call.start)
        attributes[names.CALL_DURATION] = ((call.end or call.start) - call.start) / 1e9
    return attributes


def first_chunk(result: Result) -> float | None:
    """Seconds from the request to the first chunk's arrival, which may be before a late application read it."""
    call, token = result.call, result.seen.first_token
    if call.first_chunk is None or not result.asked:
        return None
    return ((call.first_chunk if token is None else min(call.first_chunk, token)) - call.start) / 1e9


def refinements(provider: str, answer: Answer) -> tuple[tuple[str, str], ...]:
    """The attributes that the conventions want on OpenAI's metrics, and on nobody else's."""
    if provider not in ("openai", "azure.ai.openai"):
        return ()
    named = ((names.SERVICE_TIER, answer.service_tier), (names.SYSTEM_FINGERPRINT, answer.fingerprint))
    return tuple((name, value) for name, value in named if value)


def _route(answer: Answer, headers: Mapping[str, str] | None) -> str:
    """Who answered, as far as the answer says: model, system fingerprint and allow-listed routing headers."""
    parts: list[str] = []
    if answer.model:
        parts.append(f"model={answer.model}")
    if answer.fingerprint:
        parts.append(f"fingerprint={answer.fingerprint}")
    hop = answer.hop
    if hop is not None:
        where = (("upstream", hop.upstream), ("deployment", hop.deployment), ("region", hop.region))
        parts.extend(f"{name}={value}" for name, value in where if value)
        if hop.model and hop.model != answer.model:
            parts.append(f"upstream_model={hop.model}")
    if headers:
        parts.extend(f"{name}={value}" for name, value in sorted(read_route(headers).items()))
    return ";".join(parts)


def attempt_attributes(result: Result, number: int) -> tuple[dict[str, Any], str | None]:
    """One HTTP attempt's attributes, and what failed it (None: it did not fail)."""
    call = result.call
    attempt = call.attempts[number]
    last = number == len(call.attempts) - 1
    marks: dict[str, Any] = {}
    if number:
        marks[names.RESEND_COUNT] = number
    if attempt.status is not None:
        marks[names.STATUS_CODE] = attempt.status
    if result.state.operation.reroutes:
        marks.update(_rerouted(attempt))
    refused = attempt.status is not None and attempt.status >= 400
    error = attempt.error if attempt.error is not None or not last else call.error
    if last:
        outcome = call.outcome or calls.COMPLETED
    elif isinstance(error, Exception) and cause_of(error) == calls.TIMED_OUT:
        outcome = calls.TIMED_OUT
    else:
        outcome = calls.ERROR if refused or error is not None else calls.COMPLETED
    marks[names.OUTCOME] = outcome
    if outcome not in (calls.ERROR, calls.TIMED_OUT):
        return marks, None
    if refused:
        failure = str(attempt.status)
    elif error is not None:
        failure = class_name(error)
    else:  # the answer itself says so
        failure = result.failure or str(attempt.status)
    marks[names.ERROR_TYPE] = failure
    return marks, kind(error) or (f"HTTP {attempt.status}" if refused else failure)


def _rerouted(attempt: Attempt) -> dict[str, Any]:
    """The server and the model that this attempt asked for: a retry may go elsewhere."""
    attributes: dict[str, Any] = {}
    host, port = attempt.address
    if host is not None:
        attributes[names.SERVER_ADDRESS], attributes[names.SERVER_PORT] = host, port
    if (model := model_sent(attempt)) is not None:
        attributes[names.REQUEST_MODEL] = model
    return attributes


def phase_attributes(result: Result, phase: Phase) -> dict[str, Any]:
    """One phase's attributes."""
    attributes: dict[str, Any] = {names.PHASE: phase.name, names.SIDE: names.CLIENT_SIDE, names.SOURCE: phase.source}
    if phase.uncertainty is not None:
        attributes[names.UNCERTAINTY] = phase.uncertainty
        if phase.uncertainty_low is not None and phase.uncertainty_high is not None:
            attributes[names.UNCERTAINTY_LOW] = phase.uncertainty_low
            attributes[names.UNCERTAINTY_HIGH] = phase.uncertainty_high
    if phase.merged_because is not None:
        attributes[names.MERGED_BECAUSE] = phase.merged_because
        attributes[names.MERGED_DETAIL] = phase.merged_detail
    if phase.tokens is not None:
        attributes[names.TOKENS] = phase.tokens
    if phase.per_token is not None:
        attributes[names.PER_TOKEN] = phase.per_token
    if phase.server_duration is not None:
        attributes[names.SERVER_DURATION] = phase.server_duration
    if phase.name == NETWORK:
        _network(result, attributes)
    if phase.blind is not None:
        _graded(phase.blind, attributes)
    if phase.admission is not None:
        attributes[names.ADMISSION] = phase.admission
    if phase.name == QUEUE and phase.source == ESTIMATE and result.estimate is not None:
        _estimated_queue(result.estimate, attributes)
    if phase.name == DECODE:
        _decode(result, attributes)
    elif phase.name == KV_CACHE_HIT:
        if phase.time_saved is not None:
            attributes[names.TIME_SAVED] = phase.time_saved
        if result.expected_cached is not None:
            attributes[names.EXPECTED_TOKENS] = result.expected_cached
    attributes.update(_engine_facts(result, phase.name))
    if phase.extra:
        attributes.update(phase.extra)
    return attributes


def _lost(result: Result, lost: Loss) -> dict[str, Any]:
    """What the cache might have spared, and why it did not."""
    attributes: dict[str, Any] = {names.LOST_TOKENS: lost.tokens, names.LOST_BECAUSE: lost.reason}
    if lost.text is not None:
        attributes[names.CHANGED_AT], tools = of_params(result.state.request, place_of, lost.text)
        if tools:
            attributes[names.LOST_BECAUSE] = TOOLS_CHANGED
        attributes[names.CHANGED_TOKEN] = lost.near
    per_token = next((phase.per_token for phase in result.phases if phase.name == PREFILL), None)
    if per_token:
        attributes[names.LOST_TIME] = lost.tokens * per_token
    return attributes


def _engine_facts(result: Result, phase: str | None) -> Mapping[str, Any]:
    """What the engine reports beside its timings of ``phase``; None: of all phases that the call has no span for."""
    answer = result.answer
    if answer.queue_depth is None and answer.speculation is None and not answer.cached_by_tier:
        return _NO_FACTS
    by_phase: dict[str, dict[str, Any]] = {}
    if answer.queue_depth is not None:
        by_phase[QUEUE] = {names.QUEUE_DEPTH: answer.queue_depth}
    if answer.cached_by_tier:
        by_phase[KV_CACHE_HIT] = {names.CACHE_TIERS[tier]: tokens for tier, tokens in answer.cached_by_tier.items()}
    if (draft := answer.speculation) is not None:
        by_phase[DECODE] = {names.DRAFTED: draft.drafted, names.DRAFT_ACCEPTED: draft.accepted}
        if draft.accepted_per_step is not None:
            by_phase[DECODE][names.ACCEPTED_PER_STEP] = draft.accepted_per_step
    if phase is not None or not by_phase:
        return by_phase.get(phase or "", {})
    laid = {each.name for each in result.phases}
    return {name: value for of, values in by_phase.items() if of not in laid for name, value in values.items()}


def _graded(blind: Blind, attributes: dict[str, Any]) -> None:
    attributes[names.ESTIMATE_DURATION], attributes[names.ESTIMATE_ERROR] = blind.duration, blind.error
    attributes[names.ESTIMATE_UNCERTAINTY] = max(blind.low, blind.high)
    if blind.low != blind.high:
        attributes[names.ESTIMATE_LOW], attributes[names.ESTIMATE_HIGH] = blind.low, blind.high


def _estimated_queue(estimate: Estimate, attributes: dict[str, Any]) -> None:
    if not estimate.step_apart:
        attributes[names.STEP_WAIT] = estimate.step_wait
    if estimate.lower_bound:
        attributes[names.LOWER_BOUND] = True
    if estimate.limit is not None:
        attributes[names.LIMIT] = estimate.limit


def _network(result: Result, attributes: dict[str, Any]) -> None:
    if not result.call.attempts:
        return
    attempt = result.call.attempts[-1]
    attributes[names.NEW_CONNECTION] = attempt.new_connection
    if attempt.connect_start is not None and attempt.connect_end is not None:
        attributes[names.CONNECT] = (attempt.connect_end - attempt.connect_start) / 1e9
    if attempt.tls_start is not None and attempt.tls_end is not None:
        attributes[names.TLS] = (attempt.tls_end - attempt.tls_start) / 1e9
    if attempt.sending is not None and attempt.sent is not None:
        attributes[names.SEND] = max(0, attempt.sent - attempt.sending) / 1e9
    if attempt.rtt is not None:
        attributes[names.RTT] = attempt.rtt
    if attempt.headers_at is not None:
        attributes[names.HEADERS] = (attempt.headers_at - result.seen.start) / 1e9


def _decode(result: Result, attributes: dict[str, Any]) -> None:
    call = result.call
    chunk_timing, pace = call.chunk_timing, result.pace or Pace()
    attributes.update(paced(pace))
    attributes.update(gaps(chunk_timing))
    if pace.made_up:
        attributes[names.STALL_MADE_UP] = pace.made_up
    if chunk_timing.total:
        attributes[names.CONSUMER_WAIT] = chunk_timing.consumer_wait / 1e9


def paced(pace: Pace) -> dict[str, Any]:
    """The attributes that tell of the times between tokens; none of what is not known."""
    attributes = {
        names.TOKENS_PER_CHUNK: pace.per_chunk,
        names.ITL_P50: pace.p50,
        names.ITL_P99: pace.p99,
        names.ITL_MAX: pace.longest,
        names.ITL_BASIS: pace.basis,
        names.PATTERN: pace.pattern,
    }
    return {name: value for name, value in attributes.items() if value is not None}


def gaps(chunk_timing: ChunkTiming) -> dict[str, Any]:
    """The attributes that tell of the times between chunks; none where there was no gap."""
    quantiles = chunk_timing.quantiles(0.5, 0.99)
    if quantiles is None:
        return {}
    count, duration = chunk_timing.stalls()
    attributes: dict[str, Any] = {
        names.GAP_P50: quantiles[0],
        names.GAP_P99: quantiles[1],
        names.GAP_MAX: chunk_timing.gap_max / 1e9,
        names.STALL_COUNT: count,
    }
    if count:
        attributes[names.STALL_DURATION] = duration
    return attributes
