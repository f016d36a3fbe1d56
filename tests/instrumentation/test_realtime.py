"""The Realtime API against a real websocket server: a call for each response, and the application sees what it saw."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import openai
import pytest
from opentelemetry import trace

from tests.conftest import Tracing
from tests.support.realtime import (
    MODEL,
    SOUND,
    Close,
    Conversations,
    Cut,
    Raw,
    Send,
    Step,
    answer,
    created,
    deltas,
    done,
    expect,
    session,
)
from tests.support.spans import Spans, assert_golden, attributes, seconds, shape

pytest.importorskip("openai.resources.realtime")
KINDS = ("sync", "async")
ASKED = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "PROMPT-SENTINEL"}]}


class Talk:
    """A connection of either client, in the same words."""

    def __init__(self, connection: Any, run: Callable[[Any], Any]) -> None:
        self.connection = connection
        self._run = run
        self.events: list[Any] = []

    def send(self, event: dict[str, Any]) -> None:
        self._run(self.connection.send(event))

    def ask(self, **settings: Any) -> None:
        self._run(self.connection.response.create(**({"response": settings} if settings else {})))

    def read(self) -> Any:
        self.events.append(self._run(self.connection.recv()))
        return self.events[-1]

    def read_until(self, kind: str = "response.done") -> None:
        while self.read().type != kind:
            pass

    def read_bytes(self) -> bytes:
        return self._run(self.connection.recv_bytes())

    def close(self) -> None:
        self._run(self.connection.close())


def talk(
    kind: str,
    script: Sequence[Step],
    act: Callable[[Talk], None],
    cls: tuple[str, str] = ("OpenAI", "AsyncOpenAI"),
    resource: str = "realtime",
) -> tuple[list[Any], Conversations]:
    """Have ``act`` talk to a server that plays ``script``; returns the events read, and the server."""
    with Conversations(script) as server:
        place = {"websocket_base_url": server.url.replace("http", "ws") + "/v1"}
        if "Azure" in cls[0]:
            place |= {"azure_endpoint": server.url, "api_version": "2025-01-01"}
        else:
            place["base_url"] = f"{server.url}/v1"
        if kind == "sync":
            with getattr(openai, cls[0])(api_key="k", **place) as client:
                realtime = client.beta.realtime if resource == "beta" else client.realtime
                with realtime.connect(model=MODEL) as connection:
                    talking = Talk(connection, lambda result: result)
                    act(talking)
                del connection
            return talking.events, server

        async def run() -> list[Any]:
            loop = asyncio.get_running_loop()
            async with getattr(openai, cls[1])(api_key="k", **place) as client:
                realtime = client.beta.realtime if resource == "beta" else client.realtime
                async with realtime.connect(model=MODEL) as connection:
                    talking = Talk(connection, lambda coro: asyncio.run_coroutine_threadsafe(coro, loop).result(30))
                    await asyncio.to_thread(act, talking)
                return talking.events

        return asyncio.run(run()), server


def two(talking: Talk) -> None:
    talking.send({"type": "conversation.item.create", "item": ASKED})
    talking.ask()
    talking.read_until()
    talking.ask(max_output_tokens=77)
    talking.read_until()


def one(talking: Talk) -> None:
    talking.ask()
    talking.read_until()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("resource", ["", "beta"])
def test_two_responses_of_one_connection(kind: str, resource: str, tracing: Tracing, spans: Spans) -> None:
    script = [session(), *answer("r1", 0.05), *answer("r2", 0.02)]
    bare, _ = talk(kind, script, two, resource=resource or "realtime")
    tracing.on("openai")
    events, server = talk(kind, script, two, resource=resource or "realtime")
    assert [type(event) for event in events] == [type(event) for event in bare]
    assert [event.model_dump() for event in events] == [event.model_dump() for event in bare]
    assert [event["type"] for event in server.received] == ["conversation.item.create"] + ["response.create"] * 2
    spans.flush()
    first, second = spans.parents()
    for span in (first, second):
        spans.check(span)
        assert set(spans.phases(span)) == {"queue_prefill", "decode"}
    attrs = attributes(first)
    assert first.name == f"realtime_inference {MODEL}"
    assert attrs["gen_ai.response.id"] == "r1"
    assert attrs["gen_ai.conversation.id"] == "conv_1"
    assert attrs["gen_ai.response.finish_reasons"] == ("completed",)
    counted = {name: value for name, value in attrs.items() if name.startswith("gen_ai.usage.")}
    assert counted == {
        "gen_ai.usage.input_tokens": 120,
        "gen_ai.usage.text.input_tokens": 40,
        "gen_ai.usage.audio.input_tokens": 80,
        "gen_ai.usage.cache_read.input_tokens": 64,
        "gen_ai.usage.text.cache_read.input_tokens": 14,
        "gen_ai.usage.audio.cache_read.input_tokens": 50,
        "gen_ai.usage.output_tokens": 140,
        "gen_ai.usage.text.output_tokens": 30,
        "gen_ai.usage.audio.output_tokens": 110,
    }
    assert attrs["llmtrace.stream.chunks"] == 6
    assert 0.05 <= attrs["llmtrace.call.ttft"] <= seconds(first)
    assert attrs["gen_ai.response.time_to_first_chunk"] < attrs["llmtrace.call.ttft"], "no token is in response.created"
    assert attributes(second)["gen_ai.request.max_tokens"] == 77
    assert attributes(second)["gen_ai.output.type"] == "speech", "as the server said of the session"
    assert second.start_time >= first.end_time


def test_a_connection_that_outlives_its_tracing_goes_on_with_the_next(tracing: Tracing, spans: Spans) -> None:
    later = Spans()
    tracing.on("openai")

    def act(talking: Talk) -> None:
        talking.ask()
        talking.read()
        tracing.off()
        tracing.on("openai", tracer_provider=later.provider)
        talking.read_until()
        one(talking)

    talk("sync", [session(), *answer("r1"), *answer("r2")], act)
    assert [attributes(each.one("completed"))["gen_ai.response.id"] for each in (spans, later)] == ["r1", "r2"]


@pytest.mark.parametrize("kind", KINDS)
def test_events_as_bytes_are_the_servers(kind: str, tracing: Tracing, spans: Spans) -> None:
    tracing.on("openai")
    pieces: list[bytes] = []

    def act(talking: Talk) -> None:
        talking.send({"type": "response.create"})
        while b"response.done" not in (pieces[-1] if pieces else b""):
            pieces.append(talking.read_bytes())

    _, server = talk(kind, [session(), *answer("r1")], act)
    assert pieces == server.raw
    assert attributes(spans.one("completed"))["gen_ai.usage.output_tokens"] == 140


ENDS: dict[str, tuple[list[Step], str, dict[str, Any]]] = {
    "the user speaks": (
        [created("r1"), *deltas("r1"), done("r1", "cancelled", "turn_detected")],
        "cancelled",
        {"gen_ai.response.finish_reasons": ("turn_detected",), "llmtrace.cancellation.cause": "answer_cancelled"},
    ),
    "cancelled": (
        [created("r1"), done("r1", "cancelled", "client_cancelled")],
        "cancelled",
        {"gen_ai.response.finish_reasons": ("client_cancelled",), "llmtrace.cancellation.phase": "queue_prefill"},
    ),
    "failed": (
        [created("r1"), done("r1", "failed")],
        "error",
        {"error.type": "rate_limit_exceeded", "gen_ai.response.id": "r1"},
    ),
    "at its limit": (
        [created("r1"), *deltas("r1"), done("r1", "incomplete", "max_output_tokens")],
        "completed",
        {"gen_ai.response.finish_reasons": ("max_output_tokens",)},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ENDS)
def test_how_a_response_ends(how: str, kind: str, tracing: Tracing, spans: Spans) -> None:
    steps, outcome, said = ENDS[how]
    tracing.on("openai")
    talk(kind, [session(), expect("response.create"), *steps], one)
    assert said.items() <= attributes(spans.one(outcome)).items()


@pytest.mark.parametrize("kind", KINDS)
def test_a_refused_response(kind: str, tracing: Tracing, spans: Spans) -> None:
    error = {"type": "invalid_request_error", "code": "conversation_already_has_active_response", "message": "SENTINEL"}
    refusal = Send({"type": "error", "event_id": "e", "error": error})

    def act(talking: Talk) -> None:
        talking.ask()
        talking.read_until("error")

    tracing.on("openai")
    talk(kind, [session(), expect("response.create"), refusal], act)
    span = spans.one("error")
    assert attributes(span)["error.type"] == "conversation_already_has_active_response"


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_about_something_else_ends_nothing(kind: str, tracing: Tracing, spans: Spans) -> None:
    error = {"type": "invalid_request_error", "code": "unknown", "message": "m", "event_id": "of-another"}
    script = [session(), *answer("r1")]
    script.insert(2, Send({"type": "error", "event_id": "e", "error": error}))
    tracing.on("openai")
    talk(kind, script, one)
    spans.one("completed")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("named", [True, False], ids=["by its event", "as the last"])
def test_the_refused_one_of_two(named: bool, kind: str, tracing: Tracing, spans: Spans) -> None:
    """Asked for while the first has not begun: the error ends the second."""
    error = {"type": "invalid_request_error", "code": "conversation_already_has_active_response", "message": "m"}
    refusal = Send({"type": "error", "event_id": "e", "error": error | ({"event_id": "second"} if named else {})})
    both = [expect("response.create"), expect("response.create")]

    def act(talking: Talk) -> None:
        talking.send({"type": "response.create", "event_id": "first"})
        talking.send({"type": "response.create", "event_id": "second"})
        if named:
            talking.send({"type": "conversation.item.create", "event_id": "third", "item": ASKED})
        talking.read_until()

    tracing.on("openai")
    talk(kind, [session(), *both, refusal, created("r1"), *deltas("r1"), done("r1")], act)
    spans.flush()
    ended = [
        (attributes(span)["llmtrace.call.outcome"], attributes(span)["llmtrace.stream.chunks"])
        for span in spans.parents()
    ]
    assert sorted(ended) == [("completed", 6), ("error", 1)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", [Cut(), Close(1011), Close(1000)])
@pytest.mark.usefixtures("quick_guards")
def test_a_connection_that_ends_early(end: Step, kind: str, tracing: Tracing, spans: Spans) -> None:
    from websockets.exceptions import ConnectionClosed

    raised: list[type[BaseException]] = []

    def act(talking: Talk) -> None:
        talking.ask()
        with pytest.raises(ConnectionClosed) as caught:
            talking.read_until()
        raised.append(caught.type)

    script = [session(), expect("response.create"), created("r1"), *deltas("r1"), end]
    talk(kind, script, act)
    tracing.on("openai")
    talk(kind, script, act)
    assert raised[0] is raised[1]
    attrs = attributes(spans.one("closed_early" if end == Close(1000) else "error"))
    assert attrs["gen_ai.response.id"] == "r1"
    assert attrs["llmtrace.cancellation.cause"] == ("closed" if end == Close(1000) else "connection_lost")


@pytest.mark.parametrize("kind", KINDS)
def test_an_application_that_leaves_early(kind: str, tracing: Tracing, spans: Spans) -> None:
    def act(talking: Talk) -> None:
        talking.ask()
        talking.read_until("response.created")

    tracing.on("openai")
    talk(kind, [session(), expect("response.create"), created("r1")], act)
    assert attributes(spans.one("closed_early"))["llmtrace.stream.chunks"] == 1


def test_a_connection_that_is_dropped(tracing: Tracing, spans: Spans) -> None:
    tracing.on("openai")
    with Conversations([session(), expect("response.create"), created("r1")]) as server:
        client = openai.OpenAI(
            api_key="k", base_url=server.url, websocket_base_url=server.url.replace("http", "ws"), max_retries=0
        )
        connection = client.realtime.connect(model=MODEL).enter()
        connection.response.create()
        while connection.recv().type != "response.created":
            pass
        socket = connection._connection
        del connection
        gc.collect()
        spans.flush()
        assert attributes(spans.one("abandoned"))["gen_ai.response.id"] == "r1"
        socket.close()


@pytest.mark.parametrize("kind", KINDS)
def test_responses_side_by_side_are_told_apart(kind: str, tracing: Tracing, spans: Spans) -> None:
    a, b = answer("a"), answer("b")
    woven = [a[0], b[0], *(step for pair in zip(a[1:], b[1:], strict=True) for step in pair)]

    def act(talking: Talk) -> None:
        talking.ask()
        talking.ask(conversation="none")
        talking.read_until()
        talking.read_until()

    tracing.on("openai")
    talk(kind, [session(), *woven], act)
    spans.flush()
    assert [attributes(span)["gen_ai.response.id"] for span in spans.parents()] == ["a", "b"]
    assert [attributes(span)["llmtrace.stream.chunks"] for span in spans.parents()] == [6, 6]


@pytest.mark.parametrize("kind", KINDS)
def test_a_response_that_nobody_asked_for(kind: str, tracing: Tracing, spans: Spans) -> None:
    """The server answers when the user falls silent: the call begins as the server says so."""
    begun = threading.Event()
    moments: list[int] = []

    def act(talking: Talk) -> None:
        talking.read_until("session.created")
        moments.append(time.time_ns())
        talking.read_until("response.created")
        moments.append(time.time_ns())
        begun.set()
        talking.read_until()

    tracing.on("openai")
    talk(kind, [session(), created("r1"), *deltas("r1", delay=begun), done("r1")], act)
    span = spans.one("completed")
    assert attributes(span)["gen_ai.response.id"] == "r1"
    assert moments[0] - 5_000_000 <= (span.start_time or 0) <= moments[1] + 5_000_000, "two clocks, one machine"
    assert 0 < attributes(span)["llmtrace.call.ttft"] <= seconds(span)


def test_a_reader_and_a_speaker(tracing: Tracing, spans: Spans) -> None:
    """One task reads all the while, another sends sound and asks: the call is in the trace of who asked."""
    tracing.on("openai")
    tracer = spans.provider.get_tracer("app")
    audio = {"type": "input_audio_buffer.append", "audio": SOUND}

    async def run(server: Conversations) -> None:
        place = {"base_url": server.url, "websocket_base_url": server.url.replace("http", "ws")}
        async with openai.AsyncOpenAI(api_key="k", **place) as client, client.realtime.connect(model=MODEL) as talking:

            async def read() -> None:
                async for event in talking:
                    if event.type == "response.done":
                        return

            reader = asyncio.create_task(read())
            await talking.send(audio)
            with tracer.start_as_current_span("turn"):
                await talking.response.create()
            await reader

    with Conversations([session(), expect("input_audio_buffer.append"), *answer("r1", 0.02)]) as server:
        asyncio.run(run(server))
    spans.flush()
    call = next(span for span in spans.finished() if span.name.startswith("realtime_inference"))
    turn = next(span for span in spans.finished() if span.name == "turn")
    assert call.parent is not None
    assert call.parent.span_id == turn.context.span_id
    assert attributes(call)["llmtrace.call.outcome"] == "completed"


def test_giving_up_to_wait_ends_nothing(tracing: Tracing, spans: Spans) -> None:
    gate = threading.Event()
    tracing.on("openai")

    def act(talking: Talk) -> None:
        talking.ask()
        talking.read_until("response.created")

        async def impatient() -> None:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(talking.connection.recv(), 0.01)

        talking._run(impatient())
        gate.set()
        talking.read_until()

    talk("async", [session(), expect("response.create"), created("r1"), *deltas("r1", delay=gate), done("r1")], act)
    assert attributes(spans.one("completed"))["llmtrace.stream.chunks"] == 6


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_that_is_no_json_ends_nothing(kind: str, tracing: Tracing, spans: Spans) -> None:
    def act(talking: Talk) -> None:
        talking.ask()
        talking.read_until("response.created")
        with pytest.raises(ValueError, match=r"JSON|Expecting"):
            talking.read()
        talking.read_until()

    tracing.on("openai")
    talk(kind, [session(), expect("response.create"), created("r1"), Raw("{broken"), *deltas("r1"), done("r1")], act)
    spans.one("completed")


@pytest.mark.parametrize("kind", KINDS)
def test_through_azure(kind: str, tracing: Tracing, spans: Spans) -> None:
    tracing.on("openai")
    talk(kind, [session(), *answer("r1")], one, ("AzureOpenAI", "AsyncAzureOpenAI"))
    assert attributes(spans.one("completed"))["gen_ai.provider.name"] == "azure.ai.openai"


@pytest.mark.parametrize("kind", KINDS)
def test_content_without_the_sound(kind: str, tracing: Tracing, spans: Spans) -> None:
    tracing.on("openai", capture_content=True)
    heard = {"type": "input_audio", "audio": SOUND, "transcript": "what I said"}

    def act(talking: Talk) -> None:
        talking.read_until("session.created")
        talking.send({"type": "conversation.item.create", "item": ASKED})
        talking.send({"type": "conversation.item.create", "item": ASKED | {"content": [heard]}})
        one(talking)

    talk(kind, [session(), *answer("r1")], act)
    (span,) = spans.parents()
    spans.check(span, content=True)
    attrs = attributes(span)
    said = [message["parts"] for message in json.loads(attrs["gen_ai.input.messages"])]
    assert said == [
        [{"type": "text", "content": "PROMPT-SENTINEL"}],
        [{"type": "text", "content": "what I said"}],
    ]
    (message,) = json.loads(attrs["gen_ai.output.messages"])
    assert message["parts"] == [{"type": "text", "content": "Hello"}]
    assert json.loads(attrs["gen_ai.system_instructions"])[0]["content"] == "SAY"
    assert not [value for value in attrs.values() if SOUND in str(value)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("swallowed")
def test_events_that_nobody_can_read(kind: str, tracing: Tracing, spans: Spans) -> None:
    odd = [
        Send({"type": 5}),
        Send({}),
        Send({"type": "response.created", "response": "r1"}),
        Send({"type": "response.output_text.delta", "response_id": 7, "delta": {"a": 1}}),
        Send({"type": "error", "error": []}),
        Send({"type": "session.updated", "session": {"tools": 5, "model": ["x"]}}),
    ]
    usage = {"input_tokens": "9", "output_tokens": -1, "input_token_details": [1], "output_token_details": {"x": {}}}
    script = [session(), *odd, *answer("r1", usage=usage)]

    def act(talking: Talk) -> None:
        for _ in range(1 + len(odd)):
            talking.read()
        one(talking)

    bare, _ = talk(kind, script, act)
    tracing.on("openai")
    events, _ = talk(kind, script, act)
    assert [repr(event) for event in events] == [repr(event) for event in bare]
    assert "gen_ai.usage.output_tokens" not in attributes(spans.one("completed")), "there are no negative counts"


def test_nobody_wants_to_know(tracing: Tracing, spans: Spans) -> None:
    """With no provider that records: the events come as ever, and no call stays open."""
    tracing.on("openai", tracer_provider=trace.NoOpTracerProvider(), meter_provider=None)
    events, _ = talk("sync", [session(), *answer("r1")], one)
    assert events[-1].type == "response.done"
    assert not spans.finished()


def test_switched_off_it_is_the_clients_own(tracing: Tracing) -> None:
    from openai.resources.realtime import realtime

    names = [
        ("RealtimeConnection", "recv"),
        ("AsyncRealtimeConnection", "send"),
        ("RealtimeConnectionManager", "enter"),
    ]

    def functions() -> list[int]:
        return [id(inspect.getattr_static(getattr(realtime, cls), name)) for cls, name in names]

    before = functions()
    tracing.on("openai")
    assert not set(functions()) & set(before)
    tracing.off()
    assert functions() == before


def test_golden_trees(tracing: Tracing, spans: Spans) -> None:
    tracing.on("openai")
    talk("sync", [session(), *answer("r1", 0.02)], one)
    assert_golden("realtime", shape(spans, spans.one("completed"), in_step=False))
    spans.clear()
    interrupted = [created("r1"), *deltas("r1"), done("r1", "cancelled", "turn_detected")]
    talk("sync", [session(), expect("response.create"), *interrupted], one)
    assert_golden("realtime_interrupted", shape(spans, spans.one("cancelled"), in_step=False))
