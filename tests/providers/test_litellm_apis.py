"""LiteLLM's Responses and Messages, beside what the suite of all clients shows: routers, one span, bytes in pieces."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest

from llmtrace.observe.call import NOTHING, OUTPUT
from llmtrace.providers import litellm as declared
from tests.conftest import Tracing
from tests.support import by_funnel, by_library
from tests.support.by_library import KEY, MESSAGES
from tests.support.replay import Replay, completion, json_answer, paced
from tests.support.spans import Spans, assert_golden, attributes, shape

PHASES = {"queue_prefill", "decode"}
RESPONSES = by_funnel.Responses.__new__(by_funnel.Responses)
ANTHROPIC = by_funnel.Anthropic.__new__(by_funnel.Anthropic)


@pytest.fixture
def lite(tracing: Tracing) -> Any:
    import litellm

    litellm.suppress_debug_info = True
    tracing.on("litellm", "openai", "anthropic")
    return litellm


def _read(given: Any, asynchronous: bool) -> Any:
    async def run() -> Any:
        stream = await given()
        return [item async for item in stream] if hasattr(stream, "__aiter__") else stream

    if asynchronous:
        return asyncio.run(run())
    stream = given()
    return list(stream) if hasattr(stream, "__next__") else stream


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["responses", "aresponses"])
def test_a_router_asks_for_responses(name: str, streaming: bool, lite: Any, replay: Replay, spans: Spans) -> None:
    replay.serve(RESPONSES.script(paced(RESPONSES.events(), 0.02)) if streaming else RESPONSES.whole())
    place = {"model": "openai/gpt-4o", "api_base": replay.base_url, "api_key": KEY}
    router = lite.Router(model_list=[{"model_name": "big", "litellm_params": place}])
    more = {"stream": True} if streaming else {}
    _read(lambda: getattr(router, name)(model="big", input="x", **more), name == "aresponses")
    attrs = attributes(spans.one("completed"))
    assert attrs["gen_ai.request.model"] == ("big" if name == "aresponses" else "openai/gpt-4o")
    assert (attrs["gen_ai.provider.name"], attrs["gen_ai.usage.input_tokens"]) == ("openai", 40)


@pytest.mark.parametrize("name", ["anthropic_messages", "aanthropic_messages"])
def test_a_router_asks_for_messages(name: str, lite: Any, replay: Replay, spans: Spans) -> None:
    replay.serve(json_answer(completion("Hello")))
    place = {"model": "groq/a-model", "api_base": replay.base_url, "api_key": KEY}
    router = lite.Router(model_list=[{"model_name": "big", "litellm_params": place}])
    _read(lambda: getattr(router, name)(model="big", max_tokens=9, messages=MESSAGES), True)
    attrs = attributes(spans.one("completed"))
    assert (attrs["gen_ai.request.model"], attrs["gen_ai.usage.output_tokens"]) == ("big", 6)


def _responses(lite: Any, url: str) -> Any:
    return lite.responses(model="groq/a-model", input="x", api_base=f"{url}/v1", api_key=KEY)


def _messages(lite: Any, url: str) -> Any:
    model = "anthropic/claude-3-5-sonnet-20240620"
    asked = {"max_tokens": 9, "messages": MESSAGES, "model": model}
    return asyncio.run(lite.anthropic_messages(**asked, api_base=url, api_key=KEY))


@pytest.mark.parametrize("ask", [_responses, _messages])
def test_what_is_asked_beneath_is_no_call_of_its_own(
    ask: Callable[[Any, str], Any], lite: Any, replay: Replay, spans: Spans
) -> None:
    """A response by way of a chat completion, and a message of Anthropic's."""
    replay.serve(ANTHROPIC.whole() if ask is _messages else json_answer(completion("Hello")))
    ask(lite, replay.url)
    attrs = attributes(spans.one("completed"))
    assert attrs["gen_ai.provider.name"] == ("anthropic" if ask is _messages else "groq")
    assert attrs["gen_ai.usage.input_tokens"] == 40
    assert len(replay.requests) == 1


def test_a_refused_response(lite: Any, replay: Replay, spans: Spans) -> None:
    replay.serve(json_answer({"error": {"message": "no", "code": "x"}}, status=400))
    with pytest.raises(lite.BadRequestError):
        lite.responses(model="openai/gpt-4o", input="x", api_base=replay.base_url, api_key=KEY, num_retries=0)
    assert attributes(spans.one("error"))["error.type"] == "400"


def test_a_response_that_nobody_was_asked_for(lite: Any, spans: Spans) -> None:
    lite.responses(model="openai/gpt-4o", input="x", mock_response="Hello", api_key=KEY)
    spans.flush()
    (span,) = spans.parents()
    assert attributes(span)["llmtrace.call.outcome"] == "completed"
    assert "gen_ai.usage.input_tokens" not in attributes(span)
    assert not spans.children(span)


@pytest.mark.skipif(find_spec("soundfile") is None, reason="LiteLLM wants what its proxy needs for these streams")
def test_messages_as_anthropic_streams_them(lite: Any, replay: Replay, spans: Spans) -> None:
    replay.serve(ANTHROPIC.script(paced(ANTHROPIC.events(), 0.02, 0.01), lockstep=True))
    asked = {"model": "anthropic/claude-3-5-sonnet-20240620", "max_tokens": 9, "messages": MESSAGES, "stream": True}
    _read(lambda: lite.anthropic_messages(**asked, api_base=replay.url, api_key=KEY), True)
    span = spans.one("completed")
    assert attributes(span)["gen_ai.usage.cache_write.input_tokens"] == 4
    assert set(spans.phases(span)) >= PHASES


def test_bytes_that_end_anywhere() -> None:
    body = b"".join(ANTHROPIC.events())
    whole = declared.MESSAGES.read_chunks([body], None)
    assert (whole.id, whole.usage.input_tokens, whole.usage.output_tokens) == ("msg_1", 40, 6)
    for size in (1, 7, 100, 1000):
        pieces = [body[start : start + size] for start in range(0, len(body), size)]
        answer = declared.MESSAGES.read_chunks([*pieces, {"custom_llm_provider": "anthropic"}], None)
        assert (answer.id, answer.usage, answer.finish_reasons) == (whole.id, whole.usage, whole.finish_reasons)
        assert answer.provider == "anthropic"
    assert declared.MESSAGES.classify_chunk(body) == OUTPUT
    assert declared.MESSAGES.classify_chunk(b'data: {"type": "content_block_delta", "ind') == OUTPUT
    for piece in (b"", b": ping\n\n", ANTHROPIC.events()[0], b"data: [1]\n\n", b"data: \xff\n\n", None, 5):
        assert declared.MESSAGES.classify_chunk(piece) == NOTHING


def test_a_usage_of_zeros_is_none() -> None:
    answer = declared.MESSAGES.read_response(
        {"type": "message", "id": "m", "usage": {"input_tokens": 0, "output_tokens": 0}}, None
    )
    assert answer.usage.input_tokens is answer.usage.output_tokens is None
    zeros = {"id": "r", "status": "completed", "usage": {"input_tokens": 0, "output_tokens": 0}}
    assert declared.RESPONSES.read_response(zeros, None).usage.output_tokens is None
    turned = zeros | {"usage": {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": None}}
    assert declared.RESPONSES.read_response(turned, None).usage.input_tokens == 7


@pytest.mark.parametrize("made", by_library.LITELLM_APIS)
def test_golden_trees(made: type[by_library.LiteLLM], replay: Replay, tracing: Tracing, spans: Spans) -> None:
    driver = made("sync", replay.url)
    tracing.on("litellm")
    replay.serve(driver.script(paced(driver.events(), 0.02, 0.005), lockstep=True))
    driver.read()
    tree = shape(spans, spans.one("completed"), in_step=False)
    driver.shut()
    assert_golden(made.__name__.lower(), tree)
    assert json.dumps(tree).count('"llm.decode"') == 1
