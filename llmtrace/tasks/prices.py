"""Prices of tokens, from genai-prices: USD per token for each provider and model that answered.

Prices that rise with a call's length are taken at a short call's; whoever uses them says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial

from llmtrace.observe.answer import Usage

_ALIASES = {
    "aws.bedrock": "aws",
    "azure.ai.openai": "azure",
    "azure.ai.inference": "azure",
    "gcp.gemini": "google",
    "gcp.vertex_ai": "google",
    "gcp.gen_ai": "google",
    "mistral_ai": "mistral",
    "x_ai": "x-ai",
    "moonshot_ai": "moonshotai",
}
"""The GenAI conventions' provider names, where genai-prices has another."""
_UNIT = 1000
MODALITIES = ("audio", "image")
"""Kinds of tokens that may have prices of their own."""


@dataclass(frozen=True, slots=True)
class Dearer:
    """What tokens of another kind cost more than those of text (less, if negative), in USD per token."""

    input: float = 0.0
    cached: float = 0.0
    output: float = 0.0


@dataclass(frozen=True, slots=True)
class Price:
    """The prices of one model, in USD per token."""

    input: float
    cached: float
    written: float
    output: float
    dearer: Mapping[str, Dearer] = field(default_factory=dict[str, Dearer], hash=False)
    """By modality; none of those whose tokens cost what text does."""

    def of(self, usage: Usage) -> float:
        """The cost of ``usage`` in USD. Cached and cache-writing tokens are part of the input tokens, and those of each
        modality part of all."""
        cached, written = usage.cached_tokens or 0, usage.cache_write_tokens or 0
        fresh = max(0, (usage.input_tokens or 0) - cached - written)
        return (
            fresh * self.input
            + cached * self.cached
            + written * self.written
            + (usage.output_tokens or 0) * self.output
            + sum(self._more(modality, more, usage, fresh) for modality, more in self.dearer.items())
        )

    @staticmethod
    def _more(modality: str, more: Dearer, usage: Usage, fresh: int) -> float:
        """What the tokens of one modality cost beside the price of text. Where nobody says which tokens were cached,
        those of text were."""
        read, cached, written = (
            (counts or {}).get(modality, 0)
            for counts in (usage.input_by_modality, usage.cached_by_modality, usage.output_by_modality)
        )
        return min(fresh, max(0, read - cached)) * more.input + cached * more.cached + written * more.output


@lru_cache(4096)
def price(provider: str | None, model: str | None) -> Price | None:
    """The prices of ``model``; None where genai-prices does not know it.

    Raises:
        ImportError: genai-prices is not installed.
    """
    from genai_prices import Usage as Tokens
    from genai_prices import calc_price

    if not model:
        return None

    def per_token(provider_id: str | None, **tokens: int) -> float:
        return float(calc_price(Tokens(**tokens), model_ref=model, provider_id=provider_id).total_price) / _UNIT

    for candidate in dict.fromkeys((_ALIASES.get(provider or "", provider), None)):
        try:
            read = {"input_tokens": _UNIT}
            text = Price(
                input=per_token(candidate, **read),
                cached=per_token(candidate, **read, cache_read_tokens=_UNIT),
                written=per_token(candidate, **read, cache_write_tokens=_UNIT),
                output=per_token(candidate, output_tokens=_UNIT),
            )
        except (LookupError, ValueError):
            continue
        return replace(text, dearer=_dearer(text, partial(per_token, candidate)))
    named, _, bare = model.partition("/")
    # LiteLLM's names begin with the provider's: openai/gpt-image-1, gemini/..., vertex_ai/...
    is_its_own = named and bare and re.search(rf"(^|[._]){re.escape(named)}($|[._])", provider or "")
    return price(provider, bare) if is_its_own else None


def _dearer(text: Price, per_token: Callable[..., float]) -> dict[str, Dearer]:
    """What each modality costs beside text's prices, where the price list has prices for it."""
    dearer: dict[str, Dearer] = {}
    for kind in MODALITIES:
        read = {"input_tokens": _UNIT, f"input_{kind}_tokens": _UNIT}
        cached = {**read, "cache_read_tokens": _UNIT, f"cache_{kind}_read_tokens": _UNIT}
        with suppress(TypeError, ValueError):  # an older list that has no such tokens
            more = Dearer(
                per_token(**read) - text.input,
                per_token(**cached) - text.cached,
                per_token(output_tokens=_UNIT, **{f"output_{kind}_tokens": _UNIT}) - text.output,
            )
            if more != Dearer():
                dearer[kind] = more
    return dearer


Priced = tuple[str, str, Price | None]
"""Provider, model, and the model's prices."""


def priced(pairs: Iterable[tuple[str | None, str | None]]) -> list[Priced]:
    """The price of each (provider, model); None where it is not known."""
    return [(provider or "", model or "", price(provider, model)) for provider, model in pairs]
