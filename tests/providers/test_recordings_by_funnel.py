"""Recorded answers played to the real openai, anthropic, groq and together clients: same results, true spans.

What a span must say is read off the body here, without any client and without llmtrace.
"""

from __future__ import annotations

import importlib
import inspect
import json
import operator
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Tracing
from tests.support import said
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


KINDS = ("sync", "async")


def recordings() -> list[Any]:
    """Each recording with one of the two clients: test_content_of_recordings.py plays it to the other one."""
    folder = shared_folder()
    if folder is None:
        return [pytest.param(None, None, None, marks=pytest.mark.skip(reason=NO_SHARED), id="recordings")]
    found: list[Any] = []
    for name in FOLDERS:
        for file in sorted((folder / "recordings" / name).glob("*.json")):
            kind = KINDS[len(found) % 2]
            found.append(pytest.param(name, file, kind, id=f"{name}/{file.stem}-{kind}"))
    return found


class Seen:
    """What an application sees of one call."""

    def __init__(self, driver: Stainless, recording: Recording, operation: str) -> None:
        sent = {k: v for k, v in recording.request.items() if k not in ("stream", "anthropic_version")}
        model = sent.pop("model", None) or "a-deployment"
        names = ("messages", "prompt", "input", "max_tokens", "max_tokens_to_sample")
        needed = {k: sent.pop(k) for k in names if k in sent}
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


SAID = {"responses": said.responses, "embeddings": said.embeddings}


@pytest.mark.parametrize(("folder", "file", "kind"), recordings())
def test_recording(folder: str, file: Path, kind: str, replay: Replay, spans: Spans, tracing: Tracing) -> None:
    recording = load_recording(file)
    operation = operation_of(recording.url_path)
    replay.serve(recording.script())
    driver = driver_of(folder, recording)(kind, replay.url)
    if operation is None:
        return left_alone(driver, recording, replay, spans, tracing)
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
    failed = any(isinstance(body, dict) and body.get("error") for body in bodies(recording))
    attrs = attributes(spans.one("error" if refused or failed else "completed"))
    assert attrs["gen_ai.request.model"] == seen.model
    if refused:
        assert attrs["error.type"] == str(recording.status)
        assert "gen_ai.response.id" not in attrs
        return
    if failed:
        assert attrs["gen_ai.response.finish_reasons"] == ("error",), "in an HTTP 200, in the place of any choice"
        return
    read = said.messages if folder == "anthropic" else SAID.get(operation, said.completions)
    told = read(bodies(recording))
    assert not said.disagreements(attrs, told)
    if told.get("queue") is not None:
        assert attrs["llmtrace.server.engine"] == "groq", "its times are read, and judged too long for a replay"
    assert attrs.get("llmtrace.server.processing_time") == said.processing(recording.headers)


def left_alone(driver: Stainless, recording: Recording, replay: Replay, spans: Spans, tracing: Tracing) -> None:
    """A request that is no call of a language model: the same results, and no span, or a plain one."""
    if not recording.url_path.startswith("/v"):
        driver.shut()
        pytest.skip("a file that no client of a model's asked for")
    try:
        bare = ask_otherwise(driver, recording)
        sent = replay.last
        tracing.on(driver.name)
        assert ask_otherwise(driver, recording) == bare
        assert (replay.last.method, replay.last.path, replay.last.body) == (sent.method, sent.path, sent.body)
        assert sent.path.removeprefix("/v1") == recording.url_path.removeprefix("/v1")
    finally:
        driver.shut()
    spans.flush()
    plain = PLAIN.get(recording.url_path.partition("?")[0].removeprefix("/v1"))
    assert [span.name.split()[0] for span in spans.parents()] == ([] if plain is None else [plain])


PLAIN = {"/images/generations": "image_generation", "/moderations": "moderation"}
"""The operations of those among them that are traced."""
OTHERS = {
    "POST /assistants": "beta.assistants.create",
    "GET /assistants/(?P<assistant_id>[^/]+)": "beta.assistants.retrieve",
    "POST /threads": "beta.threads.create",
    "POST /threads/(?P<thread_id>[^/]+)/messages": "beta.threads.messages.create",
    "GET /threads/(?P<thread_id>[^/]+)/messages": "beta.threads.messages.list",
    "POST /threads/(?P<thread_id>[^/]+)/runs": "beta.threads.runs.create",
    "GET /threads/(?P<thread_id>[^/]+)/runs/(?P<run_id>[^/]+)": "beta.threads.runs.retrieve",
    "POST /images/generations": "images.generate",
    "POST /moderations": "moderations.create",
    "POST /messages/count_tokens": "messages.count_tokens",
}
"""Requests that are no call of a language model, and the client's methods that make them."""


def ask_otherwise(driver: Stainless, recording: Recording) -> Any:
    """The request through its method, or through what the client has for requests without one; what came of it."""
    asked = f"{recording.method} {recording.url_path.partition('?')[0].removeprefix('/v1')}"
    matches = ((re.fullmatch(pattern, asked), path) for pattern, path in OTHERS.items())
    found, path = next(((match, path) for match, path in matches if match), (None, ""))
    try:
        if found is None:
            made = importlib.import_module(f"{driver.package}._models").FinalRequestOptions
            options = made(
                method=recording.method.lower(),
                url=recording.url_path.removeprefix(driver.prefix),
                json_data=recording.request,
            )
            return driver.run(lambda: driver.client.request(object, options))
        method = operator.attrgetter(path)(driver.client)
        answer = driver.run(lambda: method(**found.groupdict(), **recording.request))
        if recording.streaming:
            return type(answer).__qualname__, driver.drain(answer)
        if inspect.isawaitable(answer):  # a list, asynchronously
            answer = driver.loop.run_until_complete(first_page(answer))
        return type(answer).__qualname__, driver.plain(answer)
    except Exception as error:
        return type(error).__qualname__, str(error)


async def first_page(pages: Any) -> Any:
    return await pages


@pytest.mark.parametrize("folder", [*FOLDERS])
def test_there_are_enough_of_them(folder: str) -> None:
    """So that a folder which moved does not pass for one that is read."""
    files = [param.values[1] for param in recordings() if param.values[0] == folder]
    assert len(files) >= {"openai": 200, "anthropic": 30, "groq": 10, "together": 3}[folder]
