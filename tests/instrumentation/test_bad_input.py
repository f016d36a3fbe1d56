"""Malformed answers and every fault: the application must live through the very same thing as without llmtrace.

Each case is played twice, to a bare client and to an instrumented one; results, exceptions and their causes must be
equal, and the span must hold the contract with whatever could be known.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support import replay as play
from tests.support.apis import Async, Sync, live_through
from tests.support.replay import JSON_HEADERS, SSE_HEADERS, Replay, Script, chunk, openai_stream
from tests.support.spans import Spans, attributes, outcome

pytestmark = pytest.mark.usefixtures("swallowed")


@pytest.fixture(scope="module")
def server() -> Iterator[Replay]:
    with Replay() as made:
        yield made


@pytest.fixture(scope="module", params=["sync", "async"])
def api(request: pytest.FixtureRequest, server: Replay) -> Iterator[Sync]:
    """One client for all these tests: what one bad answer leaves behind in it, the next call meets."""
    made = (Async if request.param == "async" else Sync)(server.base_url)
    yield made
    made.shut()


@pytest.fixture
def replay(server: Replay) -> Replay:
    server.reset()
    return server


NAN, INF = float("nan"), float("inf")


def same_with_and_without(
    api: Sync, replay: Replay, spans: Spans, tracing: Any, script: Callable[[], Script], **changes: Any
) -> Any:
    """Play ``script`` to a bare and to an instrumented client; the call span of the latter."""
    replay.serve(lambda request: script())
    bare = live_through(api, **changes)
    tracing.on()
    lived = live_through(api, **changes)
    assert same(lived, bare), (lived, bare)
    return spans.one()


def same(one: Any, other: Any) -> bool:
    """Equality in which NaN equals itself."""
    return one == other or repr(one) == repr(other)


# Faults at each phase.

FAULTS: dict[str, Callable[[], Script]] = {
    "reset before headers": play.reset_before_headers,
    "closed before headers": lambda: Script(None, after="cut"),
    "reset after headers": play.reset_after_headers,
    "closed after headers": lambda: Script(200, SSE_HEADERS, after="cut"),
    "reset mid-stream": play.reset_mid_stream,
    "cut mid-stream": play.cut_mid_stream,
    "429": play.too_many,
    "500": play.server_error,
    "400": lambda: play.server_error(400),
    "404": lambda: play.server_error(404),
    "no status line": lambda: Script(999, {}, [(0.0, b"{}")]),
    "error event": play.error_event,
    "error event first": lambda: play.events_script({"error": {"message": "no", "code": None}}),
    "malformed chunk": play.malformed_chunk,
    "huge chunk": play.huge_chunk,
    "unicode split across writes": play.split_unicode,
    "azure": play.azure_stream,
    "role only": play.role_only_stream,
    "slow headers": lambda: Script(200, SSE_HEADERS, openai_stream().parts, before=0.05),
    "buffered": play.buffered,
    "empty stream": lambda: Script(200, SSE_HEADERS, []),
    "done alone": play.events_script,
    "no done": lambda: openai_stream(done=False),
    "closed after done": lambda: openai_stream(after="close"),
    "cut after done": lambda: openai_stream(after="cut"),
    "json instead of a stream": play.openai_body,
    "stream without content type": lambda: Script(200, {}, openai_stream().parts),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_a_stream(api: Sync, replay: Replay, spans: Spans, tracing: Any, fault: str) -> None:
    same_with_and_without(api, replay, spans, tracing, FAULTS[fault], stream=True)


# Chunks.


def with_chunk(odd: Any, at: int = 2) -> Callable[[], Script]:
    """A good stream with one odd event in it."""
    events = play.sse(*play.openai_chunks(("a", "b", "c")))
    events.insert(at, odd if isinstance(odd, bytes) else play.event(odd))
    return lambda: Script(200, SSE_HEADERS, [(0.0, b"".join(events[:3])), (0.002, b"".join(events[3:]))])


def fields(**changes: Any) -> dict[str, Any]:
    return chunk({"content": "x"}) | changes


ODD_CHUNKS: dict[str, Any] = {
    "a number": 3,
    "null": "null",
    "text": '"text"',
    "a list": [],
    "a list of chunks": [chunk({"content": "x"})],
    "an empty object": {},
    "nothing": b"data: \n\n",
    "not utf-8": b'data: {"id": "\xff\xfe"}\n\n',
    "not json": b"data: {oops\n\n",
    "cut json": b'data: {"id": "x", "choices": [\n\n',
    "a comment": b": keep-alive\n\n",
    "an event name": b'event: ping\ndata: {"type": "ping"}\n\n',
    "blank lines": b"\n\n\n\n",
    "carriage returns": b'data: {"id": "y", "choices": []}\r\n\r\n',
    "two data lines": b'data: {"id": "y",\ndata: "choices": []}\n\n',
    "a retry field": b"retry: 10\n\n",
    "deeply nested": fields(more=json.loads("[" * 60 + "]" * 60)),
    "choices null": fields(choices=None),
    "choices an object": fields(choices={}),
    "choices text": fields(choices="none"),
    "choices of null": fields(choices=[None]),
    "choices of numbers": fields(choices=[1, 2]),
    "choices of empty objects": fields(choices=[{}]),
    "delta null": fields(choices=[{"index": 0, "delta": None}]),
    "delta text": fields(choices=[{"index": 0, "delta": "x"}]),
    "delta a list": fields(choices=[{"index": 0, "delta": [1]}]),
    "content a number": fields(choices=[{"index": 0, "delta": {"content": 7}}]),
    "content a list": fields(choices=[{"index": 0, "delta": {"content": [{"type": "text", "text": "x"}]}}]),
    "index missing": fields(choices=[{"delta": {"content": "x"}}]),
    "index a list": fields(choices=[{"index": [1], "delta": {}, "finish_reason": "stop"}]),
    "index an object": fields(choices=[{"index": {"a": 1}, "delta": {}, "finish_reason": "stop"}]),
    "finish reason a number": fields(choices=[{"index": 0, "delta": {}, "finish_reason": 7}]),
    "tool calls text": fields(choices=[{"index": 0, "delta": {"tool_calls": "x"}}]),
    "id a number": fields(id=5),
    "id null": fields(id=None),
    "model a list": fields(model=["m"]),
    "model null": fields(model=None),
    "fingerprint an object": fields(system_fingerprint={"a": 1}),
    "tier a number": fields(service_tier=4),
    "x_groq text": fields(x_groq="x"),
    "x_groq.usage text": fields(x_groq={"usage": "x"}),
    "x_groq.usage a list": fields(x_groq={"usage": [1]}),
    "its own attribute names": fields(model_dump="x", dict="y", json="z", copy=1),
    "an error of null": fields(error=None),
}


@pytest.mark.parametrize("odd", ODD_CHUNKS)
def test_odd_chunks(api: Sync, replay: Replay, spans: Spans, tracing: Any, odd: str) -> None:
    same_with_and_without(api, replay, spans, tracing, with_chunk(ODD_CHUNKS[odd]), stream=True)


@pytest.mark.parametrize("odd", ["a number", "null", "choices null", "delta null", "nothing", "model null", "a list"])
def test_odd_first_chunks(api: Sync, replay: Replay, spans: Spans, tracing: Any, odd: str) -> None:
    same_with_and_without(api, replay, spans, tracing, with_chunk(ODD_CHUNKS[odd], 0), stream=True)


# Usage.

ODD_USAGE: dict[str, Any] = {
    "text": "12",
    "a number": 12,
    "a list": [1, 2],
    "empty": {},
    "true": True,
    "texts inside": {"prompt_tokens": "40", "completion_tokens": "6", "total_tokens": "46"},
    "negative": {"prompt_tokens": -40, "completion_tokens": -6, "total_tokens": -46},
    "floats": {"prompt_tokens": 40.5, "completion_tokens": 6.5, "total_tokens": 47.0},
    "booleans": {"prompt_tokens": True, "completion_tokens": False, "total_tokens": True},
    "nulls": {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None},
    "not a number": {"prompt_tokens": NAN, "completion_tokens": INF, "total_tokens": -INF},
    "beyond 64 bits": {"prompt_tokens": 2**70, "completion_tokens": 2**64, "total_tokens": 2**71},
    "details text": {**play.USAGE, "prompt_tokens_details": "x", "completion_tokens_details": 5},
    "details a list": {**play.USAGE, "prompt_tokens_details": [1], "completion_tokens_details": [2]},
    "more cached than prompt": {**play.USAGE, "prompt_tokens_details": {"cached_tokens": 4000}},
    "more reasoning than output": {**play.USAGE, "completion_tokens_details": {"reasoning_tokens": 4000}},
    "cached text": {**play.USAGE, "prompt_tokens_details": {"cached_tokens": "16"}},
}


@pytest.mark.parametrize("odd", ODD_USAGE)
@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_odd_usage(
    api: Sync, replay: Replay, spans: Spans, tracing: Any, metrics: Any, odd: str, streaming: bool
) -> None:
    usage = ODD_USAGE[odd]
    if streaming:
        script, changes = (lambda: openai_stream(usage=usage)), {"stream": True}
    else:
        script, changes = (lambda: play.openai_body(usage=usage)), {}
    span = same_with_and_without(api, replay, spans, tracing, script, **changes)
    assert outcome(span) == "completed"
    attrs = attributes(span)
    # ("40", true and the like the client itself has turned into numbers by the time that anyone sees them.)
    if odd in ("text", "a number", "a list", "empty", "true", "negative", "floats", "nulls"):
        assert "gen_ai.usage.input_tokens" not in attrs, "not measured, so not said"
        assert "gen_ai.usage.output_tokens" not in attrs
    if odd in ("details text", "details a list", "more cached than prompt"):
        assert attrs["gen_ai.usage.input_tokens"] == 40
        assert "gen_ai.usage.cache_read.input_tokens" not in attrs
    assert metrics.points("gen_ai.client.inference.duration"), "metrics can still be read"


# Server timings.


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_more_cached_than_prompt_by_timings(
    api: Sync, replay: Replay, spans: Spans, tracing: Any, streaming: bool
) -> None:
    counted = {"prompt_tokens": 40, "completion_tokens": 6, "total_tokens": 46}
    told = {"timings": {"cache_n": 500_000, "prompt_n": 8, "prompt_ms": 0.1, "predicted_n": 6, "predicted_ms": 0.1}}
    if streaming:
        script, changes = (lambda: openai_stream(usage=counted, last=told)), {"stream": True}
    else:
        script, changes = (lambda: play.openai_body(usage=counted, **told)), {}
    attrs = attributes(same_with_and_without(api, replay, spans, tracing, script, **changes))
    assert attrs["gen_ai.usage.input_tokens"] == 40
    assert not {name: value for name, value in attrs.items() if value == 500_000}


ODD_TIMINGS: dict[str, dict[str, Any]] = {
    "vllm texts": {"metrics": {"queue_time_ms": "8", "time_to_first_token_ms": "9", "generation_time_ms": "12"}},
    "vllm words": {"metrics": {"queue_time_ms": "soon", "time_to_first_token_ms": {}, "generation_time_ms": []}},
    "vllm negative": {"metrics": {"queue_time_ms": -8.0, "time_to_first_token_ms": -9.0, "generation_time_ms": -12.0}},
    "vllm not a number": {"metrics": {"queue_time_ms": NAN, "time_to_first_token_ms": INF, "generation_time_ms": -INF}},
    "vllm longer than the call": {
        "metrics": {"queue_time_ms": 9e6, "time_to_first_token_ms": 9e6, "generation_time_ms": 9e6}
    },
    "vllm huge": {"metrics": {"queue_time_ms": 1e308, "time_to_first_token_ms": 1e308, "generation_time_ms": 1e308}},
    "vllm huge integers": {"metrics": {"queue_time_ms": 10**400, "time_to_first_token_ms": 9, "generation_time_ms": 1}},
    "vllm together longer": {
        "metrics": {"queue_time_ms": 20.0, "time_to_first_token_ms": 20.0, "generation_time_ms": 1.0}
    },
    "vllm zeros": {"metrics": {"queue_time_ms": 0, "time_to_first_token_ms": 0, "generation_time_ms": 0}},
    "vllm nulls": {"metrics": {"queue_time_ms": None, "time_to_first_token_ms": None, "generation_time_ms": None}},
    "vllm booleans": {"metrics": {"queue_time_ms": True, "time_to_first_token_ms": True, "generation_time_ms": True}},
    "metrics null": {"metrics": None},
    "metrics text": {"metrics": "fast"},
    "metrics a list": {"metrics": [1, 2]},
    "llama.cpp texts": {"timings": {"prompt_ms": "x", "predicted_ms": "y", "prompt_n": "z", "cache_n": "w"}},
    "llama.cpp negative": {"timings": {"prompt_ms": -1, "predicted_ms": -2, "prompt_n": -3, "cache_n": -4}},
    "timings a list": {"timings": [1]},
    "cerebras texts": {"time_info": {"queue_time": "a", "prompt_time": "b", "completion_time": "c"}},
    "cerebras longer": {"time_info": {"queue_time": 1e3, "prompt_time": 1e3, "completion_time": 1e3}},
    "time_info a number": {"time_info": 4},
    "groq texts": {"x_groq": {"usage": {"queue_time": "a", "prompt_time": "b", "completion_time": "c"}}},
    "groq negative": {"x_groq": {"usage": {"queue_time": -1, "prompt_time": -1, "completion_time": -1}}},
    "fireworks words": {"perf_metrics": {"server-time-to-first-token": "soon", "prefill-duration": ""}},
    "fireworks negative": {"perf_metrics": {"server-time-to-first-token": "-1", "prefill-duration": "-2"}},
    "perf_metrics a list": {"perf_metrics": ["0.2"]},
    "dynamo words": {"nvext": {"timing": {"prefill_wait_time_ms": "x", "prefill_time_ms": None}}},
    "nvext text": {"nvext": "x"},
    "all at once": {
        "metrics": {"queue_time_ms": 1, "time_to_first_token_ms": 2, "generation_time_ms": 3},
        "timings": {"prompt_ms": 4, "predicted_ms": 5},
        "time_info": {"queue_time": 0.001, "prompt_time": 0.002, "completion_time": 0.003},
        "nvext": {"timing": {}},
        "perf_metrics": {},
    },
}


@pytest.mark.parametrize("odd", ODD_TIMINGS)
@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_odd_server_timings(api: Sync, replay: Replay, spans: Spans, tracing: Any, odd: str, streaming: bool) -> None:
    extra = ODD_TIMINGS[odd]
    if streaming:
        script = lambda: openai_stream(usage=play.USAGE, last=extra, ttft=0.01, itl=0.002)  # noqa: E731
    else:
        script = lambda: play.openai_body(**extra)  # noqa: E731
    span = same_with_and_without(api, replay, spans, tracing, script, **({"stream": True} if streaming else {}))
    assert outcome(span) == "completed"
    if odd.endswith(("negative", "words", "not a number", "longer than the call", "cerebras longer", "vllm huge")):
        assert "server" not in {attributes(p)["llmtrace.phase.source"] for p in spans.phases(span).values()}


@pytest.mark.parametrize(
    "headers",
    [
        {"x-compute-time": "x", "x-queue-time": "-1", "x-inference-time": "nan", "x-total-time": "1e999"},
        {"openai-processing-ms": "soon", "x-envoy-upstream-service-time": "-"},
        {"fireworks-server-time-to-first-token": "NaN", "fireworks-prompt-tokens": "many"},
        {"server-timing": "gfet4t7;dur=;;;=,,", "x-ratelimit-remaining-tokens": "?"},
        {"x-trtllm-metrics": "{", "x-trtllm-start-end-time": "[]"},
        {"x-very-long": "x" * 60_000},
        {"x-latin": "gr\xfcn"},
    ],
    ids=["tgi", "openai", "fireworks", "server-timing", "tensorrt", "long", "latin-1"],
)
@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_odd_headers(
    api: Sync, replay: Replay, spans: Spans, tracing: Any, headers: dict[str, str], streaming: bool
) -> None:
    if streaming:
        script, changes = (lambda: openai_stream(headers=headers)), {"stream": True}
    else:
        script, changes = (lambda: play.json_answer(play.completion(), headers=headers)), {}
    same_with_and_without(api, replay, spans, tracing, script, **changes)


# Whole answers.


def body(**changes: Any) -> Callable[[], Script]:
    return lambda: play.json_answer(play.completion() | changes)


ODD_BODIES: dict[str, Callable[[], Script]] = {
    "empty": lambda: play.json_answer(b""),
    "not json": lambda: play.json_answer(b"<html>"),
    "cut json": lambda: play.json_answer(b'{"id": "x", "choices": [{'),
    "a number": lambda: play.json_answer(b"3"),
    "null": lambda: play.json_answer(b"null"),
    "a list": lambda: play.json_answer(b"[]"),
    "an empty object": lambda: play.json_answer({}),
    "not utf-8": lambda: play.json_answer(b'{"id": "\xff"}'),
    "html": lambda: Script(200, {"content-type": "text/html"}, [(0.0, b"<html>busy</html>")]),
    "no content type": lambda: Script(200, {}, [(0.0, json.dumps(play.completion()).encode())]),
    "a stream nobody asked for": openai_stream,
    "shorter than it says": lambda: Script(200, JSON_HEADERS, [(0.0, b'{"id": ')], after="cut"),
    "reset in the body": lambda: Script(200, JSON_HEADERS, [(0.0, b'{"id": ')], after="rst"),
    "gzip": lambda: Script(
        200,
        JSON_HEADERS | {"content-encoding": "gzip"},
        [(0.0, gzip.compress(json.dumps(play.completion()).encode()))],
    ),
    "broken gzip": lambda: Script(200, JSON_HEADERS | {"content-encoding": "gzip"}, [(0.0, b"\x1f\x8bnope")]),
    "no content": lambda: Script(204, {}, [], chunked=False),
    "a redirect": lambda: Script(302, {"location": "/v1/elsewhere"}, [], chunked=False),
    "choices null": body(choices=None),
    "choices text": body(choices="x"),
    "choices of numbers": body(choices=[1]),
    "choices of null": body(choices=[None]),
    "message null": body(choices=[{"index": 0, "message": None, "finish_reason": "stop"}]),
    "message text": body(choices=[{"index": 0, "message": "x", "finish_reason": 5}]),
    "model a number": body(model=5),
    "model empty": body(model=""),
    "id an object": body(id={"a": 1}),
    "error in a 200": body(error={"message": "no"}),
    "error alone in a 200": lambda: play.json_answer({"error": {"message": "no"}}),
    "very large": lambda: play.openai_body("x" * 2_000_000),
}


@pytest.mark.parametrize("odd", ODD_BODIES)
def test_odd_bodies(api: Sync, replay: Replay, spans: Spans, tracing: Any, odd: str) -> None:
    same_with_and_without(api, replay, spans, tracing, ODD_BODIES[odd])


@pytest.mark.parametrize("odd", ["429", "500", "400", "reset before headers", "closed before headers", "slow headers"])
def test_faults_of_a_whole_answer(api: Sync, replay: Replay, spans: Spans, tracing: Any, odd: str) -> None:
    same_with_and_without(api, replay, spans, tracing, FAULTS[odd])


# Requests that are odd themselves.


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": "warm"},
        {"max_tokens": -1, "n": 0},
        {"n": "three"},
        {"seed": 2**70},
        {"stop": 5},
        {"stop": [None, 3]},
        {"messages": []},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
        {"messages": iter([{"role": "user", "content": "x"}])},
        {"tools": [], "tool_choice": "none"},
        {"response_format": "json"},
        {"extra_body": {"stream_options": 5, "model": ["other"]}},
        {"extra_body": {"top_k": float("1e30")}},
        {"extra_query": {"a": "b"}},
        {"temperature": None, "top_p": None},
        {"model": "m" * 5000},
        {"model": "größer 🙂"},
        {"user": "x", "metadata": {"a": "b"}},
    ],
    ids=",".join,
)
def test_odd_requests(api: Sync, replay: Replay, spans: Spans, tracing: Any, changes: dict[str, Any]) -> None:
    def fresh() -> dict[str, Any]:
        if "messages" in changes and not isinstance(changes["messages"], list):
            return {"messages": iter([{"role": "user", "content": "x"}])}
        return changes

    replay.serve(play.openai_body())
    bare = live_through(api, **fresh())
    tracing.on()
    lived = live_through(api, **fresh())
    assert same(lived, bare)
    if not replay.requests:
        return  # the client itself did not take it
    before, after = replay.requests
    assert after.body == before.body
    if not lived.error:
        assert len(spans.parents()) == 1


def raises(*_: Any) -> Any:
    raise RuntimeError("not to be asked")


@pytest.mark.parametrize("method", ["__bool__", "__len__", "__eq__", "__iter__", "__class__", "get"])
@pytest.mark.parametrize("field", ["tools", "messages", "response_format", "stop", "stream_options", "prompt", "n"])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_value_that_raises_costs_no_more_than_itself(
    api: Sync, replay: Replay, spans: Spans, tracing: Any, field: str, method: str, streaming: bool
) -> None:
    methods = {method: property(raises) if method == "__class__" else raises}
    odd: Any = type("Odd", (list,), methods)([{"name": "a"}])
    if method == "get" or field in ("response_format", "stream_options"):
        odd = type("Odd", (dict,), methods)({"type": "json_object"})
    replay.serve(lambda request: openai_stream() if streaming else play.openai_body())
    changes = {"stream": streaming, "temperature": 0.5, "extra_body": {field: odd}}
    bare = live_through(api, **changes)
    tracing.on(capture_content="span_only", request_usage=True)
    lived = live_through(api, **changes)
    assert same(lived, bare)
    if not replay.requests:
        return  # the client itself could not send it
    (parent,) = spans.parents()
    span = attributes(parent)
    assert span["gen_ai.request.temperature"] == 0.5
    assert "gen_ai.output.messages" in span, "what can be read is told"
    assert ("gen_ai.input.messages" in span) or field == "messages"


def test_a_class_as_a_tool_is_named(api: Sync, replay: Replay, spans: Spans, tracing: Any) -> None:
    """The client cannot send it; what it was is told all the same, and nothing of ours fails."""
    from pydantic import BaseModel

    from llmtrace.observe import internal_errors

    class Search(BaseModel):
        query: str

    before = dict(internal_errors.counts)
    tracing.on(capture_content="span_only")
    with pytest.raises(TypeError):
        api.create(extra_body={"tools": [Search], "response_format": Search, "stop": Search})
    (parent,) = spans.parents()
    assert json.loads(attributes(parent)["gen_ai.tool.definitions"]) == [{"type": "function", "name": "Search"}]
    assert dict(internal_errors.counts) == before
