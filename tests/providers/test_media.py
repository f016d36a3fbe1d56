"""OpenAI's images, audio and moderation: one plain span each, and nothing in it of what was sent or made."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.conftest import Tracing
from tests.support.replay import Replay, Script, json_answer, paced, sse
from tests.support.spans import Spans, assert_golden, attributes, shape

PICTURE = {"data": [{"b64_json": "UElDVFVSRQ=="}], "created": 1}
USAGE = {
    "input_tokens": 10,
    "output_tokens": 20,
    "total_tokens": 30,
    "input_tokens_details": {"text_tokens": 8, "image_tokens": 2},
}
HEARD = {"type": "tokens", "input_tokens": 14, "output_tokens": 3, "input_token_details": {"audio_tokens": 14}}
SOUND = [b"\xff\xf3SOUND" * 400] * 3
FILE = ("a.wav", b"RIFF-SENTINEL")
MODERATION = {"id": "modr-1", "model": "omni-moderation-latest", "results": []}
KINDS = ("openai", "async openai", "azure", "async azure")


class Client:
    """A client of any kind, whose calls are made in the same words."""

    def __init__(self, kind: str, url: str) -> None:
        names = {"openai": "OpenAI", "azure": "AzureOpenAI"}
        plain, self.asynchronous = kind.removeprefix("async "), kind.startswith("async ")
        cls = getattr(openai, ("Async" if self.asynchronous else "") + names[plain])
        place = {"base_url": f"{url}/v1"} if plain == "openai" else {"azure_endpoint": url, "api_version": "2025-01-01"}
        self.provider = "openai" if plain == "openai" else "azure.ai.openai"
        self._make: Callable[[], Any] = lambda: cls(api_key="k", max_retries=0, **place)

    def do(self, act: Callable[[Any], Any]) -> Any:
        """What ``act`` gives, asked of a client; of a stream, all its items."""

        async def run() -> Any:
            async with self._make() as client:
                given = await act(client)
                return [item async for item in given] if isinstance(given, openai.AsyncStream) else given

        if self.asynchronous:
            return asyncio.run(run())
        with self._make() as client:
            given = act(client)
            return list(given) if isinstance(given, openai.Stream) else given


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, replay: Replay) -> Client:
    return Client(request.param, replay.url)


def _events(*events: dict[str, Any]) -> Script:
    return Script(200, {"content-type": "text/event-stream"}, paced(sse(*events, done=False), 0.02, 0.01))


CALLS: dict[str, tuple[Callable[[Any], Any], Script, dict[str, Any]]] = {
    "image_generation": (
        lambda client: client.images.generate(model="gpt-image-1", prompt="PROMPT-SENTINEL", n=2),
        json_answer(PICTURE | {"usage": USAGE}),
        {"gen_ai.usage.image.input_tokens": 2, "gen_ai.request.choice.count": 2, "gen_ai.output.type": "image"},
    ),
    "image_generation edited": (
        lambda client: client.images.edit(model="gpt-image-1", prompt="PROMPT-SENTINEL", image=FILE[1]),
        json_answer(PICTURE | {"usage": USAGE}),
        {"gen_ai.usage.output_tokens": 20},
    ),
    "text_to_speech": (
        lambda client: client.audio.speech.create(model="tts-1", voice="alloy", input="PROMPT-SENTINEL"),
        Script(200, {"content-type": "audio/mpeg"}, paced(SOUND)),
        {"gen_ai.output.type": "speech"},
    ),
    "transcription": (
        lambda client: client.audio.transcriptions.create(model="gpt-4o-transcribe", file=FILE),
        json_answer({"text": "ANSWER-SENTINEL", "usage": HEARD}),
        {"gen_ai.usage.audio.input_tokens": 14, "gen_ai.usage.output_tokens": 3},
    ),
    "transcription as text": (
        lambda client: client.audio.transcriptions.create(model="whisper-1", file=FILE, response_format="text"),
        Script(200, {"content-type": "text/plain"}, [(0.0, b"ANSWER-SENTINEL")]),
        {"gen_ai.output.type": "text"},
    ),
    "translation": (
        lambda client: client.audio.translations.create(model="whisper-1", file=FILE),
        json_answer({"text": "ANSWER-SENTINEL"}),
        {"gen_ai.output.type": "text"},
    ),
    "moderation": (
        lambda client: client.moderations.create(model="omni-moderation-latest", input="PROMPT-SENTINEL"),
        json_answer(MODERATION),
        {"gen_ai.response.id": "modr-1", "gen_ai.response.model": "omni-moderation-latest"},
    ),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", CALLS)
def test_a_plain_call(name: str, client: Client, replay: Replay, tracing: Tracing, spans: Spans) -> None:
    act, script, said = CALLS[name]
    replay.serve(script)
    bare = client.do(act)
    tracing.on(capture_content=True)
    answered = client.do(act)
    assert type(answered) is type(bare)
    assert getattr(answered, "content", answered) == getattr(bare, "content", bare)
    span = spans.one("completed")
    attrs = attributes(span)
    assert span.name.split()[0] == attrs["gen_ai.operation.name"] == name.split(maxsplit=1)[0]
    assert attrs["gen_ai.provider.name"] == client.provider
    assert said.items() <= attrs.items()
    assert list(spans.phases(span)) in (["network", "opaque"], ["network", "unattributed", "opaque"])
    assert not [value for value in attrs.values() if "SENTINEL" in str(value) or "UElD" in str(value)]


PICTURES = (
    {"type": "image_generation.partial_image", "b64_json": "UElD", "partial_image_index": 0},
    {"type": "image_generation.completed", "b64_json": "UElD", "usage": USAGE},
)
WORDS = (
    {"type": "transcript.text.delta", "delta": "ANSWER-"},
    {"type": "transcript.text.delta", "delta": "SENTINEL"},
    {"type": "transcript.text.done", "text": "ANSWER-SENTINEL", "usage": HEARD},
)


def test_a_picture_that_comes_in_pieces_has_no_tokens(
    client: Client, replay: Replay, tracing: Tracing, spans: Spans
) -> None:
    replay.serve(_events(*PICTURES))
    tracing.on(capture_content=True)
    assert len(client.do(lambda c: c.images.generate(model="gpt-image-1", prompt="x", stream=True))) == 2
    span = spans.one("completed")
    attrs = attributes(span)
    assert (attrs["llmtrace.stream.chunks"], attrs["gen_ai.usage.output_tokens"]) == (2, 20)
    assert attrs["gen_ai.response.time_to_first_chunk"] >= 0.02
    assert "llmtrace.call.ttft" not in attrs
    assert {"queue_prefill", "decode"}.isdisjoint(spans.phases(span))
    assert not [value for value in attrs.values() if "UElD" in str(value)]


def test_a_transcription_that_comes_word_by_word(
    client: Client, replay: Replay, tracing: Tracing, spans: Spans
) -> None:
    replay.serve(_events(*WORDS))
    tracing.on()
    given = client.do(lambda c: c.audio.transcriptions.create(model="gpt-4o-transcribe", file=FILE, stream=True))
    assert len(given) == 3
    span = spans.one("completed")
    assert attributes(span)["gen_ai.usage.audio.input_tokens"] == 14
    assert {"queue_prefill", "decode"} <= set(spans.phases(span))


@pytest.mark.parametrize("end", ["read", "closed"])
def test_sound_that_is_read_as_it_comes(
    end: str, client: Client, replay: Replay, tracing: Tracing, spans: Spans
) -> None:
    replay.serve(Script(200, {"content-type": "audio/mpeg"}, paced(SOUND, 0.01, 0.01)))
    tracing.on(capture_content=True)

    def ask(c: Any) -> Any:
        speech = c.audio.speech.with_streaming_response
        return speech.create(model="tts-1", voice="alloy", input="PROMPT-SENTINEL")

    def read(c: Any) -> int:
        with ask(c) as response:
            pieces = response.iter_bytes()
            return len(b"".join(pieces)) if end == "read" else len(next(pieces))

    async def aread(c: Any) -> int:
        async with ask(c) as response:
            pieces = response.iter_bytes()
            return len(b"".join([piece async for piece in pieces])) if end == "read" else len(await anext(pieces))

    size = client.do(aread if client.asynchronous else read)
    assert size == len(b"".join(SOUND)) if end == "read" else size
    span = spans.one("completed" if end == "read" else "closed_early")
    assert {"queue_prefill", "decode"}.isdisjoint(spans.phases(span))
    assert not [value for value in attributes(span).values() if "SENTINEL" in str(value)]


def test_sound_as_events(replay: Replay, tracing: Tracing, spans: Spans) -> None:
    done = {"type": "speech.audio.done", "usage": {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12}}
    replay.serve(_events({"type": "speech.audio.delta", "audio": "U09VTkQ="}, done))
    tracing.on(capture_content=True)
    with openai.OpenAI(api_key="k", base_url=replay.base_url) as client:
        speech = client.audio.speech.with_streaming_response
        with speech.create(model="gpt-4o-mini-tts", voice="alloy", input="x", stream_format="sse") as response:
            assert "speech.audio.done" in "".join(response.iter_lines())
    attrs = attributes(spans.one("completed"))
    assert (attrs["gen_ai.usage.input_tokens"], attrs["gen_ai.usage.output_tokens"]) == (5, 7)
    assert not [value for value in attrs.values() if "U09V" in str(value)]


def test_sound_as_events_that_is_read_whole(client: Client, replay: Replay, tracing: Tracing, spans: Spans) -> None:
    done = {"type": "speech.audio.done", "usage": {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12}}
    replay.serve(_events({"type": "speech.audio.delta", "audio": "U09VTkQh" * 1000}, done))
    tracing.on(capture_content=True)
    speech = client.do(
        lambda c: c.audio.speech.create(model="gpt-4o-mini-tts", voice="alloy", input="x", stream_format="sse")
    )
    assert b"speech.audio.done" in speech.content
    attrs = attributes(spans.one("completed"))
    assert (attrs["gen_ai.usage.input_tokens"], attrs["gen_ai.usage.output_tokens"]) == (5, 7)
    assert not [value for value in attrs.values() if "U09V" in str(value)]


def test_a_refusal(client: Client, replay: Replay, tracing: Tracing, spans: Spans) -> None:
    replay.serve(json_answer({"error": {"message": "no", "code": "x"}}, status=400))
    tracing.on()
    with pytest.raises(openai.BadRequestError):
        client.do(CALLS["image_generation"][0])
    assert attributes(spans.one("error"))["error.type"] == "400"


def test_a_moderation_that_names_no_model(replay: Replay, tracing: Tracing, spans: Spans) -> None:
    replay.serve(json_answer(MODERATION))
    tracing.on()
    with openai.OpenAI(api_key="k", base_url=replay.base_url) as client:
        client.moderations.create(input="x")
    spans.flush()
    (span,) = spans.parents()
    assert span.name == "moderation"
    assert attributes(span)["gen_ai.response.model"] == "omni-moderation-latest"


def test_golden_trees(replay: Replay, tracing: Tracing, spans: Spans) -> None:
    """Of a picture, and of a transcription in pieces: the other operations have no other attributes."""
    tracing.on()
    with openai.OpenAI(api_key="k", base_url=replay.base_url) as client:
        replay.serve(CALLS["image_generation"][1])
        CALLS["image_generation"][0](client)
        assert_golden("image_generation", shape(spans, spans.one("completed"), in_step=False))
        spans.clear()
        replay.serve(_events(*WORDS))
        list(client.audio.transcriptions.create(model="gpt-4o-transcribe", file=FILE, stream=True))
        assert_golden("transcription", shape(spans, spans.one("completed"), in_step=False))


def test_the_functions_are_the_clients_own_again(tracing: Tracing) -> None:
    before = inspect.getattr_static(openai._base_client.SyncAPIClient, "request")
    tracing.on()
    tracing.off()
    assert inspect.getattr_static(openai._base_client.SyncAPIClient, "request") is before
