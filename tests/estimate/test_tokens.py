"""Tokens that nobody counted: from the prompt's characters, the stream's chunks, the history of prompts."""

from __future__ import annotations

import pytest

from llmtrace.estimate.baselines import Baselines
from llmtrace.estimate.prefixes import Prefixes, Prompt
from llmtrace.estimate.tokens import PER_CHAR, loaded_tokenizer
from llmtrace.observe.answer import Usage

KEY = ("somebody", "host", 1, "model", "/chat")


def prompt(size: int) -> Prompt:
    return Prompt([], size)


def test_what_usage_tells_is_taken_as_it_is() -> None:
    tokens = Baselines(background=False).tokens(KEY, prompt(400), "openai", Usage(1000, 50, 300), 7)
    assert tokens is not None
    assert (tokens.uncached, tokens.cached, tokens.output) == (700, 300, 50)


def test_without_usage_the_characters_and_chunks_tell() -> None:
    known = Baselines(background=False)
    tokens = known.tokens(KEY, prompt(4000), "openai", Usage(), 33)
    assert tokens is not None
    assert (tokens.uncached, tokens.cached, tokens.output) == (4000 * PER_CHAR, 0, 33)


def test_a_route_learns_its_own_ratio_and_a_new_route_takes_its_providers() -> None:
    known = Baselines(background=False)
    for _ in range(5):
        known.tokens(KEY, prompt(1000), "openai", Usage(500, 60), 20)
    for key in (KEY, ("another", *KEY[1:])):
        tokens = known.tokens(key, prompt(3000), "openai", Usage(), 10)
        assert tokens is not None
        assert (tokens.uncached, tokens.output) == (1500, 30)
    elsewhere = known.tokens(KEY[:-1], prompt(3000), "somebody else", Usage(), 10)
    assert elsewhere is not None
    assert elsewhere.uncached == 3000 * PER_CHAR


def test_cached_tokens_that_nobody_tells_come_from_the_history_of_prompts() -> None:
    known, prefixes = Baselines(background=False), Prefixes()
    text = "A long beginning. " * 200
    first = prefixes.look(KEY, [text], 1.0)
    prefixes.computed(first, 2.0)
    again = prefixes.look(KEY, [text, "And something new."], 3.0)
    tokens = known.tokens(KEY, again, "vllm", Usage(), 10)
    told = known.tokens(KEY, again, "vllm", Usage(input_tokens=900, cached_tokens=0), 10)
    assert tokens is not None
    assert tokens.cached == pytest.approx(0.25 * len(text), abs=80)
    assert told is not None
    assert told.cached == 0, "who counts none is believed"


def test_without_usage_or_a_prompt_nothing_is_known() -> None:
    assert Baselines(background=False).tokens(KEY, None, "openai", Usage(None, 5), 3) is None
    assert Baselines(background=False).tokens(KEY, prompt(0), "openai", Usage(), 3) is None


def test_a_tokenizer_tells_the_ratio_where_no_usage_does() -> None:
    known = Baselines(background=False, tokenizer=lambda text: len(text) // 2)
    assert known.wants_text(KEY, None)
    known.take_text(KEY, None, ["a" * 100, "b" * 99])
    route = known.route(KEY)
    assert route is not None
    assert not known.wants_text(KEY, None), "one at a time"
    known._fit(KEY)
    assert route.ratios.text is None, "the text is let go of"
    tokens = known.tokens(KEY, prompt(3000), "openai", Usage(), 10)
    assert tokens is not None
    assert tokens.uncached == pytest.approx(1500, rel=0.02)


def test_a_tokenizer_that_fails_changes_nothing() -> None:
    known = Baselines(background=False, tokenizer=lambda text: len(text) // 0)
    assert known.wants_text(KEY, None)
    known.take_text(KEY, None, ["a" * 100])
    known._fit(KEY)
    tokens = known.tokens(KEY, prompt(3000), "openai", Usage(), 10)
    assert tokens is not None
    assert tokens.uncached == 3000 * PER_CHAR


def test_tiktoken_is_used_only_where_the_application_has_loaded_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    registry = pytest.importorskip("tiktoken.registry")
    monkeypatch.setattr(registry, "ENCODINGS", {})
    assert loaded_tokenizer("gpt-4o") is None
    byte_by_byte = tiktoken.Encoding(
        "bytes", pat_str=".", mergeable_ranks={bytes([value]): value for value in range(256)}, special_tokens={}
    )
    monkeypatch.setattr(registry, "ENCODINGS", {"bytes": byte_by_byte})
    counter = loaded_tokenizer("a model of somebody else's")
    assert counter is not None
    assert counter("twelve chars") == 12
