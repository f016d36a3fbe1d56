"""Answers that are wrong in themselves, or lie on the wire in the oddest pieces, played to every client with content
capture on: the application sees what it sees without llmtrace, one span tells of the call, and nothing is logged.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

from llmtrace.observe import internal_errors
from tests.conftest import Tracing
from tests.providers.test_content_of_recordings import captured
from tests.providers.test_mutants import EVENTS, same, see
from tests.support import by_library, mutants
from tests.support.by_method import Driver
from tests.support.replay import Replay, Script, json_answer
from tests.support.rich import DRIVERS, rich
from tests.support.spans import Spans, attributes

LIBRARIES = (
    *DRIVERS,
    by_library.LiteLLM,
    by_library.LiteLLMHandler,
    by_library.LiteLLMResponses,
    by_library.LiteLLMMessages,
)
CASES = [pytest.param(driver, kind, id=f"{driver.__name__}-{kind}") for driver in LIBRARIES for kind in driver.kinds]


def changed(value: Any, change: Callable[[Any], Any]) -> Any:
    """A copy of a JSON value with ``change`` made to each value in it, from within."""
    if isinstance(value, dict):
        return change({name: changed(inner, change) for name, inner in value.items()})
    return change([changed(inner, change) for inner in value] if isinstance(value, list) else value)


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


DATA: dict[str, Callable[[Any], Any]] = {
    "17 digits": lambda value: 12_345_678_901_234_567 if is_count(value) else value,
    "beyond 64 bits": lambda value: 10**20 if is_count(value) else value,
    "text for numbers": lambda value: str(value) if is_count(value) or isinstance(value, float) else value,
    "numbers for text": lambda value: 7 if isinstance(value, str) else value,
    "arrays for objects": lambda value: [value] if isinstance(value, dict) else value,
    "objects for arrays": lambda value: {"0": value[0]} if isinstance(value, list) and value else value,
    "surrogates": lambda value: f"{value}\ud83d" if isinstance(value, str) and value[:1].isupper() else value,
    "nothing in its place": lambda value: None if isinstance(value, (dict, list)) and value else value,
}
"""What is done to each value of the answer."""


def at_once(data: bytes) -> list[bytes]:
    return [data]


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def cut_in_a_character(data: bytes) -> list[bytes]:
    """The body ends after the first byte of a character that has more, as its length says."""
    end = next((at for at, byte in enumerate(data) if byte >= 0xC0), len(data) // 2)
    return [data[: end + 1]]


WIRE = {"at once": at_once, "byte by byte": byte_by_byte, "cut in a character": cut_in_a_character}
ONCE = {
    "x-request-id": "first",
    "openai-processing-ms": "3",
    "x-envoy-upstream-service-time": "2",
    "server-timing": "server_queue;dur=1, server_ttft;dur=2",
    "x-queue-time": "1",
    "x-inference-time": "1",
    "x-total-time": "2",
    "fireworks-server-processing-time": "0.001",
    "x-litellm-model-id": "one",
    "x-litellm-response-cost": "0.5",
    "x-litellm-attempted-retries": "1",
    "x-litellm-overhead-duration-ms": "1",
    "x-kong-upstream-latency": "1",
    "cf-ray": "1-FRA",
    "x-ms-region": "East",
}
TWICE = {name.title(): value for name, value in ONCE.items()} | {"Openai-Processing-Ms": "x", "X-Queue-Time": "x"}
"""Headers that are there already, spelled otherwise, so that they go out twice."""


def scripts(driver: Driver) -> list[tuple[str, bool, Script]]:
    """What each answer is called, whether it is a stream, and how it is played."""
    bodies = [(json.loads(driver.whole().parts[0][1]), driver.events())]
    if type(driver) in DRIVERS:
        bodies.append(rich(driver))
    read = next((read for kind, read in EVENTS if isinstance(driver, kind)), mutants.read_sse)
    made: list[tuple[str, bool, Script]] = []
    for body, events in bodies:
        parsed = [read(event) for event in events]
        for name, change in DATA.items():
            answer = {key: changed(inner, change) for key, inner in body.items()}
            made.append((name, False, json_answer(mutants.dumped(answer))))
            spoiled = [
                replace(event, data={key: changed(inner, change) for key, inner in event.data.items()})
                if isinstance(event.data, dict)
                else event
                for event in parsed
            ]
            made.append((name, True, driver.script([(0.0, event.bytes()) for event in spoiled])))
        whole, stream = mutants.dumped(body), b"".join(events)
        for name, cut in WIRE.items():
            if cut is byte_by_byte and body is not bodies[0][0]:
                continue  # the other answer has many more bytes
            pieces = cut(whole)
            script = json_answer(b"".join(pieces))
            made.append((name, False, replace(script, parts=[(0.0, piece) for piece in pieces])))
            made.append((name, True, driver.script([(0.0, piece) for piece in cut(stream)])))
        twice = json_answer(body, headers=ONCE | TWICE)
        made.append(("a header twice", False, twice))
        script = driver.script([(0.0, stream)])
        headers = {**script.headers, **ONCE, **TWICE}
        made.append(("a header twice", True, replace(script, headers=headers)))
    return made


def experience(driver: Driver, streaming: bool) -> str:
    """What the application sees of a call."""
    seen = see(driver, streaming, "")
    if isinstance(driver, by_library.LiteLLM) and "error" in seen:  # in its messages stand times and ids of its own
        seen["error"] = [name for name, *_ in seen["error"]]
    return same(seen)


@pytest.mark.parametrize(("driver", "kind"), CASES)
def test_bad_input(
    driver: type[Driver], kind: str, replay: Replay, spans: Spans, tracing: Tracing, caplog: pytest.LogCaptureFixture
) -> None:
    opened = driver(kind, replay.url)
    wrong: list[str] = []
    try:
        cases = scripts(opened)
        if len(driver.kinds) > 1:  # every other case, and the rest with the other kind of client
            other = driver.kinds.index(kind)
            cases = [case for number, case in enumerate(cases) if (number // 2 + number) % 2 == other]
        bare: list[str] = []
        for _, streaming, script in cases:
            replay.serve(script)
            bare.append(experience(opened, streaming))
        tracing.on(opened.name, capture_content="span_only")
        caplog.set_level(logging.DEBUG, "llmtrace")
        before = +internal_errors.counts
        for (name, streaming, script), usual in zip(cases, bare, strict=True):
            spans.clear()
            replay.serve(script)
            seen = experience(opened, streaming)
            if not spans.parents():  # a stream that was let go of
                opened.settle()
                spans.flush()
            what = f"{'stream' if streaming else 'whole'}, {name}"
            if seen != usual:
                wrong.append(f"{what}:\n  {usual}\n  {seen}")
            if len(spans.parents()) != 1:
                wrong.append(f"{what}: {len(spans.parents())} spans")
            for span in spans.parents():
                captured(attributes(span))
            encode_spans(spans.finished())
            logged = [record for record in caplog.records if record.name.startswith(("llmtrace", "opentelemetry"))]
            if logged:
                wrong.append(f"{what}: {[record.getMessage() for record in logged]}")
            caplog.clear()
    finally:
        opened.shut()
    assert not wrong, "\n".join(wrong)
    assert internal_errors.counts == before
