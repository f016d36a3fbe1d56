"""Prices of tokens, from genai-prices: USD per token for each provider and model that answered.

Prices that rise with a call's length are taken at a short call's; whoever uses them says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

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


@dataclass(frozen=True, slots=True)
class Price:
    """The prices of one model, in USD per token."""

    input: float
    cached: float
    written: float
    output: float

    def of(self, usage: Usage) -> float:
        """The cost of ``usage`` in USD. Cached and cache-writing tokens are part of the input tokens."""
        cached, written = usage.cached_tokens or 0, usage.cache_write_tokens or 0
        fresh = max(0, (usage.input_tokens or 0) - cached - written)
        return (
            fresh * self.input
            + cached * self.cached
            + written * self.written
            + (usage.output_tokens or 0) * self.output
        )


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
            fresh = per_token(candidate, input_tokens=_UNIT)
            return Price(
                input=fresh,
                cached=per_token(candidate, input_tokens=_UNIT, cache_read_tokens=_UNIT),
                written=per_token(candidate, input_tokens=_UNIT, cache_write_tokens=_UNIT),
                output=per_token(candidate, output_tokens=_UNIT),
            )
        except (LookupError, ValueError):
            continue
    return None


Priced = tuple[str, str, Price | None]
"""Provider, model, and the model's prices."""


def priced(pairs: Iterable[tuple[str | None, str | None]]) -> list[Priced]:
    """The price of each (provider, model); None where it is not known."""
    return [(provider or "", model or "", price(provider, model)) for provider, model in pairs]
