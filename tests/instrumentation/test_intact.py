"""What the application holds and sees: the client's own objects, its laziness, its requests, its context."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import threading
import time
import weakref
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import httpx
import openai
import pydantic
import pytest
from opentelemetry import context, trace

from llmtrace.calls.verdict import LAST_CHUNKS
from tests.support import replay as play
from tests.support.apis import KEY, LOST, MESSAGES, MODEL, Sync, async_client, http, request, sync_client
from tests.support.replay import Replay, Script, in_step, openai_stream
from tests.support.spans import Spans, attributes, seconds
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("traced")

SLACK = 5_000_000
"""ns. Two clocks (the span's anchor and ``time.time_ns``), one machine."""

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
                "additionalProperties": False,
            },
            "strict": True,
        },
    }
]


needs_helpers = pytest.mark.skipif(
    not hasattr(openai.resources.chat.Completions, "parse"),
    reason="this client has them under beta only",
)


class City(pydantic.BaseModel):
    name: str
    people: int


# The stream object.


def test_the_stream_is_the_clients_own(api: Sync, replay: Replay, spans: Spans, traced: Any) -> None:
    replay.serve(openai_stream())
    with traced.paused():
        bare = api.stream()
        bare_names = set(dir(bare)) | set(vars(bare))
        api.drain(bare)
    stream = api.stream()
    assert type(stream) is api.stream_type
    assert type(stream) is type(bare)
    assert isinstance(stream.response, http.Response)
    assert type(stream.response) is type(bare.response)
    assert stream.response.status_code == 200
    assert stream.response.headers["x-request-id"] == "req_replay"
    assert set(dir(stream)) | set(vars(stream)) >= bare_names
    chunk = api.pull(stream)
    assert type(chunk) is openai.types.chat.ChatCompletionChunk
    rest = api.drain(stream)
    assert [type(c) for c in rest] == [openai.types.chat.ChatCompletionChunk] * 7
    assert stream.response.is_closed == bare.response.is_closed
    spans.one("completed")


def test_the_end_of_a_stream_is_a_stop_iteration_again_and_again(api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(openai_stream(("a",)))
    stream = api.stream()
    stop = StopAsyncIteration if api.name == "async" else StopIteration
    assert len(api.drain(stream)) == 3
    for _ in range(2):
        with pytest.raises(stop):
            api.pull(stream)
    assert api.drain(stream) == []
    spans.one("completed")


def test_pulls_after_close_are_as_without_llmtrace(api: Sync, replay: Replay, spans: Spans, traced: Any) -> None:
    def pulls_after_close() -> list[Any]:
        stream = api.stream()
        api.pull(stream)
        api.close(stream)
        got: list[Any] = []
        for _ in range(3):
            try:
                got.append(api.pull(stream).model_dump())
            except Exception as error:
                got.append((type(error), str(error)))
        return got

    replay.serve(openai_stream(itl=threading.Event()))  # only one chunk: another may lie in a buffer, or not
    with traced.paused():
        bare = pulls_after_close()
    assert pulls_after_close() == bare
    spans.one("closed_early")


def test_two_loops_over_one_stream(api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(openai_stream())
    stream = api.stream()
    assert len(api.take(stream, 3)) == 3
    assert len(api.take(stream, 2)) == 2
    assert len(api.drain(stream)) == 3
    spans.one("completed")


def test_nothing_is_pulled_ahead(api: Sync, replay: Replay, spans: Spans) -> None:
    """The second chunk is only sent once the first one was handed over: pulling ahead would wait for it in vain."""
    gate = threading.Event()
    script = openai_stream(("a", "b"))
    script.parts = [script.parts[0], (gate, script.parts[1][1]), *script.parts[2:]]
    replay.play(script)
    stream = api.stream()
    first = api.pull(stream)
    second = api.pull(stream)
    assert (first.choices[0].delta.role, second.choices[0].delta.content) == ("assistant", "a")
    gate.set()
    assert len(api.drain(stream)) == 2
    spans.one("completed")


def test_the_stream_is_returned_before_its_first_chunk(api: Sync, replay: Replay, spans: Spans) -> None:
    gate = threading.Event()
    replay.play(openai_stream(("a",), ttft=gate))
    stream = api.stream()
    assert replay.last.written == []
    gate.set()
    assert len(api.drain(stream)) == 3
    spans.one("completed")


async def test_no_request_until_awaited(aclient: openai.AsyncOpenAI, replay: Replay, spans: Spans) -> None:
    replay.play(openai_stream())
    pending = aclient.chat.completions.create(**request(stream=True))
    assert inspect.iscoroutine(pending)
    await asyncio.sleep(0.02)
    assert replay.requests == []
    pending.close()
    assert spans.finished() == []


def test_functions_still_look_like_themselves(client: openai.OpenAI, aclient: Any, traced: Any) -> None:
    def looks() -> list[Any]:
        create = client.chat.completions.create
        acreate = aclient.chat.completions.create
        return [
            (f.__name__, f.__qualname__, f.__doc__, str(inspect.signature(f)), inspect.iscoroutinefunction(f))
            for f in (create, acreate, openai.Stream.__next__, openai.AsyncStream.__anext__, openai.Stream.close)
        ]

    on = looks()
    with traced.paused():
        assert looks() == on


# Ways to call.


@needs_helpers
def test_stream_helper(api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(openai_stream(usage=play.USAGE))
    manager = api.client.chat.completions.stream(**request(stream_options={"include_usage": True}))
    with api.entered(manager) as stream:
        kinds = [event.type for event in api.drain(stream)]
        final = api.run(stream.get_final_completion())
    assert kinds.count("chunk") == 9
    assert kinds.count("content.delta") >= 6
    assert final.choices[0].message.content == "Hello there, you two"
    assert attributes(spans.one("completed"))["gen_ai.usage.output_tokens"] == 6


@needs_helpers
def test_stream_helper_final_completion_alone(api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(openai_stream())
    with api.entered(api.client.chat.completions.stream(**request())) as stream:
        assert api.run(stream.get_final_completion()).choices[0].finish_reason == "stop"
    spans.one("completed")


@needs_helpers
def test_stream_helper_left_early(api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(openai_stream(itl=0.005))
    with api.entered(api.client.chat.completions.stream(**request())) as stream:
        api.take(stream, 3)
    spans.one("closed_early")


@needs_helpers
def test_stream_helper_never_entered_makes_no_call(api: Sync, replay: Replay, spans: Spans) -> None:
    manager = api.client.chat.completions.stream(**request())
    if api.name == "async":
        manager._AsyncChatCompletionStreamManager__api_request.close()
    del manager
    assert spans.finished() == []


@needs_helpers
def test_parse(api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(play.openai_body('{"name": "Ulm", "people": 126000}'))
    answer = api.run(api.client.chat.completions.parse(**request(response_format=City)))
    assert answer.choices[0].message.parsed == City(name="Ulm", people=126000)
    assert attributes(spans.one("completed"))["gen_ai.output.type"] == "json"


@needs_helpers
def test_parse_that_does_not_parse(api: Sync, replay: Replay, spans: Spans, traced: Any) -> None:
    """The call went well; what the application made of its answer did not. Same exception either way."""

    def failure() -> str:
        with pytest.raises(pydantic.ValidationError) as caught:
            api.run(api.client.chat.completions.parse(**request(response_format=City)))
        return str(caught.value)

    replay.serve(play.openai_body('{"name": "Ulm"}'))
    with traced.paused():
        bare = failure()
    assert failure() == bare
    spans.one({"completed", "error"})


@needs_helpers
def test_stream_helper_with_a_model_class(api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(openai_stream(('{"name": "Ulm", ', '"people": 126000}')))
    with api.entered(api.client.chat.completions.stream(**request(response_format=City))) as stream:
        api.drain(stream)
        assert api.run(stream.get_final_completion()).choices[0].message.parsed == City(name="Ulm", people=126000)
    spans.one("completed")


def test_structured_output(api: Sync, replay: Replay, spans: Spans) -> None:
    schema = {"name": "city", "strict": True, "schema": City.model_json_schema()}
    replay.play(play.openai_body("{}"))
    api.create(response_format={"type": "json_schema", "json_schema": schema})
    assert attributes(spans.one("completed"))["gen_ai.output.type"] == "json"


def test_tools(api: Sync, replay: Replay, spans: Spans) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}
    body = play.completion()
    body["choices"][0] |= {
        "finish_reason": "tool_calls",
        "message": {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call]},
    }
    replay.play(play.json_answer(body))
    answer = api.create(tools=TOOLS)
    assert answer.choices[0].message.tool_calls[0].function.arguments == '{"city": "Ulm"}'
    assert attributes(spans.one("completed"))["gen_ai.response.finish_reasons"] == ("tool_calls",)


def test_tools_streamed(api: Sync, replay: Replay, spans: Spans) -> None:
    def piece(**fields: Any) -> dict[str, Any]:
        return play.chunk({"tool_calls": [{"index": 0} | fields]})

    head = piece(id="call_1", type="function", function={"name": "weather", "arguments": ""})
    arguments = [piece(function={"arguments": text}) for text in ('{"ci', 'ty": ', '"Ulm"}')]
    role = play.chunk({"role": "assistant", "content": None})
    replay.play(in_step(play.events_script(role, head, *arguments, play.chunk({}, finish="tool_calls"), itl=0.01), api))
    assert len(api.drain(api.stream(tools=TOOLS))) == 6
    span = spans.one("completed")
    assert attributes(span)["gen_ai.response.finish_reasons"] == ("tool_calls",)
    decode = spans.phases(span)["decode"]
    assert decode.start_time <= api.moments[1] + SLACK, "a tool call is output"
    assert seconds(decode) >= 0.04


def test_several_choices(api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(play.openai_body(n=3), openai_stream(("a", "b"), n=3))
    assert len(api.create(n=3).choices) == 3
    chunks = api.drain(api.stream(n=3))
    assert {chunk.choices[0].index for chunk in chunks} == {0, 1, 2}
    for span in spans.parents():
        spans.check(span)
        attrs = attributes(span)
        assert attrs["gen_ai.request.choice.count"] == 3
        assert attrs["gen_ai.response.finish_reasons"] == ("stop", "stop", "stop")


def test_reasoning_shown_in_the_stream(api: Sync, replay: Replay, spans: Spans) -> None:
    thoughts = [play.chunk({"reasoning_content": text}) for text in ("hm", " so")]
    script = play.events_script(*thoughts, *play.openai_chunks(("a", "b"), role=False), itl=0.02)
    replay.play(in_step(script, api))
    api.drain(api.stream())
    decode = spans.phases(spans.one("completed"))["decode"]
    parts = spans.children(decode)
    assert [part.name for part in parts] == ["llm.decode.reasoning", "llm.decode.output"]
    written, got = replay.last.written, api.moments
    assert written[0] - SLACK <= parts[0].start_time <= got[0] + SLACK
    assert written[2] - SLACK <= parts[0].end_time <= got[2] + SLACK
    assert seconds(parts[0]) >= 0.04


def test_azure(kind: str, replay: Replay, spans: Spans) -> None:
    settings = {
        "azure_endpoint": replay.url,
        "api_key": KEY,
        "api_version": "2024-10-21",
        "max_retries": 0,
        "timeout": 5.0,
    }
    replay.serve(play.azure_stream(itl=0.005))
    if kind == "sync":
        with openai.AzureOpenAI(http_client=openai.DefaultHttpxClient(verify=False), **settings) as client:
            got = list(client.chat.completions.create(**request(stream=True)))
    else:

        async def call() -> list[Any]:
            made = openai.DefaultAsyncHttpxClient(verify=False)
            async with openai.AsyncAzureOpenAI(http_client=made, **settings) as client:
                return [chunk async for chunk in await client.chat.completions.create(**request(stream=True))]

        got = asyncio.run(call())
    assert len(got) == 10
    assert replay.last.path.startswith(f"/openai/deployments/{MODEL}/chat/completions?api-version=")
    attrs = attributes(spans.one("completed"))
    assert attrs["gen_ai.provider.name"] == "azure.ai.openai"
    assert attrs["gen_ai.response.id"] == play.ID, "not the empty id of the content filter's chunk"
    assert attrs["gen_ai.response.model"] == play.MODEL


def test_other_paths_of_the_client_are_left_alone(api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(play.json_answer({"object": "list", "data": [{"id": "m", "object": "model", "created": 1}]}))
    assert [model.id for model in api.drain(api.client.models.list())] == ["m"]
    assert spans.finished() == []


def test_the_clients_own_post(api: Sync, replay: Replay, spans: Spans) -> None:
    """``client.post`` is the documented way to undocumented endpoints: the same path is the same operation."""
    replay.play(play.openai_body(), play.openai_body(), openai_stream())
    parsed = api.run(api.client.post("/chat/completions", body=request(), cast_to=openai.types.chat.ChatCompletion))
    assert parsed.id == play.ID
    raw = api.run(api.client.post("/chat/completions", body=request(), cast_to=http.Response))
    assert raw.json()["id"] == play.ID
    stream = api.run(
        api.client.post(
            "/chat/completions",
            body=request(stream=True),
            cast_to=openai.types.chat.ChatCompletion,
            stream=True,
            stream_cls=api.stream_type[openai.types.chat.ChatCompletionChunk],
        )
    )
    assert len(api.drain(stream)) == 8
    spans.check_all()
    assert [attributes(span)["llmtrace.call.outcome"] for span in spans.parents()] == ["completed"] * 3


@pytest.mark.parametrize("value", [False, None], ids=str)
def test_not_streamed_in_so_many_words(api: Sync, replay: Replay, spans: Spans, value: Any) -> None:
    replay.play(play.openai_body())
    api.create(stream=value)
    assert "gen_ai.request.stream" not in attributes(spans.one("completed"))


def test_copies_of_a_client(api: Sync, replay: Replay, spans: Spans) -> None:
    replay.serve(play.openai_body())
    api.run(api.client.with_options(timeout=30).chat.completions.create(**request()))
    api.run(api.client.copy(max_retries=1).chat.completions.create(**request()))
    spans.check_all()
    assert len(spans.parents()) == 2


def test_a_client_made_before_instrumenting(replay: Replay, spans: Spans, traced: Any) -> None:
    with traced.paused():
        client = sync_client(replay.base_url)
        create, raw = client.chat.completions.create, client.chat.completions.with_raw_response
        client.chat.completions.with_streaming_response
    replay.serve(play.openai_body())
    create(**request())
    raw.create(**request())
    client.chat.completions.create(**request())
    client.close()
    spans.check_all()
    assert len(spans.parents()) == 3


# Raw responses.


def test_raw_response_of_a_whole_answer(api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(play.openai_body())
    raw = api.run(api.client.chat.completions.with_raw_response.create(**request()))
    assert type(raw).__name__ == "LegacyAPIResponse"
    assert raw.headers["x-request-id"] == "req_replay"
    assert raw.parse().id == play.ID
    assert raw.parse() is raw.parse()
    attrs = attributes(spans.one("completed"))
    assert attrs["gen_ai.response.id"] == play.ID
    assert attrs["gen_ai.usage.output_tokens"] == 6


def test_raw_response_never_parsed(api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(play.openai_body())
    raw = api.run(api.client.chat.completions.with_raw_response.create(**request()))
    assert json.loads(raw.text)["id"] == play.ID
    spans.one("completed")


@pytest.mark.parametrize("stand_in", [MagicMock(), SimpleNamespace()], ids=["mock", "bare"])
def test_a_stream_over_what_stands_in_for_a_response(stand_in: Any, client: openai.OpenAI, spans: Spans) -> None:
    """As a program's own tests make one: nothing of it is a call, and nothing in llmtrace fails."""
    events = b"".join(part for _, part in openai_stream().parts)
    stand_in.iter_bytes = lambda: iter([events])
    stand_in.close = lambda: None
    stream = openai.Stream(cast_to=openai.types.chat.ChatCompletionChunk, response=stand_in, client=client)
    assert len(list(stream)) == 8
    assert spans.finished() == []


def test_raw_response_of_a_stream(api: Sync, replay: Replay, spans: Spans) -> None:
    """PEERS: ends early, changes its type or has no span with the others."""
    replay.play(in_step(openai_stream(usage=play.USAGE, ttft=0.02, itl=0.005), api))
    raw = api.run(api.client.chat.completions.with_raw_response.create(**request(stream=True)))
    assert type(raw).__name__ == "LegacyAPIResponse"
    stream = raw.parse()
    assert type(stream) is api.stream_type
    assert len(api.drain(stream)) == 9
    span = spans.one("completed")
    assert span.end_time >= replay.last.written[-1] - SLACK
    assert {"queue_prefill", "decode"} <= set(spans.phases(span))
    assert attributes(span)["gen_ai.usage.output_tokens"] == 6


def test_raw_response_of_a_stream_dropped_unparsed(api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(openai_stream())
    raw = api.run(api.client.chat.completions.with_raw_response.create(**request(stream=True)))
    left = time.time_ns()
    time.sleep(0.1)
    held = weakref.ref(raw.http_response)
    del raw
    api.collect()
    assert held() is None, "the open call must not be what keeps it alive"
    span = spans.one({"never_consumed", "abandoned"})
    assert span.end_time <= left + SLACK


def test_streaming_response_parsed(api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(openai_stream(usage=play.USAGE, itl=0.005))
    manager = api.client.chat.completions.with_streaming_response.create(**request(stream=True))
    with api.entered(manager) as response:
        assert type(response).__name__ == ("AsyncAPIResponse" if api.name == "async" else "APIResponse")
        stream = api.run(response.parse())
        assert type(stream) is api.stream_type
        assert len(api.drain(stream)) == 9
    assert attributes(spans.one("completed"))["gen_ai.usage.input_tokens"] == 40


@pytest.mark.parametrize("way", ["iter_lines", "iter_bytes", "iter_text", "read", "text"])
def test_streaming_response_read_raw(api: Sync, replay: Replay, spans: Spans, way: str) -> None:
    """Read past the client's parser: the application gets the very bytes, the span what they say."""
    script = openai_stream(usage=play.USAGE, ttft=0.03, itl=0.005)
    script.parts = [script.parts[0], (0.5, script.parts[1][1]), *script.parts[2:]]
    replay.play(script)
    manager = api.client.chat.completions.with_streaming_response.create(**request(stream=True))
    with api.entered(manager) as response:
        reader = getattr(response, way)()
        got = api.run(reader) if way in ("read", "text") else api.drain(reader)
    sent = b"".join(data for _, data in openai_stream(usage=play.USAGE).parts)
    if way == "iter_lines":
        assert [line for line in got if line] == [line for line in sent.decode().split("\n") if line]
    else:
        whole = got if way in ("read", "text") else (b"" if way == "iter_bytes" else "").join(got)
        assert whole == (sent if way in ("read", "iter_bytes") else sent.decode())
    span = spans.one("completed")
    assert attributes(span)["gen_ai.usage.output_tokens"] == 6
    assert attributes(span)["gen_ai.response.id"] == play.ID
    first = span.start_time + attributes(span)["gen_ai.response.time_to_first_chunk"] * 1e9
    assert replay.last.written[0] - SLACK <= first < replay.last.written[1], "the first chunk's, not a later one's"
    assert "decode" in spans.phases(span)


@pytest.mark.parametrize("way", ["read", "text", "json", "parse"])
def test_streaming_response_of_a_whole_answer(api: Sync, replay: Replay, spans: Spans, way: str) -> None:
    replay.play(play.openai_body())
    manager = api.client.chat.completions.with_streaming_response.create(**request())
    with api.entered(manager) as response:
        got = api.run(getattr(response, way)())
    assert play.ID in str(got)
    assert attributes(spans.one("completed"))["gen_ai.response.id"] == play.ID


@pytest.mark.parametrize("body", [b'{"id": "chatc', b"<p>busy</p>", b"\xff\xfe{"])
def test_streaming_response_of_what_is_no_answer(api: Sync, replay: Replay, spans: Spans, body: bytes) -> None:
    """Nothing is known of it; that is no failure of ours."""
    replay.play(Script(200, {"content-type": "application/json"}, [(0.0, body)], after="cut"))
    manager = api.client.chat.completions.with_streaming_response.create(**request())
    with pytest.raises(LOST), api.entered(manager) as response:
        api.run(response.read())
    assert "gen_ai.response.id" not in attributes(spans.one("error"))


def test_streaming_response_left_unread(api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(openai_stream(itl=0.005))
    manager = api.client.chat.completions.with_streaming_response.create(**request(stream=True))
    with api.entered(manager) as response:
        assert response.status_code == 200
    spans.one({"closed_early", "never_consumed"})


def test_streaming_response_left_in_the_middle(api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(openai_stream(itl=0.005))
    manager = api.client.chat.completions.with_streaming_response.create(**request(stream=True))
    with api.entered(manager) as response:
        assert len(api.take(response.iter_lines(), 3)) == 3
    spans.one("closed_early")


def test_an_error_behind_a_raw_response(api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(play.too_many())
    with pytest.raises(openai.RateLimitError):
        api.run(api.client.chat.completions.with_raw_response.create(**request()))
    spans.one("error")


# The request.


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_the_request_is_the_users(api: Sync, replay: Replay, spans: Spans, traced: Any, streaming: bool) -> None:
    """Byte for byte; only ``traceparent`` may join the headers, as this host is private."""
    replay.serve(openai_stream() if streaming else play.openai_body())
    changes = {"stream": True} if streaming else {}
    with traced.paused():
        bare = api.create(**changes)
        if streaming:
            api.drain(bare)
    answer = api.create(**changes)
    if streaming:
        api.drain(answer)
    before, after = replay.requests
    assert after.body == before.body
    assert after.path == before.path
    added = {name for name in after.headers if after.headers[name] != before.headers.get(name)}
    assert added <= {"traceparent", "tracestate"}
    assert set(before.headers) <= set(after.headers)
    if "traceparent" in added:
        span = spans.one()
        _, trace_id, span_id, _ = after.headers["traceparent"].split("-")
        assert (int(trace_id, 16), int(span_id, 16)) == (span.context.trace_id, span.context.span_id)


def test_arguments_are_not_touched(api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(openai_stream())
    arguments = request(stream=True, extra_headers={"x-mine": "1"}, extra_body={"k": 1}, stop=["a"])
    before = json.dumps(arguments)
    api.drain(api.run(api.client.chat.completions.create(**arguments)))
    assert json.dumps(arguments) == before
    assert arguments["messages"] is MESSAGES
    assert replay.last.headers["x-mine"] == "1"
    assert replay.last.json["k"] == 1
    spans.one("completed")


def test_wrong_arguments_fail_as_they_do_without(api: Sync, spans: Spans, traced: Any) -> None:
    def failure() -> tuple[Any, str]:
        with pytest.raises(Exception) as caught:
            api.run(api.client.chat.completions.create(model=MODEL))
        return type(caught.value), str(caught.value)

    with traced.paused():
        bare = failure()
    assert failure() == bare
    assert spans.finished() == []


def test_an_own_http_client_with_hooks(replay: Replay, spans: Spans) -> None:
    """The application's own event hooks and trace extension go on as they were."""
    seen: list[str] = []
    hooks = {
        "request": [lambda request: seen.append("request")],
        "response": [lambda response: seen.append("response")],
    }
    hooked = http.Client(event_hooks=hooks, verify=False)
    replay.play(openai_stream())
    with sync_client(replay.base_url, http_client=hooked) as client:
        assert len(list(client.chat.completions.create(**request(stream=True)))) == 8
    assert seen == ["request", "response"]
    assert "network" in spans.phases(spans.one("completed"))


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_the_older_httpx_as_http_client(kind: str, replay: Replay, spans: Spans, streaming: bool) -> None:
    replay.play(openai_stream(itl=0.005) if streaming else play.openai_body())
    arguments = request(stream=True) if streaming else request()
    if kind == "sync":
        with sync_client(replay.base_url, http_client=httpx.Client(verify=False)) as client:
            answer = client.chat.completions.create(**arguments)
            assert not streaming or len(list(answer)) == 8
    else:

        async def call() -> None:
            async with async_client(replay.base_url, http_client=httpx.AsyncClient(verify=False)) as client:
                answer = await client.chat.completions.create(**arguments)
                assert not streaming or len([c async for c in answer]) == 8

        asyncio.run(call())
    assert "network" in spans.phases(spans.one("completed"))


def test_a_trace_extension_of_the_application(kind: str, make_api: Any, replay: Replay, spans: Spans) -> None:
    """It is called with every event, as without us, and what it raises comes out as it does without us."""
    seen: list[str] = []

    def trace_sync(name: str, info: Any) -> None:
        seen.append(name)

    async def trace_async(name: str, info: Any) -> None:
        seen.append(name)

    def extended(request: Any) -> Any:
        request.extensions = {**request.extensions, "trace": trace_async if kind == "async" else trace_sync}
        return request

    class Client(http.Client):
        def build_request(self, *args: Any, **kwargs: Any) -> Any:
            return extended(super().build_request(*args, **kwargs))

    class AsyncClient(http.AsyncClient):
        def build_request(self, *args: Any, **kwargs: Any) -> Any:
            return extended(super().build_request(*args, **kwargs))

    replay.play(openai_stream())
    api = make_api(kind, http_client=AsyncClient(verify=False) if kind == "async" else Client(verify=False))
    assert len(api.drain(api.stream())) == 8
    assert "http11.receive_response_headers.complete" in seen
    assert "network" in spans.phases(spans.one("completed"))


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_a_transport_without_a_network(kind: str, make_api: Any, spans: Spans, streaming: bool) -> None:
    """A test double or a cache in the application's own client: no socket, no transport events, a span all the same."""
    body = b"".join(play.sse(*play.openai_chunks(("a", "b")))) if streaming else json.dumps(play.completion()).encode()
    headers = play.SSE_HEADERS if streaming else play.JSON_HEADERS
    transport = http.MockTransport(lambda request: http.Response(200, headers=headers, content=body))
    made: Any = (http.AsyncClient if kind == "async" else http.Client)(transport=transport)
    api = make_api(kind, http_client=made)
    answer = api.create(**({"stream": True} if streaming else {}))
    assert not streaming or len(api.drain(answer)) == 4
    spans.one("completed")


def test_the_modules_own_client(monkeypatch: pytest.MonkeyPatch, replay: Replay, spans: Spans) -> None:
    monkeypatch.setattr(openai, "api_key", KEY)
    monkeypatch.setattr(openai, "base_url", replay.base_url)
    monkeypatch.setattr(openai, "http_client", openai.DefaultHttpxClient(verify=False))
    openai._reset_client()  # type: ignore[attr-defined]
    replay.play(openai_stream())
    try:
        assert len(list(openai.chat.completions.create(**request(stream=True)))) == 8
    finally:
        openai._reset_client()  # type: ignore[attr-defined]
    spans.one("completed")


# Lifetimes: nothing of the application's is held any longer than without llmtrace.


def freed_without_the_collector(api: Sync, replay: Replay, way: str) -> dict[str, bool]:
    """What is gone as soon as the application lets go, before any cycle is collected."""
    script = openai_stream(itl=0.003)
    replay.play(play.reset_mid_stream() if way == "error" else play.openai_body() if way == "whole" else script)
    refs: dict[str, Any] = {}

    def use() -> None:
        if way == "whole":
            refs["answer"] = weakref.ref(api.create())
            return
        stream = api.stream()
        refs["stream"], refs["response"] = weakref.ref(stream), weakref.ref(stream.response)
        if way == "error":
            try:
                api.drain(stream)
            except LOST as error:
                refs["error"], refs["cause"] = weakref.ref(error), weakref.ref(error.__cause__ or error)
        elif way == "drained":
            refs["chunk"] = weakref.ref(api.drain(stream)[-1])
        elif way != "unread":
            chunk = weakref.ref(api.take(stream, 3)[1])
            if way == "closed":  # (a stream dropped open keeps its last few chunks as long as the client keeps it)
                api.close(stream)
                refs["chunk"] = chunk

    gc.collect()
    gc.disable()
    try:
        use()
        return {name: ref() is None for name, ref in refs.items()}
    finally:
        gc.enable()
        gc.collect()


@pytest.mark.parametrize("way", ["whole", "drained", "closed", "dropped", "unread", "error"])
def test_lifetimes(make_api: Any, replay: Replay, spans: Spans, traced: Any, way: str) -> None:
    api = make_api("sync")
    with traced.paused():
        bare = freed_without_the_collector(api, replay, way)
    ours = freed_without_the_collector(api, replay, way)
    assert [name for name, freed in bare.items() if freed and not ours[name]] == []
    spans.check_all()


def test_an_open_stream_holds_few_chunks(api: Sync, replay: Replay, spans: Spans) -> None:
    events = play.sse(*play.openai_chunks(["w"] * 1200))
    replay.play(play.Script(200, play.SSE_HEADERS, [(0.0, b"".join(events))]))
    stream = api.stream()
    for _ in range(1000):
        api.take(stream, 1)
    gc.collect()
    held = [o for o in gc.get_objects() if type(o) is openai.types.chat.ChatCompletionChunk]
    assert len(held) <= LAST_CHUNKS + 8  # what the verdict on repetition looks at
    del held
    api.drain(stream)
    spans.one("completed")
    gc.collect()
    assert not [o for o in gc.get_objects() if type(o) is openai.types.chat.ChatCompletionChunk], "stream is still held"


# Context.


def current() -> Any:
    return trace.get_current_span().get_span_context()


@pytest.mark.parametrize("end", ["drained", "closed", "dropped", "kept", "broken"])
async def test_no_context_is_left_behind(
    aclient: openai.AsyncOpenAI, client: openai.OpenAI, replay: Replay, spans: Spans, end: str
) -> None:
    """Before, between and after the pulls the current span is the application's own: none, here."""
    replay.serve(play.reset_mid_stream() if end == "broken" else openai_stream())
    before = context.get_current()
    keep: list[Any] = []
    for asynchronous in (False, True):
        create: Any = (aclient if asynchronous else client).chat.completions.create
        stream: Any = create(**request(stream=True))
        stream = await stream if asynchronous else stream
        keep.append(stream)
        try:
            for i in range(20):
                assert not current().is_valid
                await stream.__anext__() if asynchronous else next(stream)
                if i == 2 and end not in ("drained", "broken"):
                    break
        except (StopIteration, StopAsyncIteration, *LOST):
            pass
        assert not current().is_valid
        if end == "closed":
            await stream.close() if asynchronous else stream.close()
        if end == "dropped":
            keep.clear()
        del stream
        await asyncio.sleep(0)
        assert not current().is_valid
    assert context.get_current() == before
    spans.provider.shutdown()
    assert len(spans.parents()) == 2
    spans.check_all()


def test_spans_of_the_application(api: Sync, replay: Replay, spans: Spans) -> None:
    """The call lies under the span that was current when it was made; what the application does meanwhile beside it."""
    replay.play(openai_stream())
    tracer = spans.provider.get_tracer("application")
    with tracer.start_as_current_span("handler"):
        stream = api.stream()
        api.pull(stream)
        with tracer.start_as_current_span("work on a chunk"):
            pass
        assert trace.get_current_span().name == "handler"  # type: ignore[attr-defined]
    with tracer.start_as_current_span("later"):
        api.drain(stream)
    by_name = {span.name: span for span in spans.finished()}
    handler = by_name["handler"].context.span_id
    call = spans.one("completed")
    assert call.parent.span_id == handler
    assert by_name["work on a chunk"].parent.span_id == handler
    assert by_name["later"].parent is None
    assert spans.children(by_name["later"]) == []


async def test_a_stream_read_in_another_task(aclient: openai.AsyncOpenAI, replay: Replay, spans: Spans) -> None:
    """Made in one task, half read in a second, closed in a third: no token of a context crosses over."""
    replay.play(openai_stream(itl=0.002))
    stream = await asyncio.create_task(aclient.chat.completions.create(**request(stream=True)))

    async def take(count: int) -> None:
        async for _ in stream:
            count -= 1
            if not count:
                break

    await asyncio.create_task(take(3))
    await asyncio.create_task(stream.close())
    spans.one("closed_early")


def test_a_stream_read_in_another_thread(make_api: Any, replay: Replay, spans: Spans) -> None:
    replay.play(openai_stream())
    stream = make_api("sync").stream()
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.extend(stream))
    thread.start()
    thread.join()
    assert len(got) == 8
    spans.one("completed")


async def test_an_async_generator_over_a_stream_left_early(
    aclient: openai.AsyncOpenAI, replay: Replay, spans: Spans
) -> None:
    """A web framework's shape: a generator over the stream, closed by the loop when the visitor has gone."""
    replay.play(openai_stream(itl=0.003))

    async def answer() -> Any:
        stream = await aclient.chat.completions.create(**request(stream=True))
        async for chunk in stream:
            yield chunk.choices[0].delta.content

    generator = answer()
    async for _ in generator:
        break
    await generator.aclose()
    del generator
    await asyncio.sleep(0.01)
    gc.collect()  # the client's own objects form a cycle here, with and without llmtrace
    await until(spans.parents)
    spans.one({"abandoned", "closed_early"})
