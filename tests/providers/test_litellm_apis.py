"""LiteLLM's Responses and Messages, beside what the suite of all clients shows: routers, one span, bytes in pieces."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest

from llmtrace.observe.call import NOTHING, OUTPUT
from llmtrace.providers import litellm as declared
from tests.conftest import Tracing
from tests.support import by_funnel, by_library
from tests.support.by_library import KEY, MESSAGES
from tests.support.replay import Replay, Script, completion, json_answer, paced
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


def _wrapped(own: str) -> str:
    about = f"litellm:custom_llm_provider:openai;model_id:None;response_id:{own}"
    return f"resp_{b64encode(about.encode()).decode()}"


@pytest.mark.parametrize("streaming", [False, True])
def test_a_response_has_the_provider_s_own_id(streaming: bool, lite: Any, replay: Replay, spans: Spans) -> None:
    """LiteLLM hands out one of its own, with the deployment's in it, and takes it for the next."""
    replay.serve(RESPONSES.script(paced(RESPONSES.events(), 0.0)) if streaming else RESPONSES.whole())
    more = {"stream": True} if streaming else {}
    place = {"model": "openai/gpt-4o", "api_base": replay.base_url, "api_key": KEY}
    _read(lambda: lite.responses(input="x", previous_response_id=_wrapped("resp_0"), **place, **more), False)
    attrs = attributes(spans.one("completed"))
    sent = replay.requests[0].json
    assert attrs["gen_ai.request.previous_response.id"] == sent["previous_response_id"] == "resp_0"
    by_response = {"type": "message", "id": _wrapped("resp_1"), "usage": {"input_tokens": 1, "output_tokens": 1}}
    assert declared.MESSAGES.read_response(by_response, None).id == "resp_1", "a message made of a response"
    assert attrs["gen_ai.response.id"] == declared.RESPONSES.read_response({"id": "resp_1"}, None).id == "resp_1"


@pytest.mark.parametrize("given", ["resp_1", "resp_", "resp_AAAA", "resp_/w==", _wrapped("x")[:-3], "chatcmpl-1", None])
def test_an_id_that_litellm_did_not_make_stays(given: str | None) -> None:
    assert declared.RESPONSES.read_response({"id": given, "status": "completed"}, None).id == given


IMAGE = {"created": 1, "data": [{"b64_json": "aGk="}], "usage": {"input_tokens": 10, "output_tokens": 20}}
SAID = {"text": "hello", "usage": {"type": "tokens", "input_tokens": 14, "output_tokens": 5, "total_tokens": 19}}
JUDGED = {"id": "modr-1", "model": "omni-moderation-latest", "results": []}
RANKED = {"id": "r", "results": [{"index": 0, "relevance_score": 0.9}], "meta": {"api_version": {"version": "2"}}}
PLAIN: dict[str, tuple[str, dict[str, Any], Script, str, dict[str, Any]]] = {
    "image_generation": (
        "openai/gpt-image-1",
        {"prompt": "PROMPT-SENTINEL"},
        json_answer(IMAGE),
        "image_generation",
        {"gen_ai.usage.output_tokens": 20, "gen_ai.output.type": "image", "gen_ai.provider.name": "openai"},
    ),
    "speech": (
        "openai/tts-1",
        {"input": "PROMPT-SENTINEL", "voice": "alloy"},
        json_answer({}),
        "text_to_speech",
        {"gen_ai.output.type": "speech", "gen_ai.provider.name": "openai"},
    ),
    "transcription": (
        "openai/whisper-1",
        {"file": ("a.wav", b"SOUND")},
        json_answer(SAID),
        "transcription",
        {"gen_ai.usage.input_tokens": 14, "gen_ai.provider.name": "openai"},
    ),
    "moderation": (
        "omni-moderation-latest",
        {"input": "PROMPT-SENTINEL"},
        json_answer(JUDGED),
        "moderation",
        {"gen_ai.response.id": "modr-1", "gen_ai.provider.name": "openai"},
    ),
    "rerank": (
        "cohere/rerank-v3.5",
        {"query": "PROMPT-SENTINEL", "documents": ["a"]},
        json_answer(RANKED),
        "rerank",
        {"gen_ai.provider.name": "cohere"},
    ),
}


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("name", PLAIN)
def test_images_audio_moderation_and_reranking(
    name: str, asynchronous: bool, lite: Any, replay: Replay, spans: Spans, tracing: Tracing
) -> None:
    """One call each, of the operation's own name, whose phases are those of a whole answer."""
    model, asked, script, operation, said = PLAIN[name]
    replay.serve(script)
    place = {"api_base": f"{replay.url}/v2/rerank" if name == "rerank" else replay.base_url, "api_key": KEY}

    def ask() -> Any:
        function = getattr(lite, f"a{name}" if asynchronous else name)
        return (
            asyncio.run(function(model=model, **asked, **place))
            if asynchronous
            else function(model=model, **asked, **place)
        )

    ask()
    span = spans.one("completed")
    attrs = attributes(span)
    assert span.name == f"{operation} {model}"
    assert attrs["gen_ai.operation.name"] == operation
    assert said.items() <= attrs.items()
    assert set(spans.phases(span)) <= {"network", "unattributed", "opaque"}
    assert "SENTINEL" not in str(attrs)
    assert len(replay.requests) == 1


@pytest.mark.parametrize("name", PLAIN)
def test_one_of_them_that_is_refused(name: str, lite: Any, replay: Replay, spans: Spans) -> None:
    model, asked, _, operation, _ = PLAIN[name]
    replay.serve(json_answer({"error": {"message": "no", "code": "x"}}, status=400))
    place = {"api_base": f"{replay.url}/v2/rerank" if name == "rerank" else replay.base_url, "api_key": KEY}
    with pytest.raises(Exception, match="no"):
        getattr(lite, name)(model=model, **asked, **place)
    attrs = attributes(spans.one("error"))
    assert (attrs["gen_ai.operation.name"], attrs["error.type"]) == (operation, "400")


def test_an_image_of_a_router_s_is_of_the_deployment(lite: Any, replay: Replay, spans: Spans) -> None:
    replay.serve(json_answer(IMAGE))
    place = {"model": "openai/gpt-image-1", "api_base": replay.base_url, "api_key": KEY}
    router = lite.Router(model_list=[{"model_name": "pictures", "litellm_params": place}])
    asyncio.run(router.aimage_generation(model="pictures", prompt="x"))
    attrs = attributes(spans.one("completed"))
    assert (attrs["gen_ai.request.model"], attrs["gen_ai.provider.name"]) == ("openai/gpt-image-1", "openai")
