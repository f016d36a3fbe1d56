"""Recorded answers played to the real Mistral, Cohere and Bedrock clients: same results, spans that say the same."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from tests.conftest import Tracing
from tests.support import said
from tests.support.by_method import AioBedrock, Bedrock, Cohere, Driver, Mistral
from tests.support.replay import NO_SHARED, Replay, Script, json_answer, shared_folder
from tests.support.spans import Spans, attributes

pytestmark = pytest.mark.shared

FOLDERS: list[tuple[str, type[Driver]]] = [
    *(("mistralai", Mistral), ("cohere", Cohere), ("bedrock", Bedrock)),
    ("bedrock", AioBedrock),
]
HOP_BY_HOP = {"content-length", "content-encoding", "transfer-encoding", "connection", "keep-alive"}


def recordings() -> list[Any]:
    folder = shared_folder()
    if folder is None:
        return [pytest.param(None, None, None, marks=pytest.mark.skip(reason=NO_SHARED), id="recordings")]
    found: list[Any] = []
    for name, driver in FOLDERS:
        for file in sorted((folder / "recordings" / name).glob("*.json")):
            found.extend(pytest.param(driver, kind, file, id=f"{name}/{file.stem}-{kind}") for kind in driver.kinds)
    return found


def frames(body: bytes) -> Iterator[bytes]:
    """The messages of an AWS event stream, by their length alone."""
    while body:
        length = struct.unpack("!I", body[:4])[0]
        yield body[:length]
        body = body[length:]


def payload(frame: bytes) -> dict[str, Any]:
    headers = struct.unpack("!I", frame[4:8])[0]
    data = json.loads(frame[12 + headers : -4])
    return json.loads(base64.b64decode(data["bytes"])) if "bytes" in data else data


class Recorded:
    """One file: what was asked, a script that plays the answer, and what its body says."""

    def __init__(self, file: Path) -> None:
        data = json.loads(file.read_text())
        response = data["response"]
        self.path: str = data["request"]["path"].partition("#")[0]
        self.body: str = data["request"]["body"]
        self.request: dict[str, Any] = json.loads(self.body)
        self.streaming: bool = data["streaming"]
        self.headers = {k: v for k, v in response["headers"].items() if k not in HOP_BY_HOP}
        self.said: list[dict[str, Any]]
        if "body_base64" in response:
            parts = list(frames(base64.b64decode(response["body_base64"])))
            self.said = [payload(frame) for frame in parts]
            self.script = Script(response["status"], self.headers, [(0.0, part) for part in parts])
        elif self.streaming:
            end = (
                b"\n" if "stream+json" in self.headers.get("content-type", "") else b"\n\n"
            )  # Cohere's v1: a line each
            parts = [part + end for part in response["body"].encode().split(end) if part.strip()]
            lines = response["body"].splitlines()
            data_lines = [line.removeprefix("data:").strip() for line in lines if line.startswith(("data:", "{"))]
            self.said = [json.loads(line) for line in data_lines if line != "[DONE]"]
            self.script = Script(response["status"], self.headers, [(0.0, part) for part in parts])
        else:
            self.said = [json.loads(response["body"])]
            self.script = json_answer(response["body"].encode(), status=response["status"], headers=self.headers)


def ask(driver: Driver, recorded: Recorded) -> Any:
    """The same request through the real client; what the application sees of the answer."""
    sent = {name: value for name, value in recorded.request.items() if name != "stream"}
    if isinstance(driver, Bedrock):
        model, action = unquote(recorded.path.split("/")[2]), recorded.path.split("/")[-1]
        converses = action.startswith("converse")
        name = action.replace("-", "_") if converses else action.replace("invoke", "invoke_model").replace("-", "_")
        params = sent if converses else {"body": recorded.body}
        answer = driver.run(lambda: getattr(driver.client, name)(modelId=model, **params))
        if action == "converse":
            return driver.plain(answer)
        return driver.run(answer["body"].read) if action == "invoke" else driver.drain(answer)
    if isinstance(driver, Mistral):
        suffix = "_async" if driver.loop else ""
        chat = recorded.path.endswith("/chat/completions")
        owner = driver.client.chat if chat else driver.client.embeddings
        name = ("stream" if recorded.streaming else "complete") if chat else "create"
        if not chat:
            sent["inputs"] = sent.pop("input")
        method = getattr(owner, name + suffix)
    else:
        owner = driver.client if "/v2/" in recorded.path else v1(driver)
        method = getattr(owner, recorded.path.split("/")[-1] + ("_stream" if recorded.streaming else ""))
    answer = driver.run(lambda: method(**sent))
    return driver.drain(answer) if recorded.streaming else driver.plain(answer)


def v1(driver: Driver) -> Any:
    import cohere

    return (cohere.AsyncClient if driver.loop else cohere.Client)("sk-sentinel-key", base_url=driver.url)


def seen(driver: Driver, recorded: Recorded) -> Any:
    """What the application sees of the answer, or of the client's exception."""
    try:
        return ask(driver, recorded)
    except Exception as error:
        return type(error).__qualname__, str(error), getattr(error, "body", None)


def expected(driver: Driver, recorded: Recorded) -> said.Said:
    """Counts, id, model and finish reasons by the body (and Bedrock's headers)."""
    if isinstance(driver, Bedrock):
        return said.bedrock(recorded.said, recorded.headers)
    if isinstance(driver, Cohere):
        return said.cohere(recorded.said)
    return said.completions(recorded.said)


@pytest.mark.parametrize(("driver", "kind", "file"), recordings())
def test_recording(driver: type[Driver], kind: str, file: Path, replay: Replay, spans: Spans, tracing: Tracing) -> None:
    recorded = Recorded(file)
    replay.serve(recorded.script)
    opened = driver(kind, replay.url)
    try:
        bare = seen(opened, recorded)
        tracing.on(opened.name)
        assert seen(opened, recorded) == bare
    finally:
        opened.shut()
    refused = recorded.script.status != 200
    attrs = attributes(spans.one("error" if refused else "completed"))
    if refused:
        assert attrs["error.type"] == str(recorded.script.status)
        return
    assert not said.disagreements(attrs, expected(opened, recorded))
    assert attrs.get("llmtrace.server.processing_time") == said.processing(recorded.headers)
    if issubclass(driver, Bedrock) and "metrics" in json.dumps(recorded.said) + str(recorded.headers):
        assert attrs.get("llmtrace.server.engine") == "bedrock", "its times are read, and judged too long for a replay"
