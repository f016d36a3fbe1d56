"""Recorded answers of Ollama servers, played to the real client: same results, and a span that says what they say."""

from __future__ import annotations

import json
from typing import Any

import pytest

import llmtrace
from llmtrace.calls import tracer
from tests.support.replay import NO_SHARED, Recording, Replay, Script, load_recording, shared_folder
from tests.support.spans import Spans, attributes

pytestmark = pytest.mark.shared
ollama = pytest.importorskip("ollama")

METHODS = {"/api/chat": "chat", "/api/generate": "generate", "/api/embeddings": "embeddings", "/api/embed": "embed"}


def recordings() -> list[Any]:
    folder = shared_folder()
    if folder is None:
        return [pytest.param(None, marks=pytest.mark.skip(reason=NO_SHARED), id="recordings")]
    files = sorted((folder / "recordings" / "ollama").glob("*.json"))
    return [pytest.param(load_recording(file), id=file.stem) for file in files]


def script(recording: Recording) -> Script:
    lines = [line + b"\n" for line in recording.body.encode().splitlines()]
    return Script(recording.status, dict(recording.headers), [(0.0, line) for line in lines])


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("recording", recordings())
async def test_recording(replay: Replay, spans: Spans, recording: Recording, kind: str) -> None:
    replay.serve(script(recording))
    asked = {name: value for name, value in recording.request.items() if value not in ("", [], None)}
    make = ollama.Client if kind == "sync" else ollama.AsyncClient

    async def call() -> Any:
        method = getattr(make(host=replay.url), METHODS[recording.url_path])
        answer = method(**asked)
        if kind == "async":
            answer = await answer
        if not recording.streaming:
            return answer
        return list(answer) if kind == "sync" else [item async for item in answer]

    bare = await call()
    ended: list[Any] = []
    tracer.listeners.append(ended.append)
    llmtrace.instrument("ollama", tracer_provider=spans.provider)
    try:
        assert await call() == bare
    finally:
        llmtrace.uninstrument()
        tracer.listeners.remove(ended.append)
    attrs = attributes(spans.one("completed"))
    body = json.loads(recording.body.strip().splitlines()[-1])
    assert attrs["gen_ai.request.model"] == recording.request["model"]
    assert attrs.get("gen_ai.response.model") == body.get("model")
    assert attrs.get("gen_ai.usage.input_tokens") == body.get("prompt_eval_count")
    assert attrs.get("gen_ai.usage.output_tokens") == body.get("eval_count")
    assert list(attrs.get("gen_ai.response.finish_reasons", ())) == ([r] if (r := body.get("done_reason")) else [])
    timings = ended[0].answer.timings
    if "total_duration" not in body:
        assert timings is None
        return
    assert attrs["llmtrace.server.model_load"] == pytest.approx(body["load_duration"] / 1e9)
    assert timings.prefill == pytest.approx(body["prompt_eval_duration"] / 1e9)
    assert timings.decode == pytest.approx(body["eval_duration"] / 1e9)
    assert timings.total == pytest.approx(body["total_duration"] / 1e9)
    assert timings.queue == pytest.approx(timings.total - timings.prefill - timings.decode)
