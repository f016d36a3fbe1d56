"""Phases: what the route's earlier calls say of this one, the split of its time, and what it teaches in turn."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llmtrace.calls.reading import of_params
from llmtrace.calls.services import Services
from llmtrace.calls.state import CallState
from llmtrace.estimate.hits import NOTHING_TOLD, Told
from llmtrace.estimate.losses import Loss, loss
from llmtrace.estimate.prefixes import CACHE_IF_ASKED, least_cached
from llmtrace.estimate.sample import Sample, sample_of
from llmtrace.observe.answer import Answer
from llmtrace.observe.call import Call
from llmtrace.phases.merged import WHOLE_ANSWER
from llmtrace.phases.model import QUEUE, Estimate, Phase, Unknown
from llmtrace.phases.observation import Observation
from llmtrace.phases.server import STEP_APART
from llmtrace.phases.timeline import split
from llmtrace.providers.prompt import prompt_texts, tool_definition


@dataclass(slots=True, eq=False, repr=False)
class Split:
    """The phases of one call, and what was learned beside them."""

    phases: list[Phase]
    complaint: str | None
    """Why server timings that were there were not used."""
    estimate: Estimate | None
    expected_cached: int | None
    hit: Told
    lost: Loss | None = None


def split_call(services: Services, call: Call, state: CallState, answer: Answer, seen: Observation) -> Split:
    """The phases of an ended call; it is then part of its route's history."""
    estimate = None
    if not seen.computed:
        if state.in_flight is not None:
            services.baselines.drop(state.route, state.in_flight)
            state.in_flight = None
        phases, complaint = split(seen, None)
        return Split(phases, complaint, None, None, NOTHING_TOLD)
    if state.in_flight is not None:
        sample = _sample(services, call, state, answer, seen)
        engine = state.endpoint.provider if seen.server is None else seen.server.engine
        upstream = None if answer.hop is None else answer.hop.who
        estimate = services.baselines.end(
            state.route, state.in_flight, seen.end, sample, engine in STEP_APART, upstream
        )
    phases, complaint = split(seen, estimate)
    for phase in phases:
        if phase.name == QUEUE and phase.blind is not None and isinstance(estimate, Estimate):
            services.baselines.graded(state.route, phase.blind.error, *estimate.queue_sides())
    expected, lost = _expected_cached(services, call, state, answer)
    made = estimate if isinstance(estimate, Estimate) else None
    return Split(phases, complaint, made, expected, _cache_hit(services, state, seen), lost)


def _sample(services: Services, call: Call, state: CallState, answer: Answer, seen: Observation) -> Sample | Unknown:
    """The call as the estimate takes it in: without what the engine says of its own phases, so that this grades it."""
    usage, server = seen.usage, seen.server
    if answer.cached_by_timings and usage is not None:
        seen.usage = replace(usage, cached_tokens=None)
    if server is not None and (server.queue is not None or server.prefill is not None):
        seen.server = None
    baselines = services.baselines
    try:
        tokens = baselines.tokens(
            state.route,
            state.prompt,
            state.endpoint.provider,
            seen.usage or answer.usage,
            0 if call.answer else seen.chunks,
        )
        sample = sample_of(seen, call.first_chunk, tokens, state.media)
    finally:
        seen.usage, seen.server = usage, server
    if isinstance(sample, Sample) and sample.whole and state.request.choices != 1:
        return WHOLE_ANSWER  # several answers, made side by side, and their tokens told in all
    if answer.usage.input_tokens is None and baselines.wants_text(state.route, state.request.model):
        baselines.take_text(state.route, state.request.model, of_params(state.request, prompt_texts, tool_definition))
    return sample


def _expected_cached(
    services: Services, call: Call, state: CallState, answer: Answer
) -> tuple[int | None, Loss | None]:
    """Prompt tokens that the history says should have come from the cache, and those that might have and did not; then
    this prompt is history too."""
    prompt, usage, provider = state.prompt, answer.usage, state.endpoint.provider
    if prompt is None or (call.first_token is None and call.answer is None):
        return None, None
    expected = lost = None
    who = answer.model, answer.fingerprint, None if answer.hop is None else answer.hop.who
    if usage.input_tokens:
        known = services.baselines.cached(state.route, prompt, provider, usage.input_tokens, usage.cached_tokens)
        expected = known.tokens
        wanted = provider not in CACHE_IF_ASKED or prompt.explicit
        if usage.cached_tokens is not None and prompt.lineage is not None and wanted:
            tokens = usage.input_tokens, usage.cached_tokens
            lost = loss(prompt.lineage, prompt.size, known, who, *tokens, least_cached(provider))
    services.prefixes.computed(prompt, (call.first_token or call.end or call.start) / 1e9, who)
    return expected, lost


def _cache_hit(services: Services, state: CallState, seen: Observation) -> Told:
    """Whether a repeated beginning was cached, judged from the time to the first token; then that is learned from.

    Only where the provider counts no cached tokens, and once the route's curve says what a prompt costs.
    """
    prompt, usage, first = state.prompt, seen.usage, seen.first_token
    if prompt is None or first is None or not seen.streaming or seen.first_token_error is not None:
        return NOTHING_TOLD
    if usage is None or not usage.input_tokens or usage.cached_tokens is not None:
        return NOTHING_TOLD
    curve = services.baselines.curve(state.route)
    if curve is None:
        return NOTHING_TOLD
    began = seen.request_arrived if seen.request_arrived is not None else seen.start
    pace = (first - began) / 1e9 / max(curve.cost(usage.input_tokens), 1e-6)
    return services.hits.judge(state.route, pace, prompt.prefix)
