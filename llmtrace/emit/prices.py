"""Prices of tokens, from genai-prices: USD per token for each provider and model that answered.

Prices that rise with a call's length are taken at a short call's; whoever uses them says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from llmtrace.observe.facts import Usage

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
    """USD per token."""

    input: float
    cached: float
    written: float
    output: float

    def of(self, usage: Usage) -> float:
        """USD for so many tokens. Cached and cache-writing ones are part of the input."""
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
    """What a token costs; None where genai-prices does not know the model.

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


Row = tuple[str, str, float | None, float | None, float | None, float | None]


def rows(pairs: Iterable[tuple[str | None, str | None]]) -> list[Row]:
    """(provider, model, input, cached, written, output) of each pair; unknown prices are None."""
    found: list[Row] = []
    for provider, model in pairs:
        known = price(provider, model)
        if known is None:
            found.append((provider or "", model or "", None, None, None, None))
        else:
            found.append((provider or "", model or "", known.input, known.cached, known.written, known.output))
    return found
