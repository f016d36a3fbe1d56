"""A call's span can be read: few attributes, and no events but a diagnosis's evidence and what is too much for it.

Fewer than 25 attributes, whatever the program asks for and the provider tells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from llmtrace.emit.readable import overflow

import llmtrace
from llmtrace.analyze.schema import FROM_ATTRIBUTES
from llmtrace.emit import names
from tests.conftest import Tracing
from tests.support import replay as play
from tests.support.apis import LOST, Sync
from tests.support.replay import Replay
from tests.support.spans import Spans, attributes

pytestmark = pytest.mark.usefixtures("traced")

MOST = 25
TOLD = play.USAGE | {"completion_tokens_details": {"reasoning_tokens": 2}}


@pytest.mark.parametrize("way", ["whole", "streamed", "server_timings", "left", "retried", "refused"])
def test_few_attributes(way: str, make_api: Callable[..., Sync], replay: Replay, spans: Spans) -> None:
    """By every way a call goes, from a provider that tells all it can."""
    api = make_api("sync", max_retries=2)
    told = {"openai-processing-ms": "12"}
    metrics = {"metrics": play.VLLM_METRICS} if way == "server_timings" else None
    if way == "retried":
        replay.play(play.too_many(1), play.too_many(1))
    if way == "refused":
        replay.play(play.server_error(400))
        with pytest.raises(Exception, match="400"):
            api.create()
    elif way == "whole":
        replay.play(play.openai_body(usage=TOLD))
        api.create()
    else:
        replay.play(play.openai_stream(usage=TOLD, ttft=0.03, itl=0.004, headers=told, last=metrics))
        stream = api.stream(max_tokens=50) if way == "left" else api.stream()
        if way == "left":
            api.take(stream, 2)
            api.close(stream)
        else:
            api.drain(stream)
    (parent,) = spans.parents()
    assert len(attributes(parent)) < MOST, attributes(parent)
    assert {event.name for event in parent.events} <= {"llmtrace.diagnosis", "llmtrace.call.details"}
    assert all(not span.events for span in spans.finished() if span is not parent)
    assert all(len(attributes(span)) < MOST for span in spans.finished() if span is not parent)


OPTIONS_SET = {
    "temperature": 0.5,
    "top_p": 0.9,
    "frequency_penalty": 0.1,
    "presence_penalty": 0.2,
    "seed": 7,
    "max_tokens": 50,
    "n": 2,
    "stop": ["END"],
    "reasoning_effort": "low",
    "service_tier": "flex",
    "response_format": {"type": "json_object"},
}
FULL = play.USAGE | {
    "completion_tokens_details": {"reasoning_tokens": 2},
    "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3},
}


@pytest.mark.parametrize("way", ["completed", "left", "broken"])
def test_the_fullest_call(way: str, make_api: Callable[..., Sync], replay: Replay, spans: Spans) -> None:
    """All options set, everything told, in a task and a step: what is too much is in one event."""
    told = {"openai-processing-ms": "12", "x-request-id": "r", "cf-ray": "8-ZRH"}
    script = play.openai_stream(usage=FULL, ttft=0.03, itl=0.004, headers=told, last={"metrics": play.VLLM_METRICS})
    if way == "broken":
        script = replace(script, parts=script.parts[:3], after="rst")
    replay.play(script)
    api = make_api("sync", max_retries=2)
    with llmtrace.task("t", id="42"), llmtrace.step("s", kind="retrieval"):
        stream = api.stream(**OPTIONS_SET)
        if way == "left":
            api.take(stream, 2)
            api.close(stream)
        elif way == "broken":
            with pytest.raises(LOST):
                api.drain(stream)
        else:
            api.drain(stream)
    (parent,) = [span for span in spans.parents() if span.name.startswith("chat ")]
    found = attributes(parent)
    assert len(found) < MOST, list(found)
    (details,) = [event for event in parent.events if event.name == "llmtrace.call.details"]
    asked = dict(details.attributes or {})
    assert asked["gen_ai.request.temperature"] == 0.5
    assert asked["gen_ai.request.stop_sequences"] == ("END",)
    assert found["gen_ai.request.max_tokens"] == 50, "what an answer may cost is read off the call"
    assert not asked.keys() & found.keys()
    assert details.timestamp == parent.end_time


def test_the_setting(tracing: Tracing, make_api: Callable[..., Sync], replay: Replay, spans: Spans) -> None:
    """Who wants all of it on the span gets it; few that are asked for leave what cannot be moved."""
    replay.serve(play.openai_body(usage=FULL))
    api = make_api("sync")
    for most, moved in ((128, False), (6, True)):
        spans.clear()
        tracing.off()
        tracing.on(span_attributes=most)
        api.create(**OPTIONS_SET)
        (parent,) = spans.parents()
        assert ("gen_ai.request.temperature" in attributes(parent)) is not moved
        assert bool(parent.events) is moved
        assert attributes(parent)["gen_ai.request.model"] == "gpt-4o-mini"


def test_nothing_that_reports_read_is_moved() -> None:
    """A call of which all is known that can be known of one: below the limit, and what reports ask for still there."""
    more = ("gen_ai.request.temperature", "gen_ai.request.top_p", "openai.response.system_fingerprint")
    everything = dict.fromkeys([*(getattr(names, name) for name in CALL), *more], 1)
    kept = dict(everything)
    moved = overflow(kept, ["gen_ai.operation.name", "gen_ai.provider.name", "server.address", "server.port"], 24)
    assert len(kept) <= 20
    assert kept | dict(moved) == everything
    asked = {attribute for column in FROM_ATTRIBUTES for attribute in column.attributes}
    assert not asked & moved.keys() - {names.TIME_TO_FIRST_CHUNK}, "read only where the first token's time is not there"


CALL = (
    *("REQUEST_MODEL", "REQUEST_STREAM", "RESPONSE_ID", "RESPONSE_MODEL", "FINISH_REASONS", "TIME_TO_FIRST_CHUNK"),
    *("INPUT_TOKENS", "OUTPUT_TOKENS", "CACHE_READ_TOKENS", "CACHE_WRITE_TOKENS", "REASONING_TOKENS"),
    *("SCHEMA", "OUTCOME", "TTFT", "ROUTE", "ENGINE", "PROCESSING_TIME", "ANCHOR", "CHUNKS", "EXPECTED_TOKENS"),
    *("DIAGNOSIS", "CONFIDENCE", "TASK_ID", "STEP_KIND"),
)
