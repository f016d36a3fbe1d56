"""What readers say of a phase that an engine told and the blind estimate was made of too."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmtrace.view import about
from llmtrace.view.serve.traces import _in_words

SAID = {
    "llmtrace.phase.source": "server",
    "llmtrace.estimate.duration": 0.12,
    "llmtrace.estimate.error": -0.013,
    "llmtrace.estimate.uncertainty": 0.04,
}
SIDES = {"llmtrace.estimate.uncertainty.low": 0.12, "llmtrace.estimate.uncertainty.high": 0.3}
SENTENCE = "the blind estimate said 120 ms ±40.0 ms, the server 133 ms"


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        (SAID, SENTENCE),
        (SAID | SIDES, "the blind estimate said 120 ms -120/+300 ms, the server 133 ms"),
        (SAID | {"llmtrace.phase.source": "device"}, SENTENCE.replace("server", "accelerator")),
        (SAID | {"llmtrace.estimate.error": 0.2}, "the blind estimate said 120 ms ±40.0 ms, the server 0 s"),
        (SAID | {"llmtrace.estimate.error": "much"}, None),
        ({"llmtrace.phase.source": "server"}, None),
    ],
)
def test_the_sentence(told: dict[str, Any], sentence: str | None) -> None:
    assert about.blind(told) == sentence
    assert _in_words(json.dumps(told)) == ({} if sentence is None else {"blind": sentence})


def test_a_span_whose_text_only_mentions_it_has_no_sentence() -> None:
    assert _in_words(json.dumps({"gen_ai.input.messages": "what is llmtrace.phase.merged_because?"})) == {}
    assert _in_words("") == {}


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        (
            {"llmtrace.kv_cache.lost_tokens": 1390, "llmtrace.kv_cache.lost_because": "evicted"},
            "1,390 more tokens might have come from the cache: evicted early, or sent elsewhere",
        ),
        (
            {
                "llmtrace.kv_cache.lost_tokens": 90,
                "llmtrace.kv_cache.lost_because": "prefix_changed",
                "llmtrace.kv_cache.changed_at": "messages[0]",
            },
            "90 more tokens might have come from the cache: the prompt's beginning changed, in messages[0]",
        ),
        ({"llmtrace.kv_cache.lost_tokens": 90}, None),
        ({"llmtrace.kv_cache.lost_tokens": "x", "llmtrace.kv_cache.lost_because": "idle"}, None),
    ],
)
def test_what_the_cache_might_have_given(told: dict[str, Any], sentence: str | None) -> None:
    assert about.lost(told) == sentence
    assert _in_words(json.dumps(told)) == ({} if sentence is None else {"lost": sentence})
