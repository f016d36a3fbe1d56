"""Gemini Live against a real websocket server, and the Interactions API: what is particular to them."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import Tracing
from tests.support.late import Late
from tests.support.realtime import LOCALHOST, SOUND, Conversations, Cut, Expect, Send, Step
from tests.support.replay import Replay, Script, json_answer, paced, sse
from tests.support.spans import Spans, assert_golden, attributes, shape

if TYPE_CHECKING:
    from google import genai
else:
    genai = Late("google.genai")

MODEL = "gemini-live"
CONFIG: dict[str, Any] = {"response_modalities": ["AUDIO"], "system_instruction": "SAY", "temperature": 0.25}
USAGE = {
    "promptTokenCount": 100,
    "cachedContentTokenCount": 60,
    "responseTokenCount": 20,
    "thoughtsTokenCount": 5,
    "totalTokenCount": 125,
    "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 90}],
    "responseTokensDetails": [{"modality": "AUDIO", "tokenCount": 20}],
}
SETUP: list[Step] = [Expect(lambda event: "setup" in event), Send({"setupComplete": {"sessionId": "s"}})]
ASKED = {"role": "user", "parts": [{"text": "PROMPT-SENTINEL"}]}


def has(name: str) -> Expect:
    return Expect(lambda event: name in event)


def content(delay: float = 0.0, **fields: Any) -> Send:
    return Send({"serverContent": fields}, delay)


def sound(delay: float = 0.0) -> Send:
    return content(delay, modelTurn={"parts": [{"inlineData": {"data": SOUND, "mimeType": "audio/pcm"}}]})


COMPLETE = Send({"serverContent": {"turnComplete": True}, "usageMetadata": USAGE})
SAID = content(outputTranscription={"text": "Hello"})
TURN: list[Step] = [sound(0.05), SAID, content(generationComplete=True), COMPLETE]


def live(script: Sequence[Step], act: Callable[[Any], Coroutine[Any, Any, Any]]) -> list[Any]:
    """Have ``act`` talk to a server that plays ``script``; returns the messages that it gives."""
    with Conversations([*SETUP, *script], tls=True) as server:
        context = ssl.create_default_context(cafile=str(LOCALHOST))
        options: Any = {"base_url": server.url, "async_client_args": {"ssl": context}}

        async def run() -> list[Any]:
            client = genai.Client(api_key="k", http_options=options)
            async with client.aio.live.connect(model=MODEL, config=CONFIG) as session:  # type: ignore[arg-type]
                return await act(session)

        return asyncio.run(run())


async def heard(session: Any) -> list[Any]:
    return [message async for message in session.receive()]


async def ask(session: Any) -> list[Any]:
    await session.send_client_content(turns=ASKED)
    return await heard(session)


def test_two_turns(tracing: Tracing, spans: Spans) -> None:
    async def act(session: Any) -> list[Any]:
        return [*await ask(session), *await ask(session)]

    script = [has("client_content"), *TURN, has("client_content"), *TURN]
    bare = live(script, act)
    tracing.on("google-genai", capture_content=True)
    messages = live(script, act)
    assert [message.model_dump() for message in messages] == [message.model_dump() for message in bare]
    spans.flush()
    first, second = spans.parents()
    for span in (first, second):
        spans.check(span, content=True)
        assert set(spans.phases(span)) == {"queue_prefill", "decode"}
    attrs = attributes(first)
    assert first.name == f"realtime_inference {MODEL}"
    assert attrs["gen_ai.provider.name"] == "gcp.gemini"
    assert attrs["llmtrace.call.ttft"] >= 0.05
    assert attrs["llmtrace.stream.chunks"] == 4
    assert attrs["gen_ai.request.temperature"] == 0.25
    assert (attrs["gen_ai.usage.input_tokens"], attrs["gen_ai.usage.output_tokens"]) == (100, 25)
    assert (attrs["gen_ai.usage.audio.output_tokens"], attrs["gen_ai.usage.cache_read.input_tokens"]) == (20, 60)
    assert attrs["gen_ai.response.finish_reasons"] == ("turn_complete",)
    (sent,), (said,) = (json.loads(attrs[f"gen_ai.{way}.messages"]) for way in ("input", "output"))
    assert sent["parts"] == [{"type": "text", "content": "PROMPT-SENTINEL"}]
    assert said["parts"] == [{"type": "text", "content": "Hello"}]
    assert not [value for value in attrs.values() if SOUND in str(value)]


def test_a_function_ends_a_call_and_its_result_begins_one(tracing: Tracing, spans: Spans) -> None:
    async def act(session: Any) -> list[Any]:
        await session.send_client_content(turns=ASKED)
        async for message in session.receive():
            if message.tool_call:
                await session.send_tool_response(function_responses=[{"id": "f", "name": "look", "response": {}}])
        return []

    call = Send({"toolCall": {"functionCalls": [{"id": "f", "name": "look", "args": {}}]}}, 0.02)
    script = [has("client_content"), call, has("tool_response"), content(0.03, modelTurn={"parts": [{"text": "a"}]})]
    tracing.on("google-genai")
    live([*script, COMPLETE], act)
    spans.flush()
    first, second = spans.parents()
    assert attributes(first)["gen_ai.response.finish_reasons"] == ("tool_call",)
    assert attributes(second)["gen_ai.response.finish_reasons"] == ("turn_complete",)
    assert attributes(second)["llmtrace.call.ttft"] >= 0.03


def test_an_interrupted_turn_that_speech_began(tracing: Tracing, spans: Spans) -> None:
    async def act(session: Any) -> list[Any]:
        await session.send_realtime_input(audio={"data": b"RIFF", "mime_type": "audio/pcm"})
        return [*await heard(session), *await ask(session)]

    cut_off = [sound(), content(interrupted=True), content(turnComplete=True)]
    tracing.on("google-genai")
    live([has("realtime_input"), *cut_off, has("client_content"), *TURN], act)
    spans.flush()
    first, second = spans.parents()
    assert attributes(first)["llmtrace.call.outcome"] == "cancelled"
    assert attributes(first)["gen_ai.response.finish_reasons"] == ("interrupted",)
    assert attributes(second)["llmtrace.call.outcome"] == "completed", "the end of the turn cut off was not its own"


def test_a_connection_that_breaks(tracing: Tracing, spans: Spans) -> None:
    async def act(session: Any) -> list[Any]:
        with pytest.raises(genai.errors.APIError):
            await ask(session)
        return []

    tracing.on("google-genai")
    live([has("client_content"), sound(), Cut()], act)
    attrs = attributes(spans.one("error"))
    assert attrs["error.type"] == "google.genai.errors.APIError"
    assert attrs["llmtrace.cancellation.cause"] == "connection_lost"


def test_a_session_that_is_left(tracing: Tracing, spans: Spans) -> None:
    async def act(session: Any) -> list[Any]:
        await session.send_client_content(turns=ASKED)
        async for message in session.receive():
            return [message]
        return []

    tracing.on("google-genai")
    live([has("client_content"), sound()], act)
    assert attributes(spans.one("closed_early"))["llmtrace.stream.chunks"] == 1


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
def test_a_session_whose_application_raises(error: type[BaseException], tracing: Tracing, spans: Spans) -> None:
    async def act(session: Any) -> list[Any]:
        await session.send_client_content(turns=ASKED)
        raise error("x")

    tracing.on("google-genai")
    with pytest.raises(error):
        live([has("client_content")], act)
    spans.one(("closed_early", "never_consumed"))


# ---- Interactions ----------------------------------------------------------------------------------------------------
INTERACTION: dict[str, Any] = {
    "id": "int_1",
    "model": "gemini-3",
    "status": "completed",
    "steps": [{"type": "model_output", "content": [{"type": "text", "text": "Hello"}]}],
    "usage": {
        "total_input_tokens": 10,
        "total_cached_tokens": 4,
        "total_output_tokens": 3,
        "total_thought_tokens": 2,
        "total_tokens": 15,
        "input_tokens_by_modality": [{"modality": "text", "tokens": 10}],
    },
}
BEGUN = INTERACTION | {"status": "in_progress", "steps": [], "usage": None}
EVENTS: tuple[dict[str, Any], ...] = (
    {"event_type": "interaction.created", "interaction": BEGUN},
    {"event_type": "step.start", "index": 0, "step": {"type": "thought"}},
    {"event_type": "step.start", "index": 1, "step": {"type": "model_output"}},
    {"event_type": "step.delta", "index": 1, "delta": {"type": "text", "text": "Hel"}},
    {"event_type": "step.delta", "index": 1, "delta": {"type": "text", "text": "lo"}},
    {"event_type": "interaction.completed", "interaction": INTERACTION},
)
COUNTS = {
    "gen_ai.response.id": "int_1",
    "gen_ai.response.model": "gemini-3",
    "gen_ai.response.finish_reasons": ("completed",),
    "gen_ai.usage.input_tokens": 10,
    "gen_ai.usage.cache_read.input_tokens": 4,
    "gen_ai.usage.output_tokens": 5,
    "gen_ai.usage.reasoning.output_tokens": 2,
    "gen_ai.usage.text.input_tokens": 10,
}


def interact(kind: str, url: str, **settings: Any) -> Any:
    """What ``create`` gives; of a stream, its type and all its events."""
    client = genai.Client(api_key="k", http_options={"base_url": url})  # type: ignore[arg-type]

    async def run() -> Any:
        given = await client.aio.interactions.create(model="gemini-3", input="PROMPT-SENTINEL", **settings)
        return [type(given), *[event async for event in given]] if "stream" in settings else given

    if kind == "async":
        return asyncio.run(run())
    given: Any = client.interactions.create(model="gemini-3", input="PROMPT-SENTINEL", **settings)
    return [type(given), *given] if "stream" in settings else given


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_interaction(kind: str, replay: Replay, tracing: Tracing, spans: Spans) -> None:
    replay.serve(json_answer(INTERACTION))
    bare = interact(kind, replay.url)
    tracing.on("google-genai", capture_content=True)
    given = interact(kind, replay.url, generation_config={"temperature": 0.5, "max_output_tokens": 9})
    assert type(given) is type(bare)
    assert given.model_dump() == bare.model_dump()
    (span,) = spans.parents()
    spans.check(span, content=True)
    attrs = attributes(span)
    assert span.name == "generate_content gemini-3"
    assert (COUNTS | {"gen_ai.request.temperature": 0.5, "gen_ai.request.max_tokens": 9}).items() <= attrs.items()
    assert json.loads(attrs["gen_ai.output.messages"])[0]["parts"] == [{"type": "text", "content": "Hello"}]
    assert set(spans.phases(span)) <= {"network", "unattributed", "opaque"}


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_streamed_interaction(kind: str, replay: Replay, tracing: Tracing, spans: Spans) -> None:
    replay.serve(Script(200, {"content-type": "text/event-stream"}, paced(sse(*EVENTS, done=False), 0.02, 0.01)))
    bare = interact(kind, replay.url, stream=True)
    tracing.on("google-genai")
    assert [repr(each) for each in interact(kind, replay.url, stream=True)] == [repr(each) for each in bare]
    span = spans.one("completed")
    assert COUNTS.items() <= attributes(span).items()
    assert attributes(span)["llmtrace.stream.chunks"] == len(EVENTS)
    assert {"decode.reasoning", "decode.output"} <= {each.name.removeprefix("llm.") for each in spans.finished()}


def test_an_interaction_in_the_background_and_one_that_failed(replay: Replay, tracing: Tracing, spans: Spans) -> None:
    tracing.on("google-genai")
    replay.serve(json_answer(BEGUN))
    interact("sync", replay.url, background=True)
    assert "gen_ai.response.finish_reasons" not in attributes(spans.one("completed"))
    spans.clear()
    replay.serve(json_answer(BEGUN | {"status": "failed"}))
    interact("sync", replay.url)
    assert attributes(spans.one("error"))["error.type"] == "failed"
    spans.clear()
    replay.serve(json_answer(BEGUN | {"status": "failed", "errors": [{"code": 429, "message": "m"}]}))
    interact("sync", replay.url)
    assert attributes(spans.one("error"))["error.type"] == "429"


def test_golden_trees(replay: Replay, tracing: Tracing, spans: Spans) -> None:
    tracing.on("google-genai")
    live([has("client_content"), *TURN], ask)
    assert_golden("gemini_live", shape(spans, spans.one("completed"), in_step=False))
    spans.clear()
    replay.serve(Script(200, {"content-type": "text/event-stream"}, paced(sse(*EVENTS, done=False), 0.02, 0.01)))
    interact("sync", replay.url, stream=True)
    assert_golden("interaction", shape(spans, spans.one("completed"), in_step=False))
