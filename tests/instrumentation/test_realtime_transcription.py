"""Sessions that only transcribe, by openai's client and the Agents SDK's voice: a call for each stretch of speech."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import openai
import pytest

from tests.conftest import Tracing
from tests.support.realtime import SOUND, Conversations, Cut, Send, Step, expect
from tests.support.spans import Spans, attributes, seconds

pytest.importorskip("openai.resources.realtime")
MODEL = "gpt-4o-transcribe"
HEARD = {"type": "tokens", "input_tokens": 14, "output_tokens": 3, "input_token_details": {"audio_tokens": 14}}
PIECES = "conversation.item.input_audio_transcription."
SESSION = {"type": "transcription", "id": "s", "audio": {"input": {"transcription": {"model": MODEL}}}}
CREATED = Send({"type": "session.created", "event_id": "e", "session": SESSION})
UPDATED = Send({"type": "session.updated", "event_id": "e", "session": SESSION})


def committed(item: str) -> Send:
    return Send({"type": "input_audio_buffer.committed", "event_id": "c", "item_id": item, "previous_item_id": None})


def piece(item: str, word: str, delay: float = 0.0) -> Send:
    return Send({"type": f"{PIECES}delta", "event_id": "d", "item_id": item, "content_index": 0, "delta": word}, delay)


def completed(item: str) -> Send:
    about = {"event_id": "f", "item_id": item, "content_index": 0, "transcript": "SENTINEL", "usage": HEARD}
    return Send({"type": f"{PIECES}completed", **about})


def failed(item: str) -> Send:
    error = {"type": "server_error", "code": "audio_unintelligible", "message": "SENTINEL"}
    return Send({"type": f"{PIECES}failed", "event_id": "f", "item_id": item, "content_index": 0, "error": error})


def heard(item: str) -> list[Step]:
    return [committed(item), piece(item, "SENT", 0.02), piece(item, "INEL"), completed(item)]


def listen(script: Sequence[Step], until: Sequence[str]) -> list[str]:
    """Send some sound with openai's client and read until events of these kinds have come; returns all kinds."""

    async def run(url: str) -> list[str]:
        came: list[str] = []
        place = {"base_url": f"{url}/v1", "websocket_base_url": f"{url.replace('http', 'ws')}/v1"}
        async with openai.AsyncOpenAI(api_key="k", **place) as client:
            connecting = client.realtime.connect(extra_query={"intent": "transcription"})
            async with connecting as talking:
                await talking.send({"type": "input_audio_buffer.append", "audio": SOUND})
                for kind in until:
                    while not came or came[-1] != kind:
                        came.append((await talking.recv()).type)
                    came.append("")
        return [kind for kind in came if kind]

    with Conversations(script) as server:
        return asyncio.run(run(server.url))


def test_each_stretch_of_speech_is_a_call(tracing: Tracing, spans: Spans) -> None:
    """The second is committed while the first is still being written down."""
    first, second = heard("i1"), heard("i2")
    woven = [step for pair in zip(first, second, strict=True) for step in pair]
    script = [CREATED, expect("input_audio_buffer.append"), *woven]
    bare = listen(script, [f"{PIECES}completed"] * 2)
    tracing.on("openai", capture_content=True)
    assert listen(script, [f"{PIECES}completed"] * 2) == bare
    spans.flush()
    calls = spans.parents()
    assert sorted(attributes(span)["gen_ai.response.id"] for span in calls) == ["i1", "i2"]
    for span in calls:
        spans.check(span)
        attrs = attributes(span)
        assert span.name == f"transcription {MODEL}"
        assert attrs["gen_ai.usage.audio.input_tokens"] == 14
        assert attrs["gen_ai.usage.output_tokens"] == 3
        assert attrs["llmtrace.stream.chunks"] == 4
        assert 0 < attrs["llmtrace.call.ttft"] <= seconds(span)
        assert "SENT" not in str(attrs)


def test_one_that_fails(tracing: Tracing, spans: Spans) -> None:
    tracing.on("openai")
    listen([CREATED, committed("i1"), failed("i1")], [f"{PIECES}failed"])
    attrs = attributes(spans.one("error"))
    assert (attrs["error.type"], attrs["gen_ai.response.id"]) == ("audio_unintelligible", "i1")


@pytest.mark.usefixtures("quick_guards")
def test_a_connection_that_breaks(tracing: Tracing, spans: Spans) -> None:
    tracing.on("openai")
    with contextlib.suppress(Exception):
        # Nothing of the client's is on its way then: what it sends to a closed end would take the pieces with it.
        heard_out = [CREATED, expect("input_audio_buffer.append"), committed("i1"), piece("i1", "SENT"), Cut()]
        listen(heard_out, [f"{PIECES}completed"])
    assert attributes(spans.one("error"))["llmtrace.cancellation.cause"] == "connection_lost"


def test_what_the_user_said_in_a_conversation_is_no_call(tracing: Tracing, spans: Spans) -> None:
    conversation = {"type": "realtime", "id": "s", "model": "gpt-realtime"}
    tracing.on("openai")
    greeting = Send({"type": "session.created", "event_id": "e", "session": conversation})
    listen([greeting, *heard("i1")], [f"{PIECES}completed"])
    assert not spans.finished()


def test_the_agents_sdk_s_voice(tracing: Tracing, spans: Spans) -> None:
    voice = pytest.importorskip("agents.voice")
    pytest.importorskip("agents").set_tracing_disabled(True)
    numpy = pytest.importorskip("numpy")
    script = [
        CREATED,
        expect("session.update"),
        UPDATED,
        expect("input_audio_buffer.append"),
        *heard("i1"),
        *heard("i2"),
    ]

    async def run(url: str) -> list[str]:
        turns: list[str] = []
        place = {"base_url": f"{url}/v1", "websocket_base_url": f"{url.replace('http', 'ws')}/v1"}
        async with openai.AsyncOpenAI(api_key="k", **place) as client:
            sound = voice.StreamedAudioInput()
            await sound.add_audio(numpy.zeros(100, dtype=numpy.int16))
            hears = voice.OpenAISTTModel(MODEL, client)
            session = await hears.create_session(sound, voice.STTModelSettings(), False, False)
            async for turn in session.transcribe_turns():
                turns.append(turn)
                if len(turns) == 2:
                    break
        return turns

    def listen_to() -> list[str]:
        with Conversations(script) as server:
            return asyncio.run(run(server.url))

    bare = listen_to()
    tracing.on("openai")
    assert listen_to() == bare == ["SENTINEL"] * 2
    spans.flush()
    told = [attributes(span) for span in spans.parents()]
    assert [(attrs["gen_ai.operation.name"], attrs["gen_ai.response.id"]) for attrs in told] == [
        ("transcription", "i1"),
        ("transcription", "i2"),
    ]
    assert [attrs["llmtrace.stream.chunks"] for attrs in told] == [4, 4]
    assert {attrs["gen_ai.provider.name"] for attrs in told} == {"openai"}
