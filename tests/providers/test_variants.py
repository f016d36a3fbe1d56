"""What in a request changes how long its prompt takes."""

from __future__ import annotations

from typing import Any

import pytest

from llmtrace.providers.variants import media, variant

DATA = "data:image/png;base64," + "A" * 1000


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": DATA}}]}]},
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": DATA}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "base64", "data": DATA}}]}]},
        {"contents": [{"role": "user", "parts": [{"inline_data": {"mime_type": "image/png", "data": DATA}}]}]},
        {"messages": [{"role": "user", "content": "What is this?", "images": [DATA]}]},
    ],
)
def test_an_image_is_counted_and_is_no_text(body: dict[str, Any]) -> None:
    assert media(body) == (1, len(DATA))


def test_text_is_no_image() -> None:
    parts = [{"type": "text", "text": "an image"}]
    assert media({"messages": [{"role": "user", "content": parts}, {"role": "user", "content": "image"}]}) == (0, 0)
    for odd in (
        {},
        {"messages": None},
        {"messages": [None, 3]},
        {"input": "text"},
        {"messages": [{"content": [None]}]},
    ):
        assert media(odd) == (0, 0)


def test_of_a_prompt_that_goes_on_only_the_last_message_is_computed() -> None:
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": DATA}}]}
    body = {"messages": [image, {"role": "assistant", "content": "A cat."}, {"role": "user", "content": "Which?"}]}
    assert media(body, last_only=True) == (0, len(DATA))
    assert media(body) == (1, len(DATA))


def test_a_plain_call_has_no_variant() -> None:
    assert variant({"messages": [], "service_tier": "auto", "response_format": {"type": "text"}, "tools": []}) == ()


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"service_tier": "flex"}, ("tier=flex",)),
        ({"reasoning_effort": "high"}, ("effort=high",)),
        ({"reasoning": {"effort": "low"}}, ("effort=low",)),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, ("effort=enabled",)),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, ("format=json_schema",)),
        ({"text": {"format": {"type": "json_object"}}}, ("format=json_object",)),
        ({"tools": [{"type": "function"}]}, ("tools",)),
        ({"adapter_id": "mine"}, ("adapter=mine",)),
    ],
)
def test_what_makes_it_another_kind_of_call(body: dict[str, Any], told: tuple[str, ...]) -> None:
    assert variant(body) == told
