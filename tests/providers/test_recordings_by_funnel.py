"""Recorded answers played to the real openai, anthropic, groq and together clients: same results, true spans.

What a span must say is read off the body here, without any client and without llmtrace.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Tracing
from tests.support.by_funnel import KEY, Anthropic, Groq, OpenAI, Stainless, Together
from tests.support.replay import NO_SHARED, Recording, Replay, load_recording, shared_folder
from tests.support.spans import Spans, attributes

pytestmark = pytest.mark.shared

Body = dict[str, Any]


class Azure(OpenAI):
    names = ("AzureOpenAI", "AsyncAzureOpenAI")

    def make(self) -> Any:
        import openai

        made = getattr(openai, self.names[self.kind == "async"])
        return made(api_key=KEY, azure_endpoint=self.url, api_version="2024-02-01", max_retries=0)


class AnthropicBedrock(Anthropic):
    names = ("AnthropicBedrock", "AsyncAnthropicBedrock")

    def make(self) -> Any:
        import anthropic

        made = getattr(anthropic, self.names[self.kind == "async"])
        keys = {"aws_access_key": "a", "aws_secret_key": KEY, "aws_region": "us-east-1"}
        return made(base_url=self.url, max_retries=0, **keys)


FOLDERS = {"openai": OpenAI, "anthropic": Anthropic, "groq": Groq, "together": Together}
OPERATIONS = {
    "chat/completions": "chat.completions",
    "completions": "completions",
    "embeddings": "embeddings",
    "responses": "responses",
    "messages": "messages",
    "invoke": "messages",
    "complete": "completions",
}


def operation_of(path: str) -> str | None:
    """The client's resource that asks this path, None for paths that are no model's call."""
    parts = path.partition("?")[0].strip("/").split("/")
    if "threads" in parts or "batches" in parts:
        return None
    return OPERATIONS.get("/".join(parts[-2:])) or OPERATIONS.get(parts[-1])


def driver_of(folder: str, recording: Recording) -> type[Stainless]:
    if recording.host.endswith("openai.azure.com"):
        return Azure
    return AnthropicBedrock if recording.host.startswith("bedrock") else FOLDERS[folder]


def recordings() -> list[Any]:
    folder = shared_folder()
    if folder is None:
        return [pytest.param(None, None, marks=pytest.mark.skip(reason=NO_SHARED), id="recordings")]
    found: list[Any] = []
    for name in FOLDERS:
        for file in sorted((folder / "recordings" / name).glob("*.json")):
            if (json.loads(file.read_text())["request"]).get("method") != "POST":
                continue
            found.append(pytest.param(name, file, id=f"{name}/{file.stem}"))
    return found


class Seen:
    """What an application sees of one call."""

    def __init__(self, driver: Stainless, recording: Recording, operation: str) -> None:
        sent = {k: v for k, v in recording.request.items() if k not in ("stream", "anthropic_version")}
        model = sent.pop("model", None) or "a-deployment"
        needed = {k: sent.pop(k) for k in ("messages", "prompt", "input", "max_tokens") if k in sent}
        resource = driver.client
        for part in operation.split("."):
            resource = getattr(resource, part)
        streaming = {"stream": True} if recording.streaming else {}
        self.model = model
        try:
            answer = driver.run(lambda: resource.create(model=model, extra_body=sent, **needed, **streaming))
            self.kind = type(answer).__qualname__
            self.items = driver.drain(answer) if recording.streaming else [driver.plain(answer)]
            self.error: Any = None
        except Exception as error:
            self.kind, self.items, self.error = type(error).__qualname__, [], str(error)


def bodies(recording: Recording) -> list[Body]:
    if not recording.streaming:
        return [json.loads(recording.body)]
    lines = [line[5:].strip() for line in recording.body.splitlines() if line.startswith("data:")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def said_by_messages(events: list[Body]) -> Body:
    """Anthropic's: one message, or message_start and what message_delta counted last."""
    first = events[0].get("message", events[0])
    deltas = [event for event in events if event["type"] == "message_delta"]
    usage = first["usage"] | {k: v for event in deltas for k, v in event["usage"].items() if v is not None}
    read, written = usage.get("cache_read_input_tokens"), usage.get("cache_creation_input_tokens")
    ends = [event["delta"]["stop_reason"] for event in deltas] or [first["stop_reason"]]
    return {
        "id": first["id"],
        "model": first["model"],
        "reasons": ends[-1:],
        "input": usage["input_tokens"] + (read or 0) + (written or 0),
        "output": usage["output_tokens"],
        "cached": read,
        "written": written,
    }


def said_by_responses(events: list[Body]) -> Body:
    last = (
        next(event["response"] for event in reversed(events) if "response" in event) if len(events) > 1 else events[0]
    )
    usage = last["usage"]
    return {
        "id": last["id"],
        "model": last["model"],
        "reasons": [(last.get("incomplete_details") or {}).get("reason") or last["status"]],
        "input": usage["input_tokens"],
        "output": usage["output_tokens"],
        "cached": usage["input_tokens_details"]["cached_tokens"],
        "reasoning": usage["output_tokens_details"]["reasoning_tokens"],
    }


def said_by_completions(events: list[Body]) -> Body:
    reasons: dict[int, str] = {}
    found: Body = {"id": None, "model": None}
    usage: Body = {}
    for event in events:
        found["id"] = found["id"] or event.get("id") or None
        found["model"] = event.get("model") or found["model"]
        for choice in event.get("choices") or []:
            if choice.get("finish_reason"):
                reasons[choice["index"]] = choice["finish_reason"]
        usage = event.get("usage") or (event.get("x_groq") or {}).get("usage") or usage
    return found | {
        "reasons": list(reasons.values()),
        "input": usage.get("prompt_tokens"),
        "output": usage.get("completion_tokens"),
        "cached": (usage.get("prompt_tokens_details") or {}).get("cached_tokens"),
        "reasoning": (usage.get("completion_tokens_details") or {}).get("reasoning_tokens"),
        "queue": usage.get("queue_time"),
    }


SAID = {"messages": said_by_messages, "responses": said_by_responses}
ATTRIBUTES = {
    "id": "gen_ai.response.id",
    "model": "gen_ai.response.model",
    "input": "gen_ai.usage.input_tokens",
    "output": "gen_ai.usage.output_tokens",
    "cached": "gen_ai.usage.cache_read.input_tokens",
    "written": "gen_ai.usage.cache_write.input_tokens",
    "reasoning": "gen_ai.usage.reasoning.output_tokens",
}


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(("folder", "file"), recordings())
def test_recording(folder: str, file: Path, kind: str, replay: Replay, spans: Spans, tracing: Tracing) -> None:
    recording = load_recording(file)
    operation = operation_of(recording.url_path)
    if operation is None or not recording.request:
        pytest.skip("no call of a model")
    replay.serve(recording.script())
    driver = driver_of(folder, recording)(kind, replay.url)
    if not hasattr(driver.client, operation.partition(".")[0]):
        pytest.skip("this version of the client no longer has it")
    try:
        bare = Seen(driver, recording, operation)
        sent = json.loads(replay.last.body)
        tracing.on(driver.name)
        seen = Seen(driver, recording, operation)
        assert vars(seen) == vars(bare)
        assert json.loads(replay.last.body) == sent
    finally:
        driver.shut()
    refused = recording.status != 200
    attrs = attributes(spans.one("error" if refused else "completed"))
    assert attrs["gen_ai.request.model"] == seen.model
    if refused:
        assert attrs["error.type"] == str(recording.status)
        assert "gen_ai.response.id" not in attrs
        return
    events = bodies(recording)
    said = SAID.get(operation, said_by_completions)(events)
    for name, attribute in ATTRIBUTES.items():
        assert (attrs.get(attribute) or None) == (said.get(name) or None), attribute
    assert sorted(attrs.get("gen_ai.response.finish_reasons", ())) == sorted(said["reasons"])
    if said.get("queue") is not None:
        assert attrs["llmtrace.server.engine"] == "groq", "its times are read, and judged too long for a replay"
    if recording.headers.get("openai-processing-ms"):
        told = float(recording.headers["openai-processing-ms"]) / 1000
        assert attrs["llmtrace.server.processing_time"] == pytest.approx(told)


@pytest.mark.parametrize("folder", [*FOLDERS])
def test_there_are_enough_of_them(folder: str) -> None:
    """So that a folder which moved does not pass for one that is read."""
    files = [param.values[1] for param in recordings() if param.values[0] == folder]
    assert len(files) >= {"openai": 200, "anthropic": 30, "groq": 10, "together": 3}[folder]
