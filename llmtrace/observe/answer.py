"""What is known of one call once it has ended: plain data, no OpenTelemetry, no provider."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class ServerTimings:
    """What the engine or provider said about its own phases. Durations in seconds, None where it said nothing.

    The reader of each engine's fields has already converted units and untangled intervals (two engines use one word
    for two different spans of time); it has not judged plausibility, which is the timeline's work.
    """

    engine: str
    """Whose fields these were: ``groq``, ``vllm``, ``llama.cpp``, ..."""
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
    device: bool = False
    """The phases were timed on the accelerator itself (the reference runner on CUDA)."""


@dataclass(slots=True)
class Usage:
    """Token counts as the GenAI conventions define them: input includes cached, output includes reasoning."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    input_by_modality: Mapping[str, int] | None = None
    """Of the input tokens, how many are ``text``, ``image``, ``audio``; as far as the provider tells."""
    output_by_modality: Mapping[str, int] | None = None
    """The same of the output tokens."""
    cached_by_modality: Mapping[str, int] | None = None
    """The same of the cached tokens."""


@dataclass(frozen=True, slots=True)
class ToldAttempt:
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

    @property
    def who(self) -> str | None:
        """Who answered, in one word for the diagnosis; None where that is not told."""
        parts = [part for part in (self.upstream, self.deployment) if part]
        return " ".join(parts) or None


@dataclass(slots=True, eq=False, repr=False)
class Answer:
    """What a response (or a stream's kept chunks) said about itself."""

    id: str | None = None
    model: str | None = None
    finish_reasons: tuple[str, ...] = ()
    """Why each choice ended, of those that did."""
    ended: tuple[int, ...] = ()
    """Which choices these are, counted from 0; empty: the first ones."""
    usage: Usage = field(default_factory=Usage)
    fingerprint: str | None = None
    service_tier: str | None = None
    provider: str | None = None
    """``gen_ai.provider.name`` where only the answer says it."""
    timings: ServerTimings | None = None
    hop: Hop | None = None
    """What a gateway said of the way."""
    failed: str | None = None
    """The provider's name for what failed, where the answer itself says that it failed (and nothing was raised)."""
    extra: Mapping[str, Any] | None = None
    """Further span attributes, by name."""
