"""Content capture over every recording, and over answers with everything in them: what the span says is what the body
and the request say, and it is of the shape that the conventions' JSON schemas set down.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from llmtrace.observe import internal_errors
from tests.conftest import Tracing
from tests.providers.test_recordings_by_funnel import FOLDERS
from tests.support import by_funnel, by_library, by_method, contents
from tests.support.by_method import Driver
from tests.support.contents import Told
from tests.support.replay import Replay, json_answer, paced
from tests.support.rich import DRIVERS, rich
from tests.support.spans import Spans, attributes

SCHEMAS = json.loads((Path(__file__).parent / "schemas" / "gen-ai.json").read_text())
PARTS = {
    schema["properties"]["type"]["const"]: name
    for name, schema in SCHEMAS["$defs"].items()
    if "const" in schema.get("properties", {}).get("type", {}) and name.endswith("Part")
}
"""The definition of each type of part. The schemas let every part pass that has a type; one of a known type must be
what its own definition says."""


def validator(schema: dict[str, Any]) -> Any:
    return jsonschema.Draft7Validator({"$defs": SCHEMAS["$defs"], **schema})


ROOTS = {name: validator(schema) for name, schema in SCHEMAS["roots"].items()}
BY_TYPE = {kind: validator({"$ref": f"#/$defs/{name}"}) for kind, name in PARTS.items()}


def captured(attrs: dict[str, Any]) -> dict[str, Any]:
    """The content on a span, each value valid by its schema."""
    values = {name: json.loads(attrs[name]) for name in SCHEMAS["roots"] if name in attrs}
    for name, value in values.items():
        ROOTS[name].validate(value)
        for part in (part for message in value if name.endswith("messages") for part in message["parts"]):
            if part["type"] in BY_TYPE:
                BY_TYPE[part["type"]].validate(part)
    return {name.removeprefix("gen_ai."): value for name, value in values.items()}


def completed(spans: Spans) -> dict[str, Any]:
    """The attributes of the only call's span, which has content on it."""
    (span,) = spans.parents()
    spans.check(span, content=True)
    attrs = attributes(span)
    assert attrs["llmtrace.call.outcome"] == "completed"
    return attrs


Reader = Callable[[Sequence[Any], bool], list[Told]]


def differences(attrs: dict[str, Any], request: Any, answers: Sequence[Any], streamed: bool, read: Reader) -> list[Any]:
    """What the span says and the body or request does not, or the other way about."""
    told = captured(attrs)
    pairs = {
        "output": ([contents.boiled(m) for m in told.get("output.messages", [])], read(answers, streamed)),
        "input": ([contents.boiled(m) for m in told.get("input.messages", [])], contents.asked(request)),
        "system": (
            "".join(part["content"] for part in told.get("system_instructions", [])),
            contents.instructed(request),
        ),
        "tools": ([tool["name"] for tool in told.get("tool.definitions", [])], contents.tool_names(request)),
    }
    return [(name, *pair) for name, pair in pairs.items() if pair[0] != pair[1]]


# ---- the recordings --------------------------------------------------------------------------------------------------

GENERATING = ("chat", "text_completion", "generate_content")


def play_all(
    name: str, kind: str, replay: Replay, spans: Spans, tracing: Tracing
) -> Iterator[tuple[str, Any, Any, bool, Reader]]:
    """Each recording of a folder, played; yields its name, request, answers, whether it is streamed, and its reader.

    ``kind``: ``sync``, ``async``, or ``other``: that which test_recordings_by_funnel.py does not play it to.
    """
    from tests.instrumentation import test_ollama_recordings as by_ollama
    from tests.providers import test_recordings_by_funnel as funnel
    from tests.providers import test_recordings_by_method as method

    if name == "ollama":
        for param in by_ollama.recordings():
            recording = param.values[0]
            if not recording.url_path.startswith("/api/embed"):
                replay.serve(by_ollama.script(recording))
                ask_ollama(recording, kind, replay, by_ollama.METHODS)
                answers = [json.loads(line) for line in recording.body.strip().splitlines()]
                yield param.id, recording.request, answers, recording.streaming, contents.ollama
        return
    if name in funnel.FOLDERS:
        for param in funnel.recordings():
            folder, file, played = param.values
            recording = None if folder != name else funnel.load_recording(file)
            operation = None if recording is None else funnel.operation_of(recording.url_path)
            if recording is None or operation in (None, "embeddings") or recording.status != 200:
                continue
            kind = "async" if played == "sync" else "sync"
            driver = funnel.driver_of(folder, recording)(kind, replay.url)
            if hasattr(driver.client, operation.partition(".")[0]):
                replay.serve(recording.script())
                funnel.Seen(driver, recording, operation)
                read = contents.messages if folder == "anthropic" else _OPENAI.get(operation, contents.completions)
                yield param.id, recording.request, funnel.bodies(recording), recording.streaming, read
            driver.shut()
        return
    drivers = {"mistralai": by_method.Mistral, "cohere": by_method.Cohere, "bedrock": by_method.Bedrock}
    driver_class = by_method.AioBedrock if (name, kind) == ("bedrock", "async") else drivers[name]
    driver = driver_class(kind, replay.url)
    for param in method.recordings():
        made, made_kind, file = param.values
        if made is driver_class and made_kind == kind:
            recorded = method.Recorded(file)
            if not any(word in recorded.path for word in ("rerank", "embed")) and recorded.script.status == 200:
                replay.serve(recorded.script)
                method.ask(driver, recorded)
                read = {"cohere": contents.cohere, "bedrock": contents.bedrock}.get(name, contents.completions)
                yield param.id or "", recorded.request, recorded.said, recorded.streaming, read
    driver.shut()


_OPENAI: dict[Any, Reader] = {"responses": contents.responses}


def ask_ollama(recording: Any, kind: str, replay: Replay, methods: dict[str, str]) -> None:
    import ollama

    driver = by_library.Ollama(kind, replay.url)
    driver.client = (ollama.Client if kind == "sync" else ollama.AsyncClient)(host=replay.url)
    asked = {name: value for name, value in recording.request.items() if value not in ("", [], None)}
    answer = driver.run(lambda: getattr(driver.client, methods[recording.url_path])(**asked))
    if recording.streaming:
        driver.drain(answer)
    driver.shut()


LEAST = {
    "openai": 190,
    "anthropic": 30,
    "groq": 12,
    "together": 3,
    "mistralai": 4,
    "cohere": 9,
    "bedrock": 40,
    "ollama": 17,
}
"""So that a folder which moved does not pass for one that is read."""
CLIENTS = {"bedrock": ("bedrock", "aiobotocore")}


@pytest.mark.shared
@pytest.mark.parametrize(
    ("folder", "kind"),
    [(each, kind) for each in LEAST for kind in (("other",) if each in FOLDERS else ("sync", "async"))],
)
def test_recordings(folder: str, kind: str, replay: Replay, spans: Spans, tracing: Tracing) -> None:
    tracing.on(*CLIENTS.get(folder, (folder,)), capture_content="span_only")
    before = +internal_errors.counts
    wrong: list[Any] = []
    played = 0
    for name, request, answers, streamed, read in play_all(folder, kind, replay, spans, tracing):
        attrs = attributes(spans.one())
        assert attrs["gen_ai.operation.name"] in GENERATING
        if attrs["llmtrace.call.outcome"] == "completed":
            wrong += [(name, *differing) for differing in differences(attrs, request, answers, streamed, read)]
            played += 1
        spans.clear()
    assert not wrong, "\n".join(map(str, wrong[:20]))
    assert internal_errors.counts == before
    assert played >= LEAST[folder]


# ---- answers with everything in them ---------------------------------------------------------------------------------


def reader_of(driver: Driver) -> Reader:
    for kind, reader in (
        (by_funnel.Responses, contents.responses),
        (by_funnel.Anthropic, contents.messages),
        (by_method.Google, contents.google),
        (by_method.Cohere, contents.cohere),
        (by_library.Ollama, contents.ollama),
        (by_method.Bedrock, contents.bedrock),
    ):
        if isinstance(driver, kind):
            return reader
    return of_mistral if isinstance(driver, by_method.Mistral) else contents.completions


def of_mistral(answers: Sequence[Any], streamed: bool) -> list[Told]:
    """Its client drops what its models do not know, so that nobody sees it."""
    return [replace(told, reasoning="", refusal="") for told in contents.completions(answers, streamed)]


def documents(driver: Driver, events: Sequence[bytes]) -> list[Any]:
    """The JSON objects of a stream."""
    from tests.support import mutants

    if isinstance(driver, by_method.Bedrock):
        read = mutants.read_chunk if isinstance(driver, by_method.BedrockInvoke) else mutants.read_aws
    else:
        read = mutants.read_line if isinstance(driver, by_library.Ollama) else mutants.read_sse
    return [data for event in events if (data := read(event).data) is not None]


CASES = [pytest.param(driver, kind, id=f"{driver.__name__}-{kind}") for driver in DRIVERS for kind in driver.kinds]


@pytest.mark.parametrize(("driver", "kind"), CASES)
def test_rich_answers(driver: type[Driver], kind: str, replay: Replay, spans: Spans, tracing: Tracing) -> None:
    opened = driver(kind, replay.url)
    whole, events = rich(opened)
    tracing.on(opened.name, capture_content="span_only")
    before = +internal_errors.counts
    read = reader_of(opened)
    try:
        replay.serve(json_answer(whole))
        opened.call()
        told = captured(completed(spans))
        assert [contents.boiled(message) for message in told["output.messages"]] == read([whole], False)
        if isinstance(opened, by_method.Mistral):
            return  # its client takes no call in pieces
        spans.clear()
        replay.serve(opened.script(paced(events)))
        opened.drain(opened.stream())
        told = captured(completed(spans))
        assert [contents.boiled(message) for message in told["output.messages"]] == read(
            documents(opened, events), True
        )
    finally:
        opened.shut()
    assert internal_errors.counts == before
