"""How calls end: every row of the peers' behaviour table, for the synchronous and the asynchronous client.

The rule under test: a call ends exactly once, at the last thing that happened to it (a chunk, a close, an exception),
whenever that is noticed; and its outcome says which it was.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import signal
import sys
import threading
import time
from typing import Any

import anyio
import openai
import pytest
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import StatusCode

from tests.support import replay as play
from tests.support.apis import LOST, Async, Boom, Sync, boom_client, http, request
from tests.support.clock import Clock
from tests.support.paced import pace
from tests.support.replay import After, Replay, in_step, openai_stream
from tests.support.spans import Spans, attributes, outcome, seconds
from tests.support.waiting import LoopTime, is_reading, until, wait_for

pytestmark = pytest.mark.usefixtures("traced")

SLACK = 5_000_000
"""ns. Two clocks (the span's anchor and ``time.time_ns``), one machine."""
PAUSE = 0.15
"""s. Something that must not be seen in the span: no test needs it to be longer than something else takes."""


def before(spans: Spans, moment: int) -> None:
    """The only call ended no later than ``moment`` (``time.time_ns()``)."""
    span = spans.parents()[0]
    assert span.end_time <= moment + SLACK, f"{(span.end_time - moment) / 1e6:.1f} ms too late"


# Whole streams.


def test_a_drained_stream_is_completed(api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(in_step(openai_stream(usage=play.USAGE, ttft=0.02, itl=0.005), api))
    chunks = api.drain(api.stream(stream_options={"include_usage": True}))
    span = spans.one("completed")
    assert len(chunks) == 9
    assert span.status.status_code is StatusCode.UNSET
    assert [child.name for child in spans.children(span)] == [
        "llm.network",
        "llm.unattributed",
        "llm.queue_prefill",
        "llm.decode",
    ]
    attrs = attributes(span)
    assert attrs["gen_ai.request.stream"] is True
    assert attrs["gen_ai.response.time_to_first_chunk"] >= 0.02
    assert attrs["gen_ai.usage.input_tokens"] == 40
    assert attrs["gen_ai.usage.cache_read.input_tokens"] == 16
    assert attrs["gen_ai.usage.output_tokens"] == 6
    written = replay.last.written
    decode = spans.phases(span)["decode"]
    # The first token is the second item: a role comes with it.
    assert written[0] - SLACK <= decode.start_time <= api.moments[1] + SLACK
    assert written[-1] - SLACK <= decode.end_time <= api.moments[-1] + SLACK
    assert span.end_time == decode.end_time
    assert attributes(decode)["llmtrace.phase.tokens"] == 6


def test_a_whole_answer_is_completed(api: Sync, replay: Replay, spans: Spans) -> None:
    script = play.openai_body()
    script.before = 0.03
    replay.play(script)
    api.create()
    span = spans.one("completed")
    assert "gen_ai.request.stream" not in attributes(span)
    assert "gen_ai.response.time_to_first_chunk" not in attributes(span)
    assert [child.name for child in spans.children(span)] == ["llm.network", "llm.unattributed", "llm.opaque"]
    assert seconds(span) >= 0.03


def test_time_after_the_last_event_is_not_the_models(api: Sync, replay: Replay, spans: Spans) -> None:
    """After ``[DONE]`` the asynchronous client drains the connection for up to 0.1 s: that is no decoding."""
    script = openai_stream(itl=0.002)
    script.parts = [*script.parts, (After(lambda: len(api.moments) == 8, 0.09), b": bye\n\n")]
    replay.play(script)
    api.drain(api.stream())
    spans.one("completed")
    before(spans, api.moments[-1])


def test_a_stream_without_a_token_is_completed(api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(play.role_only_stream(), play.events_script())
    api.drain(api.stream())
    api.drain(api.stream())
    for span in spans.parents():
        spans.check(span)
        assert outcome(span) == "completed"
        assert "decode" not in spans.phases(span), "nothing was decoded"


def test_a_buffered_stream_has_no_phases_to_tell_apart(api: Sync, replay: Replay, spans: Spans, clock: Clock) -> None:
    script = play.buffered(silence=0.0)
    script.parts = [(After(lambda: clock.advance(0.2)), data) for _, data in script.parts]
    replay.play(script)
    api.drain(api.stream())
    phases = spans.phases(spans.one("completed"))
    assert set(phases) <= {"network", "unattributed", "opaque"}, "all at once after a silence: no split can be known"


# Left early.


def test_break_then_collected_later(api: Sync, replay: Replay, spans: Spans) -> None:
    """PEERS, row 1: dropped after a ``break``, and collected a while after that."""
    replay.play(openai_stream(itl=0.005))
    stream = api.stream()
    api.take(stream, 3)
    left = time.time_ns()
    time.sleep(PAUSE)
    del stream
    api.collect()
    span = spans.one("abandoned")
    assert span.status.status_code is StatusCode.UNSET
    before(spans, left)
    assert set(spans.phases(span)) == {"network", "unattributed", "queue_prefill", "decode"}


def test_abandoned_at_once_collected_much_later(api: Sync, replay: Replay, spans: Spans) -> None:
    """PEERS: 509 ms with the others."""
    replay.play(openai_stream(itl=0.001))
    stream = api.stream()
    api.pull(stream)
    left = time.time_ns()
    time.sleep(0.5)
    del stream
    api.collect()
    span = spans.one("abandoned")
    before(spans, left)
    assert span.status.status_code is StatusCode.UNSET


def test_a_shutdown_waits_for_the_end_under_way(client: openai.OpenAI, replay: Replay, spans: Spans) -> None:
    """Dropped where locks may be held, so that another thread ends the call: its span is there after a shutdown."""

    class Slow(SpanProcessor):
        begun = threading.Event()

        def on_end(self, span: Any) -> None:
            self.begun.set()
            time.sleep(PAUSE)

    # In front of the exporting one: it has not exported when it was begun.
    processors = spans.provider._active_span_processor
    processors._span_processors = (Slow(), *processors._span_processors)
    replay.play(openai_stream(itl=0.001))
    kept = [client.chat.completions.create(**request(stream=True))]
    next(kept[0])
    exec(
        "kept.clear(); collect()", {"__name__": "threading", "kept": kept, "collect": gc.collect}
    )  # as if that module's code had been interrupted
    assert Slow.begun.wait(10)
    spans.provider.shutdown()
    spans.one("abandoned")


def test_a_shutdown_waits_for_what_it_brings_about(client: openai.OpenAI, replay: Replay, spans: Spans) -> None:
    """While it writes one call's span, another stream is collected, and another thread ends that."""
    kept: list[Any] = []

    class Dropping(SpanProcessor):
        def on_end(self, span: Any) -> None:
            if kept:  # as if that module's code had been interrupted by the garbage collector
                exec("kept.clear()", {"__name__": "threading", "kept": kept})
            elif threading.current_thread() is not threading.main_thread():
                time.sleep(PAUSE)

    processors = spans.provider._active_span_processor
    processors._span_processors = (Dropping(), *processors._span_processors)
    replay.serve(openai_stream(itl=0.001))
    stream = client.chat.completions.create(**request(stream=True))
    next(stream)
    for _ in range(4):  # whichever of the five it begins with
        kept.append(client.chat.completions.create(**request(stream=True)))
        next(kept[-1])
    spans.provider.shutdown()
    assert len(spans.parents()) == 5


def test_dropped_unread(api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(openai_stream())
    stream = api.stream()
    left = time.time_ns()
    time.sleep(PAUSE)
    del stream
    api.collect()
    span = spans.one({"abandoned", "never_consumed"})
    before(spans, left)
    assert set(spans.phases(span)) <= {"network", "unattributed", "queue_prefill", "opaque"}, "no token was seen"


def test_dropped_in_a_cycle(api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(openai_stream(itl=0.005))
    holder: dict[str, Any] = {"stream": api.stream()}
    holder["self"] = holder
    api.pull(holder["stream"])
    left = time.time_ns()
    gc.disable()
    try:
        del holder
        time.sleep(PAUSE)
    finally:
        gc.enable()
    api.collect()
    spans.one("abandoned")
    before(spans, left)


def test_close(api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(openai_stream(itl=0.005))
    stream = api.stream()
    api.take(stream, 2)
    api.close(stream)
    left = time.time_ns()
    span = spans.one("closed_early")
    assert span.status.status_code is StatusCode.UNSET
    before(spans, left)
    time.sleep(0.01)
    api.close(stream)
    del stream
    api.collect()
    assert len(spans.parents()) == 1


def test_close_unread(api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(openai_stream())
    stream = api.stream()
    api.close(stream)
    left = time.time_ns()
    del stream
    api.collect()
    spans.one("closed_early")
    before(spans, left)


def test_close_of_the_response_itself(api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(openai_stream(itl=0.005))
    stream = api.stream()
    api.take(stream, 2)
    api.run(stream.response.aclose()) if api.name == "async" else stream.response.close()
    left = time.time_ns()
    spans.one("closed_early")
    before(spans, left)


def test_with_block_left_early(api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(openai_stream(itl=0.005))
    with api.entered(api.stream()) as stream:
        api.take(stream, 2)
    left = time.time_ns()
    spans.one("closed_early")
    before(spans, left)
    del stream
    api.collect()
    assert len(spans.parents()) == 1


def test_with_block_left_by_an_exception_of_the_application(api: Sync, replay: Replay, spans: Spans) -> None:
    """Whatever the application raises while it holds the stream is not the call's error."""
    replay.play(openai_stream(itl=0.005))
    boom = Boom("the application's own")
    with pytest.raises(Boom) as caught, api.entered(api.stream()) as stream:
        api.take(stream, 2)
        raise boom
    assert caught.value is boom
    span = spans.one("closed_early")
    assert span.status.status_code is StatusCode.UNSET


def test_closing_a_drained_stream_changes_nothing(api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(openai_stream())
    stream = api.stream()
    api.drain(stream)
    api.close(stream)
    del stream
    api.collect()
    spans.one("completed")


def test_break_at_the_last_word_then_close(api: Sync, replay: Replay, spans: Spans) -> None:
    """The loop leaves at the finish reason, before ``[DONE]`` was read: the answer was complete all the same."""
    replay.play(openai_stream())
    stream = api.stream()
    api.take(stream, 8)
    api.close(stream)
    span = spans.one({"completed", "closed_early"})
    assert attributes(span)["gen_ai.response.finish_reasons"] == ("stop",)


def test_cancellation_attributes_of_a_stream_left_early(api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(openai_stream(itl=0.005))
    stream = api.stream()
    api.take(stream, 4)
    api.close(stream)
    attrs = attributes(spans.one("closed_early"))
    assert attrs["llmtrace.cancellation.phase"] == "decode"
    assert attrs["llmtrace.cancellation.delivered_tokens"] == 3, "a role chunk and three words"
    assert "llmtrace.cancellation.billed_tokens" not in attrs, "nobody has told"
    assert "gen_ai.usage.output_tokens" not in attrs


# Never consumed.


def test_a_flush_ends_nothing_that_lives(api: Sync, replay: Replay, spans: Spans) -> None:
    """Someone flushes after a stream was handed over; the application then reads it as if nothing had happened."""
    replay.play(openai_stream())
    stream = api.stream()
    time.sleep(PAUSE)
    spans.provider.force_flush()
    assert spans.parents() == []
    assert len(api.drain(stream)) == 8
    assert attributes(spans.one("completed"))["llmtrace.call.ttft"] > 0


def test_kept_and_never_drained_ends_at_the_shutdown(api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(openai_stream())
    stream = api.stream()
    spans.provider.shutdown()
    spans.one("never_consumed")
    api.close(stream)


def test_a_flush_spares_a_pull_under_way(api: Sync, replay: Replay, spans: Spans) -> None:
    """A flush in one thread says nothing of a stream that another thread is reading at this moment."""
    gate = threading.Event()
    script = openai_stream(("a", "b", "c"))
    script.parts = [script.parts[0], (gate, script.parts[1][1]), *script.parts[2:]]
    replay.play(script)
    stream = api.stream()
    api.pull(stream)
    reader = threading.current_thread()

    def flush() -> None:
        if api.name == "sync":
            wait_for(lambda: is_reading(reader))
        spans.provider.force_flush()
        gate.set()

    threading.Timer(0.03, flush).start()
    assert len(api.drain(stream)) == 4
    spans.one("completed")


# Errors.


def test_network_error_mid_stream(api: Sync, replay: Replay, spans: Spans) -> None:
    """PEERS, row 2."""
    script = openai_stream(("Hel", "lo", " there"), ttft=0.02, itl=0.01)
    replay.play(play.Script(200, play.SSE_HEADERS, script.parts[:-1], after="rst"))
    stream = api.stream()
    with pytest.raises(LOST) as caught:
        api.drain(stream)
    left = time.time_ns()
    assert isinstance(caught.value, http.ReadError) or isinstance(caught.value.__cause__, http.ReadError)
    span = spans.one("error")
    assert span.status.status_code is StatusCode.ERROR
    assert attributes(span)["error.type"].endswith(type(caught.value).__name__)
    assert {"queue_prefill", "decode"} <= set(spans.phases(span)), "phases up to the error"
    before(spans, left)
    assert span.end_time >= replay.last.written[-1] - SLACK
    del stream, caught
    api.collect()
    assert len(spans.parents()) == 1


@pytest.mark.parametrize(
    ("script", "raised"),
    [
        (play.cut_mid_stream, LOST),
        (play.error_event, openai.APIError),
        (play.malformed_chunk, ValueError),
        (play.reset_after_headers, LOST),
    ],
    ids=["cut", "error event", "malformed chunk", "reset after headers"],
)
def test_errors_inside_a_stream(api: Sync, replay: Replay, spans: Spans, script: Any, raised: Any) -> None:
    replay.play(script())
    stream = api.stream()
    with pytest.raises(raised) as caught:
        api.drain(stream)
    attrs = attributes(spans.one("error"))
    assert attrs["error.type"].rpartition(".")[2] == type(caught.value).__name__


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("script", "raised"),
    [
        (play.reset_before_headers, openai.APIConnectionError),
        (play.too_many, openai.RateLimitError),
        (play.server_error, openai.InternalServerError),
        (lambda: play.server_error(400), openai.BadRequestError),
    ],
    ids=["reset before headers", "429", "500", "400"],
)
def test_errors_before_an_answer(
    api: Sync, replay: Replay, spans: Spans, script: Any, raised: Any, streaming: bool
) -> None:
    replay.play(script())
    with pytest.raises(raised) as caught:
        api.create(**({"stream": True} if streaming else {}))
    span = spans.one("error")
    status = str(getattr(caught.value, "status_code", ""))
    assert attributes(span)["error.type"].rpartition(".")[2] in (raised.__name__, status)
    assert not [child for child in spans.children(span) if child.name == "llm.attempt"], "nothing was retried"


def test_refused(kind: str, make_api: Any, spans: Spans) -> None:
    api = make_api(kind, play.refused_url())
    with pytest.raises(openai.APIConnectionError):
        api.create()
    assert set(spans.phases(spans.one("error"))) == {"network", "unattributed"}, "it was never asked"


def test_read_timeout_of_the_client(kind: str, make_api: Any, replay: Replay, spans: Spans) -> None:
    replay.play(play.accept_and_hang())
    api = make_api(kind, timeout=0.05)
    with pytest.raises(openai.APITimeoutError):
        api.create()
    left = time.time_ns()
    span = spans.one("timed_out")
    assert seconds(span) >= 0.05
    before(spans, left)


def test_read_timeout_mid_stream(kind: str, make_api: Any, replay: Replay, spans: Spans) -> None:
    replay.play(play.hang_mid_stream())
    api = make_api(kind, timeout=2.0)  # of which the chunks before it need next to nothing
    stream = api.stream()
    with pytest.raises(LOST):
        api.drain(stream)
    span = spans.one("timed_out")
    assert {"queue_prefill", "decode"} <= set(spans.phases(span))


@pytest.mark.parametrize("after", [None, 1], ids=["before the answer", "mid-stream"])
def test_the_applications_own_exception_object_comes_out(
    kind: str, replay: Replay, spans: Spans, after: int | None
) -> None:
    boom = Boom("from the transport")
    replay.play(openai_stream(itl=0.002))
    api = boom_client(Async if kind == "async" else Sync, replay.base_url, boom, after)
    try:
        with pytest.raises((Boom, openai.APIConnectionError)) as caught:
            api.drain(api.stream())
        # (Older clients wrap whatever a transport raises before there is an answer.)
        assert caught.value is boom or (after is None and caught.value.__cause__ is boom)
        assert boom.__cause__ is None
        assert boom.__context__ is None
        assert attributes(spans.one("error"))["error.type"].endswith(type(caught.value).__name__)
    finally:
        api.shut()


@pytest.mark.parametrize("after", [None, 1], ids=["before the answer", "mid-stream"])
def test_the_cause_of_the_clients_exception_is_the_transports(
    kind: str, replay: Replay, spans: Spans, after: int | None
) -> None:
    error = http.ReadError("cable")
    replay.play(openai_stream(itl=0.002))
    api = boom_client(Async if kind == "async" else Sync, replay.base_url, error, after)
    try:
        with pytest.raises(LOST) as caught:
            api.drain(api.stream())
        assert caught.value is error or caught.value.__cause__ is error
        spans.one("error")
    finally:
        api.shut()


# Cancelled and timed out.


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs POSIX signals")
def test_keyboard_interrupt_during_a_pull(make_api: Any, replay: Replay, spans: Spans) -> None:
    replay.play(play.hang_mid_stream())
    api = make_api("sync")
    stream = api.stream()
    api.take(stream, 4)  # all there are: the next pull blocks
    main = threading.main_thread()

    def interrupt() -> None:
        wait_for(lambda: is_reading(main))
        signal.pthread_kill(main.ident or 0, signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        threading.Thread(target=interrupt).start()
        api.drain(stream)
    left = time.time_ns()
    spans.one("cancelled")
    before(spans, left)


async def _read(client: openai.AsyncOpenAI, keep: list[Any]) -> None:
    stream = await client.chat.completions.create(**request(stream=True))
    keep.append(stream)
    async for chunk in stream:
        keep.append(chunk)


KEPT = {"before headers": 0, "before the first token": 1, "mid-stream": 5}
"""What ``_read`` has kept when it comes to wait: the stream, and the chunks of ``hang_mid_stream``."""


@pytest.mark.parametrize("where", KEPT)
async def test_task_cancelled(aclient: openai.AsyncOpenAI, replay: Replay, spans: Spans, where: str) -> None:
    """PEERS, row 3, at each phase; the stream object is kept throughout."""
    scripts = {
        "before headers": play.accept_and_hang(),
        "before the first token": play.Script(200, play.SSE_HEADERS, after="hang"),
        "mid-stream": play.hang_mid_stream(),
    }
    replay.play(scripts[where])
    keep: list[Any] = []
    task = asyncio.create_task(_read(aclient, keep))
    await until(lambda: replay.requests and len(keep) == KEPT[where])
    cancelled = time.time_ns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    left = time.time_ns()
    await asyncio.sleep(PAUSE)
    span = spans.one("cancelled")
    assert cancelled - SLACK <= span.end_time <= left + SLACK, "the exact time"
    assert ("decode" in spans.phases(span)) == (where == "mid-stream")
    assert len(keep) == KEPT[where]


async def test_task_cancelled_between_two_pulls(aclient: openai.AsyncOpenAI, replay: Replay, spans: Spans) -> None:
    """The application was busy with a chunk when it was cancelled; the stream goes with its task."""
    replay.play(openai_stream(itl=0.002))
    busy = asyncio.Event()

    async def read() -> None:
        async for _ in await aclient.chat.completions.create(**request(stream=True)):
            busy.set()
            await asyncio.sleep(10)

    task = asyncio.create_task(read())
    await busy.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    left = time.time_ns()
    await asyncio.sleep(PAUSE)
    del task
    gc.collect()
    await asyncio.sleep(0.01)
    spans.one({"cancelled", "abandoned"})
    before(spans, left)


async def test_async_with_cancelled_between_two_pulls(
    aclient: openai.AsyncOpenAI, replay: Replay, spans: Spans
) -> None:
    replay.play(openai_stream(itl=0.002))
    busy = asyncio.Event()

    async def read() -> None:
        async with await aclient.chat.completions.create(**request(stream=True)) as stream:
            async for _ in stream:
                busy.set()
                await asyncio.sleep(10)

    task = asyncio.create_task(read())
    await busy.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    spans.one("cancelled")


LIMIT = 60.0
"""s, on the loop's clock, which the test moves on once the call is where it is to time out."""


async def _wait_for(coroutine: Any) -> None:
    await asyncio.wait_for(coroutine, LIMIT)


async def _timeout(coroutine: Any) -> None:
    async with asyncio.timeout(LIMIT):
        await coroutine


async def _fail_after(coroutine: Any) -> None:
    with anyio.fail_after(LIMIT):
        await coroutine


async def _move_on_after(coroutine: Any) -> None:
    with anyio.move_on_after(LIMIT):
        await coroutine
    raise TimeoutError


@pytest.mark.parametrize("where", ["before headers", "mid-stream"])
@pytest.mark.parametrize(
    "limit",
    [
        _wait_for,
        pytest.param(_timeout, marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout is new")),
        _fail_after,
        _move_on_after,
    ],
    ids=["wait_for", "asyncio.timeout", "fail_after", "move_on_after"],
)
async def test_timed_out_by_the_loop(
    aclient: openai.AsyncOpenAI, replay: Replay, spans: Spans, limit: Any, where: str
) -> None:
    """PEERS, row 4: the stream object is kept, so nothing but the timeout itself can end the call."""
    replay.play(play.accept_and_hang() if where == "before headers" else play.hang_mid_stream())
    keep: list[Any] = []
    passing = LoopTime(asyncio.get_running_loop())
    patient = aclient.with_options(timeout=1e6)
    task = asyncio.ensure_future(limit(_read(patient, keep)))
    await until(lambda: replay.requests and len(keep) == KEPT[where])
    assert not task.done()
    due = time.time_ns()
    passing.advance(LIMIT)
    with pytest.raises(TimeoutError if sys.version_info >= (3, 11) else (TimeoutError, asyncio.TimeoutError)):
        await task
    left = time.time_ns()
    await asyncio.sleep(PAUSE)
    span = spans.one("timed_out")
    assert due - SLACK <= span.end_time <= left + SLACK
    assert len(keep) == KEPT[where]


async def test_a_cancellation_inside_a_timeout_is_a_cancellation(
    aclient: openai.AsyncOpenAI, replay: Replay, spans: Spans
) -> None:
    replay.play(play.hang_mid_stream())
    keep: list[Any] = []
    task = asyncio.create_task(asyncio.wait_for(_read(aclient, keep), 1e6))
    await until(lambda: len(keep) == KEPT["mid-stream"])
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    spans.one("cancelled")


async def test_a_task_group_cancels_its_other_calls(aclient: openai.AsyncOpenAI, replay: Replay, spans: Spans) -> None:
    replay.play(play.hang_mid_stream(), play.hang_mid_stream())
    keep: list[Any] = []

    async def fail() -> None:
        await until(lambda: len(keep) == 2 * KEPT["mid-stream"])
        raise Boom

    with pytest.raises(Exception):
        async with anyio.create_task_group() as group:
            group.start_soon(_read, aclient, keep)
            group.start_soon(_read, aclient, keep)
            group.start_soon(fail)
    assert [outcome(span) for span in spans.parents()] == ["cancelled", "cancelled"]
    spans.check_all()


def test_closed_from_another_thread_during_a_pull(make_api: Any, replay: Replay, spans: Spans) -> None:
    """The stop button of a chat: the reader is blocked in ``next`` while another thread closes the stream."""
    replay.play(play.hang_mid_stream(itl=0.002))
    api = make_api("sync", timeout=4.0)  # which the blocked reader still has to sit out
    stream = api.stream()
    api.take(stream, 4)
    reader = threading.current_thread()
    closed: list[int] = []

    def close() -> None:
        wait_for(lambda: is_reading(reader))
        stream.close()
        closed.append(time.time_ns())

    stopping = threading.Thread(target=close)
    stopping.start()
    with pytest.raises(Exception):
        api.drain(stream)
    stopping.join()
    spans.one("closed_early")
    before(spans, closed[0])


async def test_closed_from_another_task_during_a_pull(
    aclient: openai.AsyncOpenAI, replay: Replay, spans: Spans
) -> None:
    replay.play(play.hang_mid_stream(itl=0.002))
    keep: list[Any] = []
    task = asyncio.create_task(_read(aclient, keep))
    await until(lambda: len(keep) == KEPT["mid-stream"])
    await keep[0].close()
    left = time.time_ns()
    await asyncio.wait([task], timeout=0.2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    spans.one("closed_early")
    before(spans, left)


# Retries.


def test_two_429s_then_success(kind: str, make_api: Any, replay: Replay, spans: Spans) -> None:
    """PEERS: invisible with the others."""
    api = make_api(kind, max_retries=2)
    replay.play(play.too_many(40), play.too_many(40), in_step(openai_stream(ttft=0.02, itl=0.005), api))
    api.drain(api.stream())
    span = spans.one("completed")
    attempts = spans.children(span)
    assert [attempt.name for attempt in attempts] == ["llm.attempt"] * 3
    assert [attributes(attempt).get("http.response.status_code") for attempt in attempts] == [429, 429, 200]
    assert [attempt.status.status_code for attempt in attempts[:2]] == [StatusCode.ERROR] * 2
    assert attempts[2].status.status_code is StatusCode.UNSET
    assert [len(spans.children(attempt)) for attempt in attempts[:2]] == [0, 0]
    assert {"queue_prefill", "decode"} <= {p.name.removeprefix("llm.") for p in spans.children(attempts[2])}
    pairs = zip(itertools.pairwise(attempts), itertools.pairwise(replay.requests), strict=True)
    for (earlier, later), (refused, again) in pairs:
        assert (later.start_time - earlier.end_time) / 1e9 >= 0.03, "the backoff is the gap"
        assert earlier.end_time >= refused.headers_sent - SLACK
        assert later.start_time <= again.arrived + SLACK
    assert attempts[2].end_time == span.end_time
    assert len(replay.requests) == 3


def test_a_whole_answer_after_a_reset(kind: str, make_api: Any, replay: Replay, spans: Spans) -> None:
    """The client draws its backoff (0.4 to 0.5 s) itself: no server asked for one."""
    replay.play(play.reset_before_headers(), play.openai_body())
    api = make_api(kind, max_retries=1)
    assert api.create().choices[0].message.content
    span = spans.one("completed")
    first, second = spans.children(span)
    assert first.status.status_code is StatusCode.ERROR
    assert "http.response.status_code" not in attributes(first)
    assert [phase.name for phase in spans.children(second)][-1] == "llm.opaque"


def test_every_attempt_fails(kind: str, make_api: Any, replay: Replay, spans: Spans) -> None:
    replay.play(*[play.too_many(20)] * 3)
    api = make_api(kind, max_retries=2)
    with pytest.raises(openai.RateLimitError):
        api.create()
    span = spans.one("error")
    attempts = spans.children(span)
    assert [attributes(attempt).get("http.response.status_code") for attempt in attempts] == [429] * 3
    assert {attempt.status.status_code for attempt in attempts} == {StatusCode.ERROR}


class Deadline(http.ReadTimeout):
    """A timeout of the transport whose own name does not say so."""


def test_attempts_that_time_out(kind: str, replay: Replay, spans: Spans) -> None:
    api = boom_client(Async if kind == "async" else Sync, replay.base_url, Deadline("late"), None)
    api.client.max_retries = 1
    try:
        with pytest.raises(openai.APITimeoutError):
            api.create()
    finally:
        api.shut()
    attempts = spans.children(spans.one("timed_out"))
    assert [outcome(attempt) for attempt in attempts] == ["timed_out"] * 2


async def test_cancelled_during_the_backoff(replay: Replay, make_api: Any, spans: Spans) -> None:
    from tests.support.apis import async_client

    replay.play(play.too_many(5000))
    async with async_client(replay.base_url, max_retries=2) as client:
        task = asyncio.create_task(client.chat.completions.create(**request(stream=True)))
        await until(lambda: replay.requests and replay.last.done.is_set())
        await asyncio.sleep(0.08)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    left = time.time_ns()
    spans.one("cancelled")
    before(spans, left)


def test_a_stream_that_broke_is_not_an_attempt_that_failed(
    kind: str, make_api: Any, replay: Replay, spans: Spans
) -> None:
    """The client does not retry once it has handed out a stream: one attempt, one error."""
    replay.play(play.reset_mid_stream(), openai_stream())
    api = make_api(kind, max_retries=2)
    with pytest.raises(LOST):
        api.drain(api.stream())
    span = spans.one("error")
    assert "llm.attempt" not in [child.name for child in spans.children(span)]
    assert len(replay.requests) == 1


# A slow reader is not a slow model.


def test_consumer_sleeps_before_reading(api: Sync, replay: Replay, spans: Spans) -> None:
    """PEERS, last row: the first token lay ready long before the application asked for it."""
    replay.play(openai_stream(ttft=0.02, itl=0.005))
    stream = api.stream()
    wait_for(replay.last.done.is_set)
    time.sleep(0.3)
    api.drain(stream)
    span = spans.one("completed")
    phases = spans.phases(span)
    come = replay.last.flushed[-1]
    told = attributes(span)["gen_ai.response.time_to_first_chunk"]
    assert span.start_time + told * 1e9 <= come + SLACK, "of the model, not of the reader"
    assert phases["decode"].start_time <= come + SLACK


def test_the_consumers_sleep_before_reading_is_told(api: Sync, replay: Replay, spans: Spans, clock: Clock) -> None:
    replay.play(openai_stream(ttft=0.02, itl=0.005))
    stream = api.stream()
    wait_for(replay.last.done.is_set)
    time.sleep(0.3)  # by the kernel's clock too, which is asked how long the chunks have been there
    clock.advance(0.3)
    api.drain(stream)
    span = spans.one("completed")
    assert attributes(span)["gen_ai.response.time_to_first_chunk"] < 0.02
    decode = attributes(spans.phases(span)["decode"])
    assert decode["llmtrace.decode.consumer_wait"] == pytest.approx(0.3, abs=0.001)


def test_consumer_sleeps_while_reading(api: Sync, replay: Replay, spans: Spans, clock: Clock) -> None:
    replay.play(openai_stream())
    stream = api.stream()
    api.take(stream, 2)
    clock.advance(0.2)
    api.drain(stream)
    span = spans.one("completed")
    attrs = attributes(spans.phases(span)["decode"])
    assert attrs["llmtrace.decode.consumer_wait"] == pytest.approx(0.2, abs=0.001)
    assert attrs["llmtrace.decode.chunk_gap.max"] < 0.001, "the gap was the application's"


def test_a_prompt_reader_waits_for_nothing(api: Sync, replay: Replay, spans: Spans, clock: Clock) -> None:
    pace(api, clock, [0.03, *[0.01] * 9])
    replay.play(openai_stream())
    api.drain(api.stream())
    attrs = attributes(spans.phases(spans.one("completed"))["decode"])
    assert attrs["llmtrace.decode.consumer_wait"] < 0.001
    assert attrs["llmtrace.decode.chunk_gap.p50"] == pytest.approx(0.01, abs=0.001)


def test_a_stall_of_the_model_is_the_models(api: Sync, replay: Replay, spans: Spans, clock: Clock) -> None:
    pace(api, clock, [*[0.003] * 5, 0.18, *[0.003] * 7])
    replay.play(openai_stream(["a"] * 10))
    api.drain(api.stream())
    attrs = attributes(spans.phases(spans.one("completed"))["decode"])
    assert attrs["llmtrace.decode.stall.count"] == 1
    assert attrs["llmtrace.decode.stall.duration"] == pytest.approx(0.18, abs=0.001)
    assert attrs["llmtrace.decode.chunk_gap.max"] == attrs["llmtrace.decode.stall.duration"]
    assert attrs["llmtrace.decode.consumer_wait"] < 0.001


def test_a_stall_of_the_server_is_seen(api: Sync, replay: Replay, spans: Spans) -> None:
    """By the machine's own clock: no shorter than the server made it, no longer than the reader waited for it."""
    script = openai_stream(["a"] * 10, itl=0.003)
    script.parts = [*script.parts[:5], (0.4, script.parts[5][1]), *script.parts[6:]]
    replay.play(in_step(script, api))
    api.drain(api.stream())
    attrs = attributes(spans.phases(spans.one("completed"))["decode"])
    assert attrs["llmtrace.decode.stall.count"] >= 1
    written, got = replay.last.written, api.moments[1:]  # a role comes with the first word: two items in one part
    least = (written[5] - got[4]) / 1e9
    most = max(later - earlier for earlier, later in zip(written, got[1:], strict=False)) / 1e9
    assert 0.4 <= least <= attrs["llmtrace.decode.chunk_gap.max"] <= most


def test_a_role_chunk_does_not_end_prefill(api: Sync, replay: Replay, spans: Spans) -> None:
    """Role at once, first token 80 ms later."""
    chunks = play.openai_chunks(("a", "b", "c"))
    events = play.sse(*chunks)
    parts = [(0.0, events[0]), (0.08, events[1]), *[(0.005, e) for e in events[2:]]]
    replay.play(play.Script(200, play.SSE_HEADERS, parts))
    api.drain(api.stream())
    phases = spans.phases(spans.one("completed"))
    assert phases["decode"].start_time >= replay.last.written[1] - SLACK
    assert seconds(phases["queue_prefill"]) >= 0.07


def test_slow_headers_are_in_front_of_the_first_token(api: Sync, replay: Replay, spans: Spans) -> None:
    script = openai_stream(("a", "b", "c"), itl=0.002)
    script.before = 0.08
    replay.play(script)
    api.drain(api.stream())
    phases = spans.phases(spans.one("completed"))
    assert seconds(phases["queue_prefill"]) >= 0.07
    assert phases["network"].end_time <= replay.last.arrived + SLACK


# Many at once.


async def test_many_streams_at_once_each_with_its_own_end(
    aclient: openai.AsyncOpenAI, replay: Replay, spans: Spans
) -> None:
    replay.serve(lambda seen: play.hang_mid_stream() if seen.json["seed"] % 4 == 3 else openai_stream(itl=0.004))

    async def call(i: int) -> str:
        stream = await aclient.chat.completions.create(**request(stream=True, seed=i))
        if i % 4 == 0:
            return "completed" if [c async for c in stream] else ""
        if i % 4 == 1:
            async for _ in stream:
                break
            await stream.close()
            return "closed_early"
        if i % 4 == 2:
            async for _ in stream:
                break
            return "abandoned"
        task = asyncio.create_task(_drain(stream))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return "cancelled"

    expected = await asyncio.gather(*[call(i) for i in range(40)])
    gc.collect()
    await until(lambda: len(spans.parents()) == 40)
    spans.check_all()
    assert {attributes(s)["gen_ai.request.seed"]: outcome(s) for s in spans.parents()} == dict(enumerate(expected))
    ids = [span.context.span_id for span in spans.finished()]
    assert len(ids) == len(set(ids))


async def _drain(stream: Any) -> list[Any]:
    return [chunk async for chunk in stream]


def test_threads_share_a_client(make_api: Any, replay: Replay, spans: Spans) -> None:
    replay.serve(lambda request: openai_stream(itl=0.002))
    api = make_api("sync")
    threads = [threading.Thread(target=lambda: api.drain(api.stream())) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spans.check_all()
    assert [outcome(span) for span in spans.parents()] == ["completed"] * 16
