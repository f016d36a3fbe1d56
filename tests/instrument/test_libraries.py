"""Clients that are patched method by method: answers, ends, and that the application sees no change."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.trace import StatusCode

import llmtrace
from tests.support import replay as play
from tests.support.libraries import LIBRARIES, WORDS, Library
from tests.support.noise import patient
from tests.support.replay import Replay, Script
from tests.support.spans import Spans, attributes, seconds

NOISE = 0.3


@pytest.fixture(
    params=[(library, kind) for library in LIBRARIES for kind in ("sync", "async")], ids=lambda p: f"{p[0].name}-{p[1]}"
)
def library(request: pytest.FixtureRequest, replay: Replay) -> Iterator[Library]:
    make, kind = request.param
    pytest.importorskip({"huggingface": "huggingface_hub"}.get(make.client, make.client))
    made = make(replay, kind)
    yield made
    made.shut()


@pytest.fixture
def on(library: Library, spans: Spans) -> Iterator[None]:
    llmtrace.instrument(library.client, tracer_provider=spans.provider)
    yield
    llmtrace.uninstrument()


def cut(script: Script, after: str, keep: int = 3) -> Script:
    """The script's first parts, and then what becomes of the connection."""
    return replace(script, parts=script.parts[:keep], after=after)


def raised(library: Library, stream: Any) -> BaseException:
    with pytest.raises(Exception) as caught:
        library.drain(stream)
    return caught.value


# What the application sees.


def test_the_same_with_and_without(library: Library, replay: Replay, spans: Spans) -> None:
    scripts = [library.answers(), library.streams(), library.streams(("grün 🙂", " 日本"), usage=False)]

    def live() -> list[Any]:
        replay.play(*scripts)
        seen = [type(answer := library.whole()), library.dump(answer)]
        for _ in range(2):
            stream = library.stream()
            seen += [type(stream), getattr(stream, "__qualname__", None)]
            seen += [library.dump(item) for item in library.drain(stream)]
        return seen

    bare = live()
    llmtrace.instrument(library.client, tracer_provider=spans.provider)
    try:
        assert live() == bare
    finally:
        llmtrace.uninstrument()
    assert len(spans.parents()) == 3
    assert live() == bare
    assert len(spans.parents()) == 3


@pytest.mark.usefixtures("on")
def test_a_stream_is_as_lazy_as_it_was(library: Library, replay: Replay) -> None:
    replay.play(library.streams())
    stream = library.stream()
    assert len(replay.requests) == (0 if library.lazy else 1)
    library.drain(stream)


# What is told.


@pytest.mark.usefixtures("on")
def test_a_whole_answer(library: Library, replay: Replay, spans: Spans) -> None:
    replay.play(library.answers())
    library.whole()
    span = spans.one("completed")
    attrs = attributes(span)
    assert span.name == f"chat {library.model}"
    assert attrs["gen_ai.provider.name"] == library.provider
    assert attrs["gen_ai.usage.input_tokens"] == 40
    assert attrs["gen_ai.usage.output_tokens"] == 6
    assert attrs["gen_ai.response.finish_reasons"] == ("stop",)
    assert attrs["server.port"] == replay.port
    assert "gen_ai.request.stream" not in attrs


@patient
def streamed(library: Library, replay: Replay, spans: Spans) -> None:
    library.drain(stream_after_warming_up(library, replay, spans))
    span = spans.one("completed")
    attrs = attributes(span)
    assert attrs["gen_ai.request.stream"] is True
    assert attrs["gen_ai.usage.input_tokens"] == 40
    assert attrs["gen_ai.usage.output_tokens"] == 6
    assert attrs["gen_ai.response.finish_reasons"] == ("stop",)
    phases = spans.phases(span)
    assert "decode" in phases
    assert abs(seconds(phases["decode"]) - 0.02 * (len(replay.last.written) - 1)) < NOISE
    assert 0.1 <= attrs["llmtrace.call.ttft"] < 0.1 + NOISE


def stream_after_warming_up(library: Library, replay: Replay, spans: Spans) -> Any:
    """A stream, not the first: some libraries load a lot of themselves then."""
    replay.play(library.streams())
    library.drain(library.stream())
    spans.clear()
    replay.play(library.streams(ttft=0.1, itl=0.02))
    return library.stream()


@pytest.mark.usefixtures("on")
def test_a_stream(library: Library, replay: Replay, spans: Spans) -> None:
    streamed(library=library, replay=replay, spans=spans)


@pytest.mark.usefixtures("on")
def test_usage_that_nobody_reported(library: Library, replay: Replay, spans: Spans) -> None:
    replay.play(library.streams(usage=False))
    library.drain(library.stream())
    assert not [name for name in attributes(spans.one("completed")) if name.startswith("gen_ai.usage.")]


@pytest.mark.usefixtures("on")
def test_a_huge_chunk_and_split_characters(library: Library, replay: Replay, spans: Spans) -> None:
    script = library.streams(("Hel", "grün 🙂 日本 " * 20_000, "lo"))
    data = b"".join(part for _, part in script.parts)
    pieces = [data[i : i + 10_007] for i in range(0, len(data), 10_007)]
    replay.play(replace(script, parts=[(0.0, piece) for piece in pieces]))
    library.drain(library.stream())
    assert attributes(spans.one("completed"))["gen_ai.usage.output_tokens"] == 6


# How it ends.


@pytest.mark.usefixtures("on")
def test_an_error_status(library: Library, replay: Replay, spans: Spans) -> None:
    replay.serve(play.server_error(400))
    with pytest.raises(Exception):
        library.whole()
    raised_at = spans.one("error")
    assert attributes(raised_at)["error.type"] == "400"
    spans.clear()
    with pytest.raises(Exception):
        library.drain(library.stream())
    assert attributes(spans.one("error"))["error.type"] == "400"


@pytest.mark.usefixtures("on")
@pytest.mark.parametrize("after", ["cut", "rst"])
def test_a_connection_lost_in_mid_stream(library: Library, replay: Replay, spans: Spans, after: str) -> None:
    replay.play(cut(library.streams(), after))
    stream = library.stream()
    assert library.pull(stream)
    raised(library, stream)
    span = spans.one("error")
    assert span.status.status_code is StatusCode.ERROR
    assert "decode" in spans.phases(span)


@pytest.mark.usefixtures("on", "swallowed")
def test_a_malformed_chunk(library: Library, replay: Replay, spans: Spans) -> None:
    replay.play(library.malformed())
    stream = library.stream()
    try:
        library.drain(stream)
    except Exception:
        assert attributes(spans.one())["llmtrace.call.outcome"] == "error"
    else:
        spans.one("completed")  # the library passed over it


@pytest.mark.usefixtures("on")
def test_left_and_collected_later(library: Library, replay: Replay, spans: Spans) -> None:
    gate = threading.Event()
    replay.play(library.streams(itl=gate))
    stream = library.stream()
    library.pull(stream)
    left = time.time_ns()
    time.sleep(0.1)
    del stream
    library.collect()
    gate.set()
    settle(spans)
    span = spans.one("abandoned")
    assert span.status.status_code is StatusCode.UNSET
    assert span.end_time <= left + 5_000_000


@pytest.mark.usefixtures("on")
def test_closed_early(library: Library, replay: Replay, spans: Spans) -> None:
    gate = threading.Event()
    replay.play(library.streams(itl=gate))
    stream = library.stream()
    library.pull(stream)
    library.close(stream)
    span = spans.one("closed_early")
    assert span.status.status_code is StatusCode.UNSET
    gate.set()


@pytest.mark.usefixtures("on")
def test_never_read(library: Library, replay: Replay, spans: Spans) -> None:
    replay.play(library.streams())
    stream = library.stream()
    spans.flush()
    if library.lazy:
        assert not spans.parents(), "nothing was asked of anybody"
        del stream
        return
    spans.one("never_consumed")
    assert library.drain(stream), "the stream works on"


@pytest.mark.usefixtures("on")
def test_a_slow_reader_is_not_a_slow_model(library: Library, replay: Replay, spans: Spans) -> None:
    replay.play(library.streams())
    library.drain(library.stream())
    waits: list[float] = []
    for _ in range(
        5
    ):  # on a busy machine the client itself may need longer for a chunk that lay ready than can be told
        spans.clear()
        replay.play(library.streams())
        stream = library.stream()
        library.pull(stream)
        library.pull(stream)
        time.sleep(0.2)
        library.drain(stream)
        decode = spans.phases(spans.one("completed"))["decode"]
        waits.append(attributes(decode)["llmtrace.decode.consumer_wait"])
        if waits[-1] >= 0.15:
            break
    assert max(waits) >= 0.15


@pytest.mark.usefixtures("on")
@pytest.mark.parametrize("library", [(made, "async") for made in LIBRARIES], indirect=True, ids=lambda p: p[0].name)
def test_cancelled_and_timed_out(library: Library, replay: Replay, spans: Spans) -> None:
    gate = threading.Event()

    async def read(into: asyncio.Event) -> None:
        stream = await library.call(stream=True)
        async for _ in stream:
            into.set()

    async def cancelled() -> None:
        begun = asyncio.Event()
        task = asyncio.create_task(read(begun))
        await begun.wait()
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def timed_out() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(read(asyncio.Event()), 0.5)

    assert library.loop is not None
    for scenario, outcome in ((cancelled, "cancelled"), (timed_out, "timed_out")):
        replay.play(replace(library.streams(), parts=[*library.streams().parts[:2], (gate, b"")]))
        library.loop.run_until_complete(scenario())
        library.collect()
        spans.one(outcome)
        spans.clear()
    gate.set()


@pytest.mark.usefixtures("on")
def test_the_clients_own_timeout(library: Library, replay: Replay, spans: Spans) -> None:
    gate = threading.Event()
    replay.play(replace(library.streams(), parts=[*library.streams().parts[:2], (gate, b"")]))
    stream = library.stream(timeout=0.3)
    library.pull(stream)
    raised(library, stream)
    spans.one("timed_out")
    gate.set()


def settle(spans: Spans) -> None:
    """What ends on another thread has a moment."""
    until = time.monotonic() + 5
    while not spans.parents() and time.monotonic() < until:
        time.sleep(0.01)


def test_words_are_what_the_scripts_say() -> None:
    assert "".join(WORDS) == "Hello there, you two"
