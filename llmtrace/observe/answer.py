"""The answer of one call, its token counts and its server timings: plain data, no OpenTelemetry, no provider."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


@dataclass(slots=True)
class ServerTimings:
    """The durations that the engine or provider reported of its own phases, in seconds; None where it reported none.

    The reader of each engine's fields has already converted units and untangled intervals (two engines use one word
    for two different spans of time); it has not judged plausibility, which is the timeline's work.
    """

    engine: str
    """The engine or provider whose fields these were: ``groq``, ``vllm``, ``llama.cpp``, ..."""
    queue: float | None = None
    """Accepted until scheduled."""
    kv_cache_hit: float | None = None
    """Finding and copying the cached prefix; only where the engine times it apart from prefill."""
    prefill: float | None = None
    """Scheduled (or: prefix in place) until the first token."""
    decode: float | None = None
    """First token until the last."""
    ttft: float | None = None
    """Arrival until the first token, queue included; where queue and prefill are not told apart."""
    total: float | None = None
    """Arrival until the last token."""
    cached_tokens: int | None = None
    """Prompt tokens served from the prefix cache, where this is told beside the timings."""
    model_load: float | None = None
    """Having the model ready, loading included where it was not loaded; a part of the queue."""
    grammar_compile: float | None = None
    """Compiling the grammar that the answer is held to: before the first token, and a part of the queue."""
    grammar_mask: float | None = None
    """Working out which tokens may come next, over the whole answer; a part of prefill and decode."""
    device: bool = False
    """Whether the phases were timed on the accelerator itself (the reference runner on CUDA)."""


@dataclass(slots=True)
class Usage:
    """Token counts as the GenAI conventions define them: input includes cached, output includes reasoning."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    summary_tokens: int | None = None
    """Of the output tokens, those with which the provider summed the history up before it answered (compaction)."""
    input_by_modality: Mapping[str, int] | None = None
    """Of the input tokens, how many are ``text``, ``image``, ``audio``; as far as the provider tells."""
    output_by_modality: Mapping[str, int] | None = None
    """The output tokens by modality, as far as the provider tells."""
    cached_by_modality: Mapping[str, int] | None = None
    """The cached tokens by modality, as far as the provider tells."""


class ToldAttempt(NamedTuple):
    """An attempt of a gateway's own that came to nothing, as far as the gateway tells of it."""

    upstream: str | None = None
    model: str | None = None
    status: int | None = None


@dataclass(slots=True, eq=False, repr=False)
class Hop:
    """What a gateway between client and engine said of the call's way. Durations in seconds."""

    gateway: str | None
    """Its name: ``litellm``, ``openrouter``, ...; None: only the answer's price is told."""
    upstream: str | None = None
    """Who answered: a provider's name, or a host."""
    deployment: str | None = None
    region: str | None = None
    model: str | None = None
    """The model that the upstream was asked for."""
    spent: float | None = None
    """The gateway's own time."""
    retries: int | None = None
    fallbacks: int | None = None
    attempts: tuple[ToldAttempt, ...] = ()
    """Those before the one that answered."""
    cached: bool = False
    """The answer came from the gateway's own cache: no engine computed anything for this call."""
    cost: float | None = None
    """USD, as told."""
    chooses: bool = False
    """The gateway chooses the model: which one answered is its choice, and no other one than was asked for."""

    @property
    def who(self) -> str | None:
        """Who answered, in one word for the diagnosis; the model where nothing else is told; None where that is not."""
        parts = [part for part in (self.upstream, self.deployment) if part]
        return " ".join(parts) or self.model


class Speculation(NamedTuple):
    """Tokens that a draft proposed and that the model took over, as the engine counts them."""

    drafted: int
    accepted: int
    steps: int | None
    """The engine's steps that these are spread over."""

    @property
    def accepted_per_step(self) -> float | None:
        """Draft tokens taken over a step; the step's own token is not among them."""
        return None if self.steps is None else self.accepted / self.steps


@dataclass(slots=True, eq=False, repr=False)
class Answer:
    """The facts in a response, or in a stream's kept chunks."""

    id: str | None = None
    model: str | None = None
    finish_reasons: tuple[str, ...] = ()
    """The finish reason of each choice that ended."""
    ended: tuple[int, ...] = ()
    """The indexes of these choices, counted from 0; empty: they are the first ones."""
    usage: Usage = field(default_factory=Usage)
    fingerprint: str | None = None
    service_tier: str | None = None
    provider: str | None = None
    """``gen_ai.provider.name`` where only the answer says it."""
    timings: ServerTimings | None = None
    processing_time: float | None = None
    """What a header says that the provider spent until it sent it, s: an upper bound at most, never a phase."""
    cached_by_timings: bool = False
    """How many prompt tokens were cached is told among the engine's timings alone."""
    speculation: Speculation | None = None
    queue_depth: int | None = None
    """Requests that waited in the server's queue when this one came, as the server says."""
    cached_by_tier: Mapping[str, int] | None = None
    """The cached tokens by where they lay: ``device``, ``host``, ``storage``."""
    cache_miss: str | None = None
    """Why the provider's prompt cache missed, in its own word."""
    cache_missed_tokens: int | None = None
    hop: Hop | None = None
    """What a gateway said of the way."""
    failed: str | None = None
    """The provider's name for the error, where the answer itself says that it failed and nothing was raised."""
    extra: Mapping[str, Any] | None = None
    """Further span attributes, by name."""
