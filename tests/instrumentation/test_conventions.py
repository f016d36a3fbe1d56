"""What the GenAI conventions v0.1.0 want of a call's span and its content, from real calls of real clients."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry._logs import SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs import export as logs

import llmtrace
from llmtrace.providers.messages import instructions, tool
from tests.conftest import Tracing
from tests.support import replay as play
from tests.support.apis import LOST, SYSTEM, Sync
from tests.support.late import Late
from tests.support.replay import Replay
from tests.support.spans import Spans, attributes

if TYPE_CHECKING:
    import anthropic
else:
    anthropic = Late("anthropic")

OPTIONS = {
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
SET = {
    "gen_ai.request.temperature": 0.5,
    "gen_ai.request.top_p": 0.9,
    "gen_ai.request.frequency_penalty": 0.1,
    "gen_ai.request.presence_penalty": 0.2,
    "gen_ai.request.seed": 7,
    "gen_ai.request.max_tokens": 50,
    "gen_ai.request.choice.count": 2,
    "gen_ai.request.stop_sequences": ("END",),
    "gen_ai.request.reasoning.level": "low",
    "gen_ai.output.type": "json",
}
FULL = play.USAGE | {
    "completion_tokens_details": {"reasoning_tokens": 2},
    "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3},
}


@pytest.mark.parametrize("way", ["completed", "left", "broken"])
def test_every_attribute_stays_on_the_span(
    way: str, traced: Tracing, make_api: Callable[..., Sync], replay: Replay, spans: Spans
) -> None:
    """All options set, everything told, in a task and a step: all of it is on the call's span, in no event."""
    told = {"openai-processing-ms": "12", "x-request-id": "r", "cf-ray": "8-ZRH"}
    script = play.openai_stream(usage=FULL, ttft=0.03, itl=0.004, headers=told, last={"metrics": play.VLLM_METRICS})
    if way == "broken":
        script = replace(script, parts=script.parts[:3], after="rst")
    replay.play(script)
    api = make_api("sync", max_retries=2)
    with llmtrace.task("t", id="42"), llmtrace.step("s", kind="retrieval"):
        stream = api.stream(**OPTIONS)
        if way == "left":
            api.take(stream, 2)
            api.close(stream)
        elif way == "broken":
            with pytest.raises(LOST):
                api.drain(stream)
        else:
            api.drain(stream)
    (parent,) = [span for span in spans.parents() if span.name.startswith("chat ")]
    assert SET.items() <= attributes(parent).items()
    assert {event.name for event in parent.events} <= {"llmtrace.diagnosis"}


# ---- finish reasons ------------------------------------------------------------------------------------------------


def stream_of(ended: dict[int, str], *, choices: int = 3, cut: str | None = None) -> play.Script:
    """A stream of several choices, of which some end; ``cut``: how the connection then goes on."""
    chunks = [play.chunk({"role": "assistant", "content": "a"}, index=index) for index in range(choices)]
    chunks += [play.chunk({}, index=index, finish=reason) for index, reason in ended.items()]
    script = play.events_script(*chunks, done=cut is None)
    return script if cut is None else replace(script, after=cut)


def reasons(spans: Spans) -> tuple[str, ...] | None:
    return attributes(spans.parents()[-1]).get("gen_ai.response.finish_reasons")


@pytest.mark.parametrize(
    ("ended", "expected"),
    [
        ({}, ("error", "error", "error")),
        ({1: "stop"}, ("error", "stop", "error")),
        ({2: "length", 0: "stop"}, ("stop", "error", "length")),
        ({2: "length", 1: "tool_calls", 0: "stop"}, ("stop", "tool_calls", "length")),
    ],
)
def test_a_broken_stream(
    ended: dict[int, str],
    expected: tuple[str, ...],
    traced: Tracing,
    api: Sync,
    replay: Replay,
    spans: Spans,
) -> None:
    """Each choice at its position; ``error`` where the end did not come."""
    replay.play(stream_of(ended, cut="rst"))
    with pytest.raises(LOST):
        api.drain(api.stream(n=3))
    assert reasons(spans) == expected


def test_ends_that_come_in_another_order(traced: Tracing, api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(stream_of({2: "length", 1: "content_filter", 0: "stop"}))
    api.drain(api.stream(n=3))
    assert spans.one("completed")
    assert reasons(spans) == ("stop", "content_filter", "length")


def test_a_stream_that_is_left(traced: Tracing, api: Sync, replay: Replay, spans: Spans) -> None:
    """Closed by the application while two of three choices are still to come."""
    replay.play(stream_of({1: "stop"}, cut="hang"))
    stream = api.stream(n=3)
    api.take(stream, 4)
    api.close(stream)
    assert spans.one("closed_early")
    assert reasons(spans) == ("error", "stop", "error")


def test_one_choice(traced: Tracing, api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(play.openai_stream(), replace(play.openai_stream(itl=0.01), after="hang"), play.server_error())
    api.drain(api.stream())
    assert reasons(spans) == ("stop",)
    stream = api.stream()
    api.take(stream, 2)
    api.close(stream)
    assert reasons(spans) == ("error",)
    with pytest.raises(Exception, match=r"500|internal"):
        api.create()
    assert reasons(spans) is None, "no answer had begun: error.type says what happened"


def test_an_end_that_is_never_told(traced: Tracing, api: Sync, replay: Replay, spans: Spans) -> None:
    """A server that gives no reasons at all, and whose streams end well: nothing is made up."""
    replay.play(play.events_script(play.chunk({"content": "a"}), play.chunk({"content": "b"})))
    api.drain(api.stream())
    assert reasons(spans) is None


# ---- content ---------------------------------------------------------------------------------------------------------

FUNCTION = {"name": "weather", "description": "TELLS-MUCH", "parameters": {"type": "object", "properties": {}}}
TOOLS = [{"type": "function", "function": FUNCTION}]


def content(spans: Spans) -> dict[str, Any]:
    """The content attributes of the last call."""
    named = ("gen_ai.system_instructions", "gen_ai.tool.definitions", "gen_ai.input.messages", "gen_ai.output.messages")
    found = attributes(spans.parents()[-1])
    return {name.removeprefix("gen_ai."): json.loads(found[name]) for name in named if name in found}


def test_chat(tracing: Tracing, api: Sync, replay: Replay, spans: Spans) -> None:
    """System messages are part of a chat's history, and stay there; its tools are told by type and name."""
    tracing.on(capture_content="span_only")
    replay.play(play.openai_stream(("one",)), play.openai_body("three"))
    for said in ("one", "three"):
        assert api.drain(api.stream(tools=TOOLS)) if said == "one" else api.create(tools=TOOLS)
        found = content(spans)
        assert "system_instructions" not in found
        assert [message["role"] for message in found["input.messages"]] == ["system", "user"]
        assert found["tool.definitions"] == [{"type": "function", "name": "weather"}]
        message = {"role": "assistant", "parts": [{"type": "text", "content": said}]}
        assert found["output.messages"] == [message], "its finish reason is on the span, once"
        assert reasons(spans) == ("stop",)


@pytest.mark.parametrize("semconv", ["v0.1.0", "v1.41"])
def test_a_message_s_finish_reason(semconv: str, tracing: Tracing, api: Sync, replay: Replay, spans: Spans) -> None:
    """Required in v1.41, deprecated in v0.1.0."""
    tracing.on(capture_content="span_only", semconv=semconv)
    replay.play(play.openai_body("three"))
    api.create()
    (message,) = content(spans)["output.messages"]
    assert message.get("finish_reason") == {"v0.1.0": None, "v1.41": "stop"}[semconv]


def test_responses(tracing: Tracing, api: Sync, replay: Replay, spans: Spans) -> None:
    tracing.on(capture_content="span_only")
    part = {"type": "output_text", "text": "Hello", "annotations": []}
    body = {
        "id": "resp_2",
        "object": "response",
        "created_at": play.CREATED,
        "model": play.MODEL,
        "status": "completed",
        "output": [{"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [part]}],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": None,
    }
    replay.play(play.json_answer(body))
    tools = [{"type": "function", **FUNCTION, "strict": True}, {"type": "web_search"}]
    asked = {"instructions": SYSTEM, "input": "PROMPT-SENTINEL", "tools": tools, "previous_response_id": "resp_1"}
    api.run(api.client.responses.create(model=play.MODEL, **asked))
    assert content(spans) == {
        "system_instructions": [{"type": "text", "content": SYSTEM}],
        "tool.definitions": [{"type": "function", "name": "weather"}, {"type": "web_search", "name": "web_search"}],
        "input.messages": [{"role": "user", "parts": [{"type": "text", "content": "PROMPT-SENTINEL"}]}],
        "output.messages": [{"role": "assistant", "parts": [{"type": "text", "content": "Hello"}]}],
    }
    assert attributes(spans.parents()[-1])["gen_ai.request.previous_response.id"] == "resp_1"


@pytest.mark.parametrize("system", [SYSTEM, [{"type": "text", "text": SYSTEM}]])
def test_anthropic(system: Any, tracing: Tracing, replay: Replay, spans: Spans) -> None:
    tracing.on("anthropic", capture_content="span_only")
    body = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": [
            {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "x"}},
            {"type": "text", "text": "Hello"},
        ],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 3, "output_tokens": 2},
    }
    replay.play(play.json_answer(body))
    tools: Any = [
        {"name": "weather", "description": "TELLS-MUCH", "input_schema": {"type": "object"}},
        {"type": "web_search_20250305", "name": "web_search"},
    ]
    with anthropic.Anthropic(base_url=replay.base_url.removesuffix("/v1"), api_key="k", max_retries=0) as client:
        messages: Any = [{"role": "user", "content": "PROMPT-SENTINEL"}]
        client.messages.create(model="claude", max_tokens=9, system=system, messages=messages, tools=tools)
    call = {"type": "web_search", "arguments": {"query": "x"}}
    assert content(spans) == {
        "system_instructions": [{"type": "text", "content": SYSTEM}],
        "tool.definitions": [
            {"type": "function", "name": "weather"},
            {"type": "web_search_20250305", "name": "web_search"},
        ],
        "input.messages": [{"role": "user", "parts": [{"type": "text", "content": "PROMPT-SENTINEL"}]}],
        "output.messages": [
            {
                "role": "assistant",
                "parts": [
                    {"type": "server_tool_call", "id": "s1", "name": "web_search", "server_tool_call": call},
                    {"type": "text", "content": "Hello"},
                ],
            }
        ],
    }


def test_nothing_of_it_by_default(traced: Tracing, api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(play.openai_body())
    api.create(tools=TOOLS)
    assert content(spans) == {}
    assert "TELLS-MUCH" not in str(attributes(spans.one("completed")))


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[Any]]]:
    """Log records as a program collects them; on versions before 1.37 events have a provider of their own."""
    from opentelemetry._logs import _internal

    exporter = getattr(logs, "InMemoryLogRecordExporter", None) or logs.InMemoryLogExporter
    collected, provider = exporter(), LoggerProvider()
    provider.add_log_record_processor(logs.SimpleLogRecordProcessor(collected))
    monkeypatch.setattr(_internal, "_LOGGER_PROVIDER", provider)
    if importlib.util.find_spec("opentelemetry._events"):
        import opentelemetry._events as api
        from opentelemetry.sdk._events import EventLoggerProvider

        monkeypatch.setattr(api, "_EVENT_LOGGER_PROVIDER", EventLoggerProvider(provider))
    yield lambda: [each.log_record for each in collected.get_finished_logs()]
    provider.shutdown()


def test_the_event(tracing: Tracing, api: Sync, replay: Replay, spans: Spans, events: Callable[[], list[Any]]) -> None:
    """Structured, of severity DEBUG, in the context of the call's span."""
    tracing.on(capture_content="event_only")
    replay.play(play.openai_body("three"))
    api.create(tools=TOOLS)
    (event,) = events()
    span = spans.one("completed")
    told = dict(event.attributes) | dict(event.body or {})  # the body: of events before 1.37
    name = getattr(event, "event_name", None) or told["event.name"]
    assert name == "gen_ai.client.inference.operation.details"
    assert event.severity_number is SeverityNumber.DEBUG
    assert (event.trace_id, event.span_id) == (span.context.trace_id, span.context.span_id)
    assert told["gen_ai.tool.definitions"][0]["name"] == "weather"
    assert told["gen_ai.output.messages"][0]["parts"][0]["content"] == "three"
    assert told["gen_ai.usage.input_tokens"] == 40
    assert content(spans) == {}


def test_the_event_of_an_exception(
    traced: Tracing, api: Sync, replay: Replay, spans: Spans, events: Callable[[], list[Any]]
) -> None:
    """Of severity WARN, in the context of the call's span; with the exception's type, and nothing of its message."""
    replay.play(play.server_error(400), play.openai_body())
    with pytest.raises(openai.BadRequestError):
        api.create()
    api.create()
    (event,) = events()
    failed, _ = spans.parents()
    told = dict(event.attributes)
    assert (getattr(event, "event_name", None) or told.pop("event.name")) == "gen_ai.client.operation.exception"
    assert told == {"exception.type": "openai.BadRequestError"}
    assert event.severity_number is SeverityNumber.WARN
    assert (event.trace_id, event.span_id) == (failed.context.trace_id, failed.context.span_id)
    assert event.timestamp == failed.end_time


FIELDS = ["type", "name", "function", "text"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(FIELDS) | st.text(), inner),
)


@given(JSON)
def test_whatever_is_given_as_a_tool_or_instruction(given: Any) -> None:
    """Shapes of the conventions come out, whatever went in."""
    told = tool(given)
    assert told.keys() == {"type", "name"}
    assert all(isinstance(value, str) and value for value in told.values())
    for part in instructions(given):
        assert part["type"] == "text"
        assert part["content"]
