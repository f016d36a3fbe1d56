"""Recorded answers of real providers, played to the real client: same results, and a span that says what they say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support.apis import Async, Sync, live_through
from tests.support.replay import NO_SHARED, Recording, Replay, load_recording, shared_folder
from tests.support.spans import Spans, attributes

pytestmark = pytest.mark.shared

FOLDERS = ("openai", "groq", "together")
HOSTS = ("api.openai.com", "api.groq.com", "api.together.xyz", "openai.azure.com", "localhost")


def recordings() -> list[Any]:
    """Every chat completion (and Together's text completions) there is."""
    folder = shared_folder()
    if folder is None:
        return [pytest.param(None, marks=pytest.mark.skip(reason=NO_SHARED), id="recordings")]
    found: list[Any] = []
    for name in FOLDERS:
        for file in sorted((folder / "recordings" / name).glob("*.json")):
            recording = load_recording(file)
            chat = recording.url_path.partition("?")[0].endswith("/chat/completions")
            if (chat or name == "together") and recording.host.endswith(HOSTS):
                found.append(pytest.param(recording, id=f"{name}/{file.stem}"))
    return found


@dataclass
class Said:
    """What a body says of itself, read without any client."""

    id: str | None = None
    model: str | None = None
    reasons: dict[int, str] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)

    def take(self, data: dict[str, Any]) -> None:
        self.id = self.id or data.get("id") or None
        self.model = data.get("model") or self.model
        for choice in data.get("choices") or []:
            if choice.get("finish_reason"):
                self.reasons[choice["index"]] = choice["finish_reason"]
        groq = (data.get("x_groq") or {}).get("usage")
        self.usage = data.get("usage") or groq or self.usage


def read(recording: Recording) -> Said:
    said = Said()
    if recording.streaming:
        for line in recording.body.splitlines():
            text = line.removeprefix("data:").strip()
            if line.startswith("data:") and text != "[DONE]":
                said.take(json.loads(text))
    else:
        said.take(json.loads(recording.body))
    return said


@pytest.fixture(scope="module")
def server() -> Iterator[Replay]:
    with Replay() as replay:
        yield replay


@pytest.fixture(scope="module", params=["sync", "async"])
def shared_api(request: pytest.FixtureRequest, server: Replay) -> Iterator[Sync]:
    api = (Async if request.param == "async" else Sync)(server.base_url)
    yield api
    api.shut()


@pytest.mark.parametrize("recording", recordings())
def test_recording(shared_api: Sync, server: Replay, spans: Spans, tracing: Any, recording: Recording) -> None:
    server.reset()
    server.serve(recording.script())
    asked = {name: value for name, value in recording.request.items() if name not in ("model", "messages", "prompt")}
    model = recording.request.get("model") or "a-deployment"
    legacy = recording.url_path.endswith("/v1/completions")

    def call() -> Any:
        if legacy:
            completions = shared_api.client.completions
            return shared_api.run(completions.create(model=model, prompt=recording.request["prompt"])).model_dump()
        return live_through(
            shared_api, model=model, messages=recording.request["messages"], extra_body=asked, **streaming
        )

    streaming = {"stream": True} if recording.streaming else {}
    bare = call()
    tracing.on()
    assert call() == bare
    if legacy and not spans.parents():
        return  # text completions need not be traced; the application must only not notice
    span = spans.one("completed" if recording.status == 200 else "error")
    attrs = attributes(span)
    assert attrs["gen_ai.request.model"] == model
    if recording.status != 200:
        assert "gen_ai.response.id" not in attrs
        return
    said = read(recording)
    assert attrs.get("gen_ai.response.id") == said.id
    assert attrs.get("gen_ai.response.model") == said.model
    assert sorted(attrs.get("gen_ai.response.finish_reasons", ())) == sorted(said.reasons.values())
    usage = said.usage
    details = usage.get("prompt_tokens_details") or {}
    reasoning = usage.get("completion_tokens_details") or {}
    expected = {
        "input_tokens": usage.get("prompt_tokens"),
        "output_tokens": usage.get("completion_tokens"),
        "cache_read.input_tokens": details.get("cached_tokens"),
        "reasoning.output_tokens": reasoning.get("reasoning_tokens"),
    }
    for name, value in expected.items():
        attribute = f"gen_ai.usage.{name}"
        if value or name in ("input_tokens", "output_tokens"):
            assert attrs.get(attribute) == value, name
        else:
            assert attrs.get(attribute, 0) == 0, name
    if usage.get("queue_time") is not None and recording.host == "api.groq.com":
        phases = {name: attributes(phase)["llmtrace.phase.source"] for name, phase in spans.phases(span).items()}
        assert attrs.get("llmtrace.server.engine", "groq") == "groq"
        assert phases, "the recorded server times are longer than a replay at once: merged phases are right too"


@pytest.mark.parametrize("recording", recordings()[:1])
def test_there_are_enough_of_them(recording: Recording) -> None:
    hosts = [param.values[0].host for param in recordings()]
    assert len(hosts) > 140
    assert {"api.openai.com", "api.groq.com", "api.together.xyz"} <= set(hosts)
    assert any(host.endswith("azure.com") for host in hosts)
