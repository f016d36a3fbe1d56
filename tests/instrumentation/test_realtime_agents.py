"""Sessions of the Agents SDK's voice agents: a call for each response, over a websocket of the SDK's own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.conftest import Tracing
from tests.support.realtime import (
    MODEL,
    SOUND,
    Close,
    Conversations,
    Cut,
    Refuse,
    Step,
    answer,
    created,
    deltas,
    done,
    expect,
    session,
)
from tests.support.spans import Spans, attributes, seconds

realtime = pytest.importorskip("agents.realtime")
pytest.importorskip("agents").set_tracing_disabled(True)
Act = Callable[[Any, "list[str]"], Awaitable[None]]


def talk(script: Sequence[Step], act: Act) -> tuple[list[str], set[str]]:
    """Have ``act`` use a session with a server that plays ``script``; returns the types of the server's events, and of
    the SDK's without their order and number, since it sends them from several tasks.
    """

    async def run(url: str) -> list[str]:
        came: list[str] = []
        runner = realtime.RealtimeRunner(realtime.RealtimeAgent(name="agent", instructions="SAY"))
        about = {"url": url, "api_key": "k", "initial_model_settings": {"model_name": MODEL}}
        async with await runner.run(model_config=about) as talking:
            await act(talking, came)
        return came

    with Conversations(script) as server:
        came = asyncio.run(run(f"{server.url.replace('http', 'ws')}/v1/realtime?model={MODEL}"))
    return came, {event["type"] for event in server.received}


async def read_until(talking: Any, came: list[str], kind: str = "response.done") -> None:
    async for event in talking:
        if event.type == "raw_model_event" and event.data.type == "raw_server_event":
            came.append(event.data.data["type"])
            if came[-1] == kind:
                return


async def one(talking: Any, came: list[str]) -> None:
    await talking.send_message("PROMPT-SENTINEL")
    await read_until(talking, came)


async def two(talking: Any, came: list[str]) -> None:
    await one(talking, came)
    await one(talking, came)


async def silent(talking: Any, came: list[str]) -> None:
    """The user speaks, and the server notices by itself that they have ended."""
    await talking.send_audio(b"SOUND")
    await read_until(talking, came)


async def interrupting(talking: Any, came: list[str]) -> None:
    await talking.send_message("PROMPT-SENTINEL")
    await read_until(talking, came, "response.output_audio_transcript.delta")
    await talking.interrupt()
    await read_until(talking, came)


async def leaving(talking: Any, came: list[str]) -> None:
    await talking.send_message("PROMPT-SENTINEL")
    await read_until(talking, came, "response.created")


async def until_it_breaks(talking: Any, came: list[str]) -> None:
    await talking.send_message("PROMPT-SENTINEL")
    with contextlib.suppress(ConnectionClosed):  # or it ends, whichever of its tasks is sooner
        await read_until(talking, came)


async def until_it_errs(talking: Any, came: list[str]) -> None:
    await talking.send_message("PROMPT-SENTINEL")
    await read_until(talking, came, "error")


@pytest.mark.parametrize("act", [one, two], ids=["one", "two"])
def test_each_response_is_a_call(act: Act, tracing: Tracing, spans: Spans) -> None:
    names = ["r1", "r2"] if act is two else ["r1"]
    script = [session(), *(step for name in names for step in answer(name, 0.02))]
    bare = talk(script, act)
    tracing.on("openai")
    assert talk(script, act) == bare
    spans.flush()
    calls = spans.parents()
    assert [attributes(span)["gen_ai.response.id"] for span in calls] == names
    for span in calls:
        spans.check(span)
        attrs = attributes(span)
        assert span.name == f"realtime_inference {MODEL}"
        assert attrs["gen_ai.provider.name"] == "openai"
        assert attrs["server.address"] == "127.0.0.1"
        assert attrs["gen_ai.usage.output_tokens"] == 140
        assert attrs["llmtrace.stream.chunks"] == 6
        assert 0.02 <= attrs["llmtrace.call.ttft"] <= seconds(span)
        assert set(spans.phases(span)) == {"queue_prefill", "decode"}
        assert SOUND not in str(attrs)


FAILURE = {"type": "server_error", "code": "overloaded", "message": "SENTINEL"}
ENDS: dict[str, tuple[list[Step], Act, str, dict[str, Any]]] = {
    "the server notices silence": (
        [expect("input_audio_buffer.append"), created("r1"), *deltas("r1"), done("r1")],
        silent,
        "completed",
        {"gen_ai.response.id": "r1"},
    ),
    "the user speaks": (
        [expect("response.create"), created("r1"), *deltas("r1"), done("r1", "cancelled", "turn_detected")],
        one,
        "cancelled",
        {"gen_ai.response.finish_reasons": ("turn_detected",), "llmtrace.cancellation.cause": "answer_cancelled"},
    ),
    "interrupted by the application": (
        [
            *(expect("response.create"), created("r1"), *deltas("r1")),
            *(expect("response.cancel"), done("r1", "cancelled", "client_cancelled")),
        ],
        interrupting,
        "cancelled",
        {"gen_ai.response.finish_reasons": ("client_cancelled",), "llmtrace.cancellation.phase": "decode"},
    ),
    "failed": (
        [expect("response.create"), created("r1"), done("r1", "failed")],
        one,
        "error",
        {"error.type": "rate_limit_exceeded"},
    ),
    "refused": (
        [expect("response.create"), Refuse(FAILURE)],
        until_it_errs,
        "error",
        {"error.type": "overloaded"},
    ),
    "the connection breaks": (
        [expect("response.create"), created("r1"), *deltas("r1"), Cut()],
        until_it_breaks,
        "error",
        {"gen_ai.response.id": "r1", "llmtrace.cancellation.cause": "connection_lost"},
    ),
    "the server leaves": (
        [expect("response.create"), created("r1"), *deltas("r1"), Close(1000)],
        until_it_breaks,
        "closed_early",
        {"gen_ai.response.id": "r1"},
    ),
    "the application leaves": (
        [expect("response.create"), created("r1")],
        leaving,
        "closed_early",
        {"llmtrace.stream.chunks": 1},
    ),
}


@pytest.mark.parametrize("how", ENDS)
def test_how_a_response_ends(how: str, tracing: Tracing, spans: Spans) -> None:
    steps, act, outcome, said = ENDS[how]
    tracing.on("openai")
    talk([session(), *steps], act)
    assert said.items() <= attributes(spans.one(outcome)).items()


def test_a_connection_of_another_kind_only_passes_by(tracing: Tracing, spans: Spans) -> None:
    from websockets.asyncio.client import connect

    tracing.on("openai")

    async def run(url: str) -> str | bytes:
        async with connect(url) as connection:
            await connection.send('{"type": "response.create"}')
            return await connection.recv()

    with Conversations(answer("r1")) as server:
        assert "response.created" in str(asyncio.run(run(server.url.replace("http", "ws"))))
    assert not spans.finished()
