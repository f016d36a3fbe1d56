"""Answers that say that they failed in an HTTP 200, and whole answers that the client raises over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pydantic
import pytest

from tests.support import replay as play
from tests.support.spans import attributes

if TYPE_CHECKING:
    import openai

    from tests.support.apis import Sync
    from tests.support.replay import Replay
    from tests.support.spans import Spans

pytestmark = pytest.mark.usefixtures("traced")
MESSAGES: Any = [{"role": "user", "content": "hello"}]
SAID = {"message": "the prompt was: hello", "type": "server_error", "code": "overloaded"}


def choice(**more: Any) -> dict[str, Any]:
    return {"index": 0, "message": {"role": "assistant", "content": ""}, "delta": {"content": ""}} | more


WHOLE = {
    "top level": ({"error": SAID}, "overloaded"),
    "a number": ({"error": {"code": 502, "message": "up"}, "choices": []}, "502"),
    "a text": ({"error": "no such model: hello"}, "error"),
    "a code that is a sentence": ({"error": {"code": "the prompt was: hello", "type": None}}, "error"),
    "in a choice": ({"id": "x", "choices": [choice(error=SAID, finish_reason="error")]}, "overloaded"),
    "a finish reason": ({"id": "x", "choices": [choice(finish_reason="error")]}, "error"),
}


@pytest.mark.parametrize("how", WHOLE)
def test_an_error_in_a_whole_answer(how: str, api: Sync, replay: Replay, spans: Spans) -> None:
    body, named = WHOLE[how]
    replay.serve(play.json_answer(body))
    api.create()
    span = spans.one("error")
    assert attributes(span)["error.type"] == named
    assert "the prompt was" not in span.to_json()


@pytest.mark.parametrize("how", ["in a choice", "a finish reason"])
def test_an_error_in_a_stream(how: str, api: Sync, replay: Replay, spans: Spans) -> None:
    body, named = WHOLE[how]
    replay.serve(play.events_script(play.chunk({"content": "a"}), play.chunk({"content": "b"}) | body))
    stream = api.stream()
    api.drain(stream)
    assert attributes(spans.one("error"))["error.type"] == named


@pytest.mark.parametrize("how", ["top level", "a number"])
def test_an_error_in_the_place_of_embeddings(how: str, client: openai.OpenAI, replay: Replay, spans: Spans) -> None:
    """One that the client does not raise over: with the raw body, which the application parses by itself."""
    body, named = WHOLE[how]
    replay.serve(play.json_answer(body))
    client.embeddings.with_raw_response.create(model="m", input="text")
    assert attributes(spans.one("error"))["error.type"] == named


@pytest.mark.parametrize("nothing", [None, {}, "", []])
def test_no_error_is_none(nothing: Any, api: Sync, replay: Replay, spans: Spans) -> None:
    replay.serve(play.openai_body(error=nothing))
    api.create()
    spans.one("completed")


class Answer(pydantic.BaseModel):
    number: int


@pytest.mark.parametrize("end", ["length", "stop"])
def test_an_answer_that_does_not_parse_is_paid_for(
    end: str, client: openai.OpenAI, replay: Replay, spans: Spans
) -> None:
    body = play.completion('{"number": "no')
    body["choices"][0]["finish_reason"] = end
    replay.serve(play.json_answer(body))
    with pytest.raises(Exception) as raised:
        client.chat.completions.parse(model="gpt-4o-mini", messages=MESSAGES, response_format=Answer)
    said = attributes(spans.one("error"))
    assert said["error.type"].endswith(type(raised.value).__name__)
    assert said["gen_ai.response.id"] == play.ID
    assert said["gen_ai.response.model"] == play.MODEL
    assert said["gen_ai.response.finish_reasons"] == (end,)
    assert said["gen_ai.usage.output_tokens"] == play.USAGE["completion_tokens"]


def test_reasons_come_in_the_choices_order(client: openai.OpenAI, replay: Replay, spans: Spans) -> None:
    ends = [play.chunk({}, index=1, finish="length"), play.chunk({}, index=0, finish="stop")]
    replay.serve(play.events_script(play.chunk({"content": "a"}), play.chunk({"content": "b"}, index=1), *ends))
    for _ in client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, n=2, stream=True):
        pass
    assert attributes(spans.one("completed"))["gen_ai.response.finish_reasons"] == ("stop", "length")


async def test_a_reused_connection_of_aiohttp_has_a_network_phase(
    tracing: Any, replay: Replay, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm

    tracing.off()
    tracing.on("litellm")
    replay.serve(play.openai_body())
    for _ in range(3):
        await litellm.acompletion(model="openai/gpt-4o-mini", api_base=replay.base_url, api_key="k", messages=MESSAGES)
    assert all("network" in spans.phases(span) for span in spans.parents())
    assert len({request.port for request in replay.requests}) == 1, "one connection for all"
