"""Frameworks have no instrumentation of their own here: their calls are seen in the client beneath, once each."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from tests.support.apis import async_client
from tests.support.replay import USAGE, Replay, Request, Script, tool_turn
from tests.support.replay import openai_body as whole
from tests.support.replay import openai_stream as streamed
from tests.support.spans import Spans, attributes

pytestmark = pytest.mark.usefixtures("traced")

PHASES = {"network", "unattributed", "queue_prefill", "decode"}


def answer(request: Request) -> Script:
    """A stream or a whole answer, whichever was asked for."""
    # Too few chunks for a stream that came all at once, on a busy machine, to look buffered.
    return streamed(("Hello there, ", "you", " two"), USAGE) if request.json.get("stream") else whole()


def check(spans: Spans, count: int) -> list[dict[str, Any]]:
    """So many calls, each complete, none double, with the provider's usage."""
    parents = spans.parents()
    assert len(parents) == count, [parent.name for parent in parents]
    spans.check_all()
    found = [attributes(parent) for parent in parents]
    for parent, attrs in zip(parents, found, strict=True):
        assert attrs["llmtrace.call.outcome"] == "completed"
        assert attrs["gen_ai.usage.input_tokens"] == 40
        assert attrs["gen_ai.usage.output_tokens"] == 6
        if attrs.get("gen_ai.request.stream"):
            assert set(spans.phases(parent)) == PHASES
    return found


# LangChain.


@pytest.fixture
def chat_model(replay: Replay) -> Any:
    chat = pytest.importorskip("langchain_openai").ChatOpenAI
    replay.serve(answer)
    return chat(model="gpt-4o-mini", base_url=replay.base_url, api_key="key", max_retries=0, temperature=0.5)


def test_langchain_invoke(chat_model: Any, spans: Spans) -> None:
    message = chat_model.invoke("Hello")
    assert message.content == "Hello there, you two."
    (attrs,) = check(spans, 1)
    assert attrs["gen_ai.request.temperature"] == 0.5
    assert attrs["gen_ai.response.id"] == message.response_metadata["id"]


def test_langchain_stream(chat_model: Any, spans: Spans) -> None:
    text = "".join(piece.content for piece in chat_model.stream("Hello"))
    assert text == "Hello there, you two"
    (attrs,) = check(spans, 1)
    assert attrs["gen_ai.request.stream"] is True


def test_langchain_asynchronous(chat_model: Any, spans: Spans) -> None:
    async def calls() -> None:
        await chat_model.ainvoke("Hello")
        assert [piece async for piece in chat_model.astream("Hello")]

    asyncio.run(calls())
    check(spans, 2)


def test_langchain_batch_in_threads(chat_model: Any, spans: Spans) -> None:
    assert len(chat_model.batch(["one", "two", "three"])) == 3
    check(spans, 3)


def test_a_langchain_stream_that_is_left(chat_model: Any, spans: Spans) -> None:
    stream = chat_model.stream("Hello")
    next(stream)
    next(stream)
    stream.close()
    del stream
    assert attributes(spans.one())["llmtrace.call.outcome"] in ("closed_early", "abandoned")


# OpenAI Agents.


def tool_then_answer(request: Request) -> Script:
    """The first turn calls a tool, the second one answers."""
    if any(message["role"] == "tool" for message in request.json["messages"]):
        return answer(request)
    return tool_turn("weather", '{"city": "Bern"}', stream=bool(request.json.get("stream")))


def agent(client: openai.AsyncOpenAI, replay: Replay) -> Any:
    agents = pytest.importorskip("agents")
    agents.set_tracing_disabled(True)
    replay.serve(tool_then_answer)

    def weather(city: str) -> str:
        return f"Sun in {city}."

    model = agents.OpenAIChatCompletionsModel(model="gpt-4o-mini", openai_client=client)
    return agents.Agent(name="Forecaster", model=model, tools=[agents.function_tool(weather)])


def test_agents_run(replay: Replay, spans: Spans) -> None:
    async def run() -> Any:
        from agents import Runner

        async with async_client(replay.base_url) as client:
            return await Runner.run(agent(client, replay), "What is the weather in Bern?")

    assert asyncio.run(run()).final_output == "Hello there, you two."
    turns = check(spans, 2)
    assert [attrs["gen_ai.response.finish_reasons"] for attrs in turns] == [("tool_calls",), ("stop",)]


def test_agents_run_streamed(replay: Replay, spans: Spans) -> None:
    async def run() -> Any:
        from agents import Runner

        async with async_client(replay.base_url) as client:
            result = Runner.run_streamed(agent(client, replay), "What is the weather in Bern?")
            assert [event async for event in result.stream_events()]
            return result

    assert asyncio.run(run()).final_output == "Hello there, you two"
    turns = check(spans, 2)
    assert all(attrs["gen_ai.request.stream"] for attrs in turns)
