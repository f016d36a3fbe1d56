"""Times between tokens, of real clients' chunks."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import Tracing
from tests.support import replay as play
from tests.support.apis import Sync
from tests.support.clock import Clock
from tests.support.paced import pace
from tests.support.replay import Replay, openai_stream
from tests.support.spans import Spans, attributes

WORDS = [" four tokens in here,", " as many in this"] * 20


@pytest.fixture
def make_api(make_api: Any, clock: Clock) -> Any:
    """Clients to whom each chunk comes 3 ms after it is asked for, however busy the machine is."""

    def make(kind: str, **settings: Any) -> Sync:
        made = make_api(kind, **settings)
        pace(made, clock, [0.003] * 99)
        return made

    return make


def decoded(spans: Spans) -> dict[str, Any]:
    return attributes(spans.phases(spans.one("completed"))["decode"])


def usage(output: int) -> dict[str, Any]:
    return {"prompt_tokens": 40, "completion_tokens": output, "total_tokens": 40 + output}


@pytest.mark.usefixtures("traced")
def test_usage_says_one_token_a_chunk(api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(openai_stream(["word"] * 40, usage=usage(41)))
    api.drain(api.stream())
    found = decoded(spans)
    assert found["llmtrace.decode.itl.basis"] == "chunks"
    assert found["llmtrace.decode.tokens_per_chunk"] == 1.0
    assert found["llmtrace.decode.itl.p50"] == found["llmtrace.decode.chunk_gap.p50"]
    assert len(found) <= 25


@pytest.mark.usefixtures("traced")
def test_usage_says_several(api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(openai_stream(WORDS[:16], usage=usage(64)))
    api.drain(api.stream())
    found = decoded(spans)
    assert found["llmtrace.decode.itl.basis"] == "usage"
    assert found["llmtrace.decode.tokens_per_chunk"] == 4.0
    assert 0 < found["llmtrace.decode.itl.p50"] < found["llmtrace.decode.chunk_gap.max"] / 2


@pytest.mark.usefixtures("traced")
def test_the_wait_for_the_first_token_is_no_gap_of_decode(
    api: Sync, replay: Replay, spans: Spans, clock: Clock
) -> None:
    pace(api, clock, [0.003, 0.4, *[0.003] * 12])  # a role, and the first word
    replay.play(play.events_script(*play.openai_chunks(["word"] * 10, usage(10))))
    api.drain(api.stream())
    found = decoded(spans)
    assert found["llmtrace.decode.chunk_gap.max"] == pytest.approx(0.003, abs=0.001)
    assert found["llmtrace.decode.stall.count"] == 0


@pytest.mark.usefixtures("traced")
def test_log_probabilities_list_the_tokens(api: Sync, replay: Replay, spans: Spans) -> None:
    chunks = play.openai_chunks(WORDS[:8])
    for chunk in chunks[1:-1]:
        listed = [{"token": "a", "logprob": -0.1, "bytes": None, "top_logprobs": []}] * 4
        chunk["choices"][0]["logprobs"] = {"content": listed, "refusal": None}
    replay.play(play.events_script(*chunks))
    api.drain(api.stream(logprobs=True))
    found = decoded(spans)
    assert found["llmtrace.decode.itl.basis"] == "logprobs"
    assert found["llmtrace.decode.tokens_per_chunk"] == 4.0


def test_a_tokenizer_of_the_users(tracing: Tracing, api: Sync, replay: Replay, spans: Spans) -> None:
    seen: list[str] = []

    def tokenizer(text: str) -> int:
        seen.append(text)
        return len(text.split())

    tracing.on(tokenizer=tokenizer)
    replay.play(openai_stream(WORDS))
    api.drain(api.stream())
    found = decoded(spans)
    assert found["llmtrace.decode.itl.basis"] == "tokenizer"
    assert found["llmtrace.decode.tokens_per_chunk"] == pytest.approx(4.0)
    assert seen[-1] in "".join(WORDS)


@pytest.mark.usefixtures("swallowed")
def test_a_tokenizer_that_fails(tracing: Tracing, api: Sync, replay: Replay, spans: Spans) -> None:
    def tokenizer(text: str) -> int:
        raise RuntimeError("no vocabulary")

    tracing.on(tokenizer=tokenizer)
    replay.play(openai_stream(WORDS, usage=usage(160)))
    assert len(api.drain(api.stream())) == len(WORDS) + 3
    found = decoded(spans)
    assert "llmtrace.decode.itl.basis" not in found
    assert found["llmtrace.decode.chunk_gap.p50"] > 0


@pytest.mark.usefixtures("traced")
def test_without_usage_there_are_gaps_and_no_more(api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(openai_stream(["word"] * 40))
    api.drain(api.stream())
    found = decoded(spans)
    assert found["llmtrace.decode.chunk_gap.p50"] > 0
    assert not [name for name in found if ".itl." in name]


@pytest.mark.usefixtures("traced")
def test_of_several_choices_gaps_are_no_ones(api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(openai_stream(["word"] * 20, usage=usage(40), n=2))
    api.drain(api.stream(n=2))
    assert not [name for name in decoded(spans) if ".itl." in name]
