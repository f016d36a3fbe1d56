"""What providers say themselves of a prompt cache that missed: on the call, and as evidence of a cold cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support import replay as play
from tests.support.spans import attributes

if TYPE_CHECKING:
    from tests.conftest import Tracing
    from tests.support.apis import Sync
    from tests.support.clock import Clock
    from tests.support.replay import Replay
    from tests.support.spans import Spans

PROMPT = 2000
WARM, COLD = 0.03, 0.6
"""Seconds until the answer."""


def response(cached: int, diagnostics: Any) -> dict[str, Any]:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed"}
    usage = {
        "input_tokens": PROMPT,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": 4,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": PROMPT + 4,
    }
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1790000000.0,
        "status": "completed",
        "model": "gpt-5.6",
        "output": [message | {"content": [{"type": "output_text", "text": "Hello.", "annotations": []}]}],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": usage,
        "prompt_cache_diagnostics": diagnostics,
    }


def anthropic_message(cached: int, reason: Any) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": [{"type": "text", "text": "Hello."}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": PROMPT - cached, "cache_read_input_tokens": cached, "output_tokens": 4},
        "diagnostics": {"cache_miss_reason": reason},
    }


def ask_openai(replay: Replay, body: dict[str, Any], pause: float) -> None:
    import openai

    replay.serve(play.json_answer(body, before=pause))
    with openai.OpenAI(api_key="x", base_url=replay.base_url, max_retries=0) as client:
        client.responses.create(model="gpt-5.6", input="hello")


def ask_openai_stream(replay: Replay, body: dict[str, Any], pause: float, clock: Clock | None = None) -> None:
    import openai

    begun = body | {"status": "in_progress", "output": [], "usage": None, "prompt_cache_diagnostics": None}
    delta = {"item_id": "msg_1", "output_index": 0, "content_index": 0, "delta": "Hello.", "logprobs": []}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "sequence_number": 0, "response": begun},
        {"type": "response.output_text.delta", "sequence_number": 1, **delta},
        {"type": "response.completed", "sequence_number": 2, "response": body},
    ]
    script = play.events_script(*events, done=False, ttft=pause)
    replay.serve(script if clock is None else clock.playing(script))
    with openai.OpenAI(api_key="x", base_url=replay.base_url, max_retries=0) as client:
        for _ in client.responses.create(model="gpt-5.6", input="hello", stream=True):
            pass


def ask_anthropic(replay: Replay, body: dict[str, Any], pause: float) -> None:
    import anthropic

    replay.serve(play.json_answer(body, before=pause))
    with anthropic.Anthropic(api_key="x", base_url=replay.url, max_retries=0) as client:
        client.messages.create(model="claude-x", max_tokens=16, messages=[{"role": "user", "content": "hello"}])


OPENAI_MISS = {"type": "cache_miss", "reason": "tools_changed", "cache_missed_tokens": 1900}


@pytest.mark.parametrize("ask", [ask_openai, ask_openai_stream])
def test_openais_word_on_a_miss(ask: Any, traced: Tracing, replay: Replay, spans: Spans) -> None:
    ask(replay, response(0, OPENAI_MISS), 0.0)
    call = attributes(spans.one("completed"))
    assert call["openai.response.cache_miss_reason"] == "tools_changed"
    assert call["openai.response.cache_missed_input_tokens"] == 1900


@pytest.mark.parametrize(
    "odd", [None, {"type": "cache_hit"}, {"type": "unavailable"}, {"type": "comparison_response_not_found"}, [], "miss"]
)
def test_no_miss_is_no_miss(odd: Any, traced: Tracing, replay: Replay, spans: Spans) -> None:
    ask_openai(replay, response(0, odd), 0.0)
    assert not [name for name in attributes(spans.one("completed")) if "cache_miss" in name]


def test_openais_word_is_evidence(traced: Tracing, replay: Replay, spans: Spans, clock: Clock) -> None:
    for _ in range(12):
        ask_openai_stream(replay, response(1900, {"type": "cache_hit"}), WARM, clock)
    ask_openai_stream(replay, response(0, OPENAI_MISS), COLD, clock)
    _tells(spans, "the provider says: tools_changed")


def test_anthropics_word_is_evidence(tracing: Tracing, replay: Replay, spans: Spans, clock: Clock) -> None:
    tracing.on("anthropic")
    for number in range(13):
        last = number == 12
        reason = {"type": "system_changed", "cache_missed_input_tokens": 1900} if last else None
        body = anthropic_message(0 if last else 1900, reason)
        begun = body | {"content": [], "stop_reason": None}
        events: list[dict[str, Any]] = [
            {"type": "message_start", "message": begun},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello."}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 4}},
            {"type": "message_stop"},
        ]
        parts = [f"event: {event['type']}\n".encode() + play.event(event) for event in events]
        replay.serve(play.Script(200, play.SSE_HEADERS, clock.passing(play.paced(parts, COLD if last else WARM))))
        _ask_anthropic_stream(replay)
    _tells(spans, "the provider says: system_changed")


def _ask_anthropic_stream(replay: Replay) -> None:
    import anthropic

    with anthropic.Anthropic(api_key="x", base_url=replay.url, max_retries=0) as client:
        messages: Any = [{"role": "user", "content": "hello"}]
        for _ in client.messages.create(model="claude-x", max_tokens=16, messages=messages, stream=True):
            pass


def test_a_message_that_was_not_found_is_no_evidence(tracing: Tracing, replay: Replay, spans: Spans) -> None:
    tracing.on("anthropic")
    ask_anthropic(replay, anthropic_message(0, {"type": "previous_message_not_found"}), 0.0)
    assert attributes(spans.one("completed"))["anthropic.response.cache_miss_reason"] == "previous_message_not_found"


def _tells(spans: Spans, reason: str) -> None:
    """The last call's cache was cold, for that reason, and nothing is surer."""
    last = spans.parents()[-1]
    assert attributes(last)["llmtrace.diagnosis.cause"] == "cold_kv_cache"
    assert attributes(last)["llmtrace.diagnosis.confidence"][0] == 0.99
    events = [dict(event.attributes or {}) for phase in spans.phases(last).values() for event in phase.events]
    (evidence,) = [each for each in events if each.get("llmtrace.diagnosis.cause") == "cold_kv_cache"]
    assert evidence["llmtrace.diagnosis.reason"] == reason


DOCUMENT = "What the contract says of deliveries. " * 120


def ask_chat(api: Sync, replay: Replay, cached: int, system: str) -> None:
    usage = {"prompt_tokens": 1400, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": cached}}
    replay.play(play.openai_body(usage=usage))
    api.create(messages=[{"role": "system", "content": system}, {"role": "user", "content": DOCUMENT}])


def test_a_changed_beginning_is_told_with_its_place(traced: Tracing, api: Sync, replay: Replay, spans: Spans) -> None:
    for minute, cached in ((0, 0), (0, 1280), (1, 0)):
        ask_chat(api, replay, cached, f"It is 10:{minute:02}. You help with contracts.")
    new, hit, changed = (attributes(span) for span in spans.parents())
    assert "llmtrace.kv_cache.lost_tokens" not in new
    assert "llmtrace.kv_cache.lost_tokens" not in hit
    assert changed["llmtrace.kv_cache.lost_because"] == "prefix_changed"
    assert changed["llmtrace.kv_cache.changed_at"] == "messages[0]"
    assert changed["llmtrace.kv_cache.lost_tokens"] == pytest.approx(1390, abs=30)
    assert "contracts" not in str(changed), "no text is kept"
    spans.check_all()


def tool(name: str, about: str = "It finds what is asked for. ") -> dict[str, Any]:
    schema = {"type": "object", "properties": {"query": {"type": "string", "description": about * 8}}}
    return {"type": "function", "name": name, "parameters": schema}


SEARCH, SEEK, READ = tool("search"), tool("search", "It searches. "), tool("read")
ASKED: dict[str, Any] = {"model": "gpt-5.6", "instructions": "Be brief. " * 40, "input": DOCUMENT}


@pytest.mark.parametrize(
    ("before", "after", "theirs", "ours", "place"),
    [
        ({"tools": [READ, SEARCH]}, {"tools": [READ, SEEK]}, "tools_changed", "tools_changed", "tools[1] search"),
        ({"tools": [READ, SEARCH]}, {"tools": [READ]}, "tools_changed", "tools_changed", "tools"),
        ({"tools": [READ]}, {"tools": [READ, SEARCH]}, "tools_changed", "tools_changed", "tools[1] search"),
        ({"tools": [READ]}, {}, "tools_changed", "tools_changed", "tools"),
        ({}, {"tools": [READ]}, "tools_changed", "tools_changed", "tools[0] read"),
        ({}, {"instructions": "Be long. " * 40}, "input_changed", "prefix_changed", "instructions"),
        ({}, {"model": "gpt-5.6-mini"}, "model_changed", "route_changed", None),
        ({}, {"reasoning": {"effort": "low"}}, "reasoning_effort_changed", "route_changed", None),
        ({}, {"service_tier": "flex"}, "service_tier_changed", "route_changed", None),
    ],
)  # fmt: skip
def test_this_clients_history_agrees_with_openais_word(
    before: dict[str, Any], after: dict[str, Any], theirs: str, ours: str, place: str | None,
    traced: Tracing, replay: Replay, spans: Spans,
) -> None:  # fmt: skip
    import openai

    miss = {"type": "cache_miss", "reason": theirs, "cache_missed_tokens": 1900}
    with openai.OpenAI(api_key="x", base_url=replay.base_url, max_retries=0) as client:
        create: Any = client.responses.create
        for changed, said in ((before, None), (after, miss)):
            asked = ASKED | changed
            replay.serve(play.json_answer(response(0, said) | {"model": asked["model"]}))
            create(**asked)
    _first, last = (attributes(span) for span in spans.parents())
    assert last["openai.response.cache_miss_reason"] == theirs
    assert last["llmtrace.kv_cache.lost_because"] == ours
    assert last.get("llmtrace.kv_cache.changed_at") == place
    assert last["llmtrace.kv_cache.lost_tokens"] > 1000
    assert "finds what" not in str(last), "no text is kept"


CACHED: dict[str, str] = {"type": "ephemeral"}
LOOSE: dict[str, Any] = {"name": "search", "input_schema": {"type": "object"}}
STRICT: dict[str, Any] = {"name": "search", "input_schema": {"type": "object", "required": ["query"]}}


@pytest.mark.parametrize(
    ("changed", "theirs", "ours", "place"),
    [
        ({"tools": [STRICT]}, "tools_changed", "tools_changed", "tools[0] search"),
        ({"system": [{"type": "text", "text": "Be long. " * 40}]}, "system_changed", "prefix_changed", "system[0]"),
    ],
)  # fmt: skip
def test_this_clients_history_agrees_with_anthropics_word(
    changed: dict[str, Any], theirs: str, ours: str, place: str, tracing: Tracing, replay: Replay, spans: Spans
) -> None:
    import anthropic

    tracing.on("anthropic")
    asked: dict[str, Any] = {
        "tools": [LOOSE],
        "system": [{"type": "text", "text": "Be brief. " * 40}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": DOCUMENT, "cache_control": CACHED}]}],
    }
    miss = {"type": theirs, "cache_missed_input_tokens": 1900}
    with anthropic.Anthropic(api_key="x", base_url=replay.url, max_retries=0) as client:
        create: Any = client.messages.create
        for changes, said in (({}, None), (changed, miss)):
            replay.serve(play.json_answer(anthropic_message(0, said)))
            create(model="claude-x", max_tokens=16, **asked | changes)
    last = attributes(spans.parents()[-1])
    assert last["anthropic.response.cache_miss_reason"] == theirs
    assert (last["llmtrace.kv_cache.lost_because"], last["llmtrace.kv_cache.changed_at"]) == (ours, place)


def test_where_a_cache_may_end_is_no_change_of_a_tool(tracing: Tracing, replay: Replay, spans: Spans) -> None:
    import anthropic

    tracing.on("anthropic")
    with anthropic.Anthropic(api_key="x", base_url=replay.url, max_retries=0) as client:
        create: Any = client.messages.create
        for cached, marks in ((0, {}), (1990, {"cache_control": CACHED})):
            replay.serve(play.json_answer(anthropic_message(cached, None)))
            messages = [{"role": "user", "content": DOCUMENT}]
            create(model="claude-x", max_tokens=16, tools=[LOOSE | marks], messages=messages)
    assert "llmtrace.kv_cache.lost_because" not in attributes(spans.parents()[-1])
