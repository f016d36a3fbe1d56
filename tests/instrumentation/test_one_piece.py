"""Answers in one token-bearing chunk: their route is diagnosed as every other, and no detector takes another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support import replay as play
from tests.support.spans import attributes

if TYPE_CHECKING:
    import openai

    from tests.support.replay import Replay
    from tests.support.spans import Spans

pytestmark = pytest.mark.usefixtures("traced")
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at": "' + "x" * 200 + '"}'}}


def piece(kind: str, model: str = "gpt-4o-mini") -> play.Script:
    delta = {"content": "word " * 40} if kind == "text" else {"content": None, "tool_calls": [{"index": 0} | CALL]}
    usage = play.USAGE | {"completion_tokens": 60}
    return play.events_script(play.chunk(delta, finish="stop", model=model, usage=usage))


def words(model: str = "gpt-4o-mini") -> play.Script:
    chunks = [chunk | {"model": model} for chunk in play.openai_chunks(["a "] * 30, play.USAGE)]
    return play.events_script(*chunks, itl=0.002)


def ask(client: openai.OpenAI) -> None:
    asked: Any = [{"role": "user", "content": "hello"}]
    options: Any = {"include_usage": True}
    with client.chat.completions.create(
        model="gpt-4o-mini", messages=asked, stream=True, stream_options=options
    ) as stream:
        for _ in stream:
            pass


@pytest.mark.parametrize("kind", ["text", "tool call"])
def test_a_route_of_answers_in_one_piece(kind: str, client: openai.OpenAI, replay: Replay, spans: Spans) -> None:
    replay.serve(piece(kind))
    for _ in range(12):
        ask(client)
    replay.serve(words())
    for _ in range(30):
        ask(client)
    replay.serve(piece(kind, "gpt-3.5-turbo-0125"))
    ask(client)  # and nothing of ours failed on the way, which every test's end holds
    assert "model_swap" in attributes(spans.parents()[-1])["llmtrace.diagnosis"]
    assert not [
        each for each in spans.parents()[:-1] if "noisy_neighbor" in attributes(each).get("llmtrace.diagnosis", ())
    ]


@pytest.mark.usefixtures("swallowed")
@pytest.mark.parametrize("fails", ["pace", "network", "wait", "buffered_stream", "slow_consumer"])
def test_a_detector_that_fails_takes_no_other(
    fails: str, client: openai.OpenAI, replay: Replay, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmtrace.diagnosis import judge

    def failing(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(judge, fails, failing)
    replay.serve(words("gpt-3.5-turbo-0125"))
    ask(client)
    assert "model_swap" in attributes(spans.parents()[-1])["llmtrace.diagnosis"]
