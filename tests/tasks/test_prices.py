"""What a call's tokens cost: as the price list itself reckons it, audio and images with prices of their own."""

from __future__ import annotations

import pytest

from llmtrace.observe.answer import Usage
from llmtrace.tasks.prices import Price, price


def known(model: str) -> Price:
    found = price("openai", model)
    assert found is not None
    return found


@pytest.mark.parametrize("kind", ["audio", "image"])
@pytest.mark.parametrize("model", ["gpt-realtime", "gpt-4o-mini"])
def test_each_kind_of_token_is_priced_as_in_the_list(model: str, kind: str) -> None:
    from genai_prices import Usage as Tokens
    from genai_prices import calc_price

    usage = Usage(
        input_tokens=900,
        cached_tokens=300,
        output_tokens=500,
        input_by_modality={"text": 400, kind: 500},
        cached_by_modality={"text": 100, kind: 200},
        output_by_modality={"text": 100, kind: 400},
    )
    counts = {"input_tokens": 900, "cache_read_tokens": 300, "output_tokens": 500}
    counts |= {f"input_{kind}_tokens": 500, f"cache_{kind}_read_tokens": 200, f"output_{kind}_tokens": 400}
    theirs = calc_price(Tokens(**counts), model_ref=model, provider_id="openai").total_price
    assert known(model).of(usage) == pytest.approx(float(theirs))


def test_sound_costs_more_than_as_many_tokens_of_text() -> None:
    spoken = Usage(input_tokens=1000, output_tokens=0, input_by_modality={"audio": 1000})
    assert known("gpt-realtime").of(spoken) > 2 * known("gpt-realtime").of(Usage(input_tokens=1000, output_tokens=0))


def test_cached_tokens_that_nobody_divides_are_never_priced_twice() -> None:
    spoken = Usage(input_tokens=1000, cached_tokens=800, output_tokens=0, input_by_modality={"audio": 1000})
    realtime = known("gpt-realtime")
    audio = realtime.input + realtime.dearer["audio"].input
    assert realtime.of(spoken) == pytest.approx(200 * audio + 800 * realtime.cached)


@pytest.mark.parametrize(
    ("provider", "named", "bare"),
    [
        ("openai", "openai/gpt-image-1", "gpt-image-1"),
        ("azure.ai.openai", "azure/gpt-4o", "gpt-4o"),
        ("gcp.gemini", "gemini/gemini-2.5-flash", "gemini-2.5-flash"),
        ("gcp.vertex_ai", "vertex_ai/gemini-2.5-flash", "gemini-2.5-flash"),
        ("mistral_ai", "mistral/mistral-large-latest", "mistral-large-latest"),
    ],
)
def test_a_name_that_begins_with_the_provider_s(provider: str, named: str, bare: str) -> None:
    assert price(provider, named) == price(provider, bare) is not None


@pytest.mark.parametrize("named", ["meta/gpt-4o", "/gpt-4o", "openai/", "open/gpt-4o"])
def test_a_name_that_begins_otherwise_is_another_model(named: str) -> None:
    assert price("openai", named) is None
