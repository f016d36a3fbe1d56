"""Verdicts and cancellations as they stand on spans and in metrics, with the real client over real sockets."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llmtrace.calls.verdict import Diagnoser
from tests.support import replay as play
from tests.support.spans import attributes
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    import openai

    from tests.support.apis import Sync
    from tests.support.clock import Clock
    from tests.support.replay import Replay
    from tests.support.spans import Metrics, Spans

pytestmark = pytest.mark.usefixtures("traced")


def answer(cached: int = 0, prompt: int = 40, model: str = "gpt-4o-mini", words: int = 4, pause: float = 0.0) -> Any:
    """A script: ``words`` chunks, then the finish reason and the usage."""
    usage = play.USAGE | {"prompt_tokens": prompt, "prompt_tokens_details": {"cached_tokens": cached}}
    chunks = [play.chunk({"content": f"w{n} "}, model=model) for n in range(words)]
    last = [play.chunk({}, finish="stop", model=model), play.chunk(None, usage=usage, model=model)]
    events = play.sse(*chunks, *last)
    parts = [(pause, events[0]), *((0.0, event) for event in events[1:])]
    return play.Script(headers=play.SSE_HEADERS, parts=parts)


def ask(client: openai.OpenAI, model: str = "gpt-4o-mini", **options: Any) -> None:
    with client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "hello"}], stream=True, **options
    ) as stream:
        for _ in stream:
            pass


def test_a_calm_call_says_nothing(client: openai.OpenAI, replay: Replay, spans: Spans) -> None:
    replay.serve(answer())
    for _ in range(5):
        ask(client)
    assert all("llmtrace.diagnosis" not in attributes(span) and not span.events for span in spans.parents())


def test_another_model_than_asked_for(client: openai.OpenAI, replay: Replay, spans: Spans, metrics: Metrics) -> None:
    replay.serve(answer(model="gpt-4o-mini-2024-07-18"))
    ask(client)
    replay.serve(answer(model="gpt-3.5-turbo-0125"))
    ask(client)
    calm, swapped = spans.parents()
    assert "llmtrace.diagnosis" not in attributes(calm)
    said = attributes(swapped)
    assert list(said["llmtrace.diagnosis"]) == ["model_swap"]
    assert len(said["llmtrace.diagnosis.confidence"]) == 1
    (event,) = swapped.events
    assert event.name == "llmtrace.diagnosis"
    evidence = dict(event.attributes or {})
    assert evidence["llmtrace.diagnosis.cause"] == "model_swap"
    assert evidence["llmtrace.diagnosis.observed"] == "gpt-3.5-turbo-0125"
    assert evidence["llmtrace.diagnosis.expected"] == "gpt-4o-mini"
    assert evidence["llmtrace.diagnosis.history"] == 1


def test_the_name_of_a_deployment_is_no_models(replay: Replay, spans: Spans) -> None:
    """Azure's are the application's own: only a change of the model that answers is told."""
    import openai

    settings: dict[str, Any] = {"azure_endpoint": replay.url, "api_version": "2024-10-21", "api_key": "k"}
    with openai.AzureOpenAI(**settings) as client:
        replay.serve(answer(model="gpt-4o-mini-2024-07-18"))
        for _ in range(10):
            ask(client, model="support-bot")
        replay.serve(answer(model="gpt-3.5-turbo-0125"))
        ask(client, model="support-bot")
    *calm, swapped = spans.parents()
    assert all("llmtrace.diagnosis" not in attributes(span) for span in calm)
    assert attributes(swapped)["llmtrace.diagnosis"] == ("model_swap",)


def test_a_cold_cache_after_few_calls(client: openai.OpenAI, replay: Replay, spans: Spans) -> None:
    replay.serve(answer(cached=1900, prompt=2000, pause=0.1))
    for _ in range(12):
        ask(client)
    replay.serve(answer(cached=0, prompt=2000, pause=1.5))
    ask(client)
    last = spans.parents()[-1]
    assert "cold_kv_cache" in attributes(last)["llmtrace.diagnosis"]
    assert attributes(last)["llmtrace.diagnosis.cause"] == attributes(last)["llmtrace.diagnosis"][0]
    events = [(phase, event) for phase in spans.phases(last).values() for event in phase.events]
    ((phase, event),) = [
        each for each in events if (each[1].attributes or {})["llmtrace.diagnosis.cause"] == "cold_kv_cache"
    ]
    assert phase.start_time < event.timestamp < phase.end_time, "a mark that every viewer shows"  # type: ignore[operator]
    assert (event.attributes or {})["llmtrace.diagnosis.time_per_token"] == pytest.approx(1.4 / 1836, rel=0.4)


def test_a_slow_consumer(client: openai.OpenAI, replay: Replay, spans: Spans, clock: Clock) -> None:
    replay.serve(answer(words=12))
    with client.chat.completions.create(
        model="gpt-4o-mini", messages=[{"role": "user", "content": "hello"}], stream=True
    ) as stream:
        for _ in stream:
            clock.advance(0.02)
    assert "slow_consumer" in attributes(spans.parents()[0])["llmtrace.diagnosis"]


def test_a_stream_that_repeats_itself(client: openai.OpenAI, replay: Replay, spans: Spans) -> None:
    loop = [play.chunk({"content": word}) for _ in range(20) for word in ("round ", "and ", "round ", "we go. ")]
    events = play.sse(*loop, play.chunk({}, finish="length"), play.chunk(None, usage=play.USAGE))
    replay.serve(play.Script(headers=play.SSE_HEADERS, parts=[(0.0005, event) for event in events]))
    ask(client)
    (span,) = spans.parents()
    assert "repetition_loop" in attributes(span)["llmtrace.diagnosis"]
    assert "round and" not in span.to_json()


def test_diagnosis_can_be_switched_off(tracing: Any, client: openai.OpenAI, replay: Replay, spans: Spans) -> None:
    tracing.off()
    tracing.on(diagnosis=False)
    replay.serve(answer(model="gpt-3.5-turbo-0125"))
    ask(client)
    assert "llmtrace.diagnosis" not in attributes(spans.parents()[0])


@pytest.mark.skipif(not Path("/proc/thread-self/schedstat").is_file(), reason="this kernel does not count it")
def test_the_diagnosis_can_ask_how_long_the_calls_thread_had_no_core(
    client: openai.OpenAI, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, told = Diagnoser.judge, list[float | None]()

    def asking(diagnoser: Diagnoser, key: Any, symptoms: Any, no_core: Callable[[], float | None] | None = None) -> Any:
        told.append(None if no_core is None else no_core())
        return judge(diagnoser, key, symptoms, no_core)

    monkeypatch.setattr(Diagnoser, "judge", asking)
    replay.serve(answer())
    began = time.perf_counter()
    ask(client)
    (waited,) = told
    assert waited is not None
    assert 0.0 <= waited <= time.perf_counter() - began


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_closed_stream_knows_when_its_socket_closed(
    way: str, make_api: Callable[..., Sync], replay: Replay, spans: Spans
) -> None:
    replay.play(play.hang_mid_stream(itl=0.002))
    api = make_api(way)
    stream = api.stream(max_tokens=50)
    api.take(stream, 4)
    began = time.perf_counter()
    api.close(stream)
    took = time.perf_counter() - began
    said = attributes(spans.parents()[0])
    assert said["llmtrace.cancellation.cause"] == "closed"
    assert 0 <= said["llmtrace.cancellation.time_to_close"] <= took
    assert said["llmtrace.cancellation.delivered_tokens"] <= said["llmtrace.cancellation.billed_tokens.lower"] <= 50
    assert said["llmtrace.cancellation.billed_tokens.upper"] == 50
    assert "llmtrace.cancellation.billed_tokens" not in said


async def test_a_cancelled_task(aclient: openai.AsyncOpenAI, replay: Replay, spans: Spans) -> None:
    replay.play(play.hang_mid_stream(itl=0.002))
    begun = asyncio.Event()

    async def read() -> None:
        stream = await aclient.chat.completions.create(
            model="gpt-4o-mini", messages=[{"role": "user", "content": "hello"}], stream=True
        )
        async for _ in stream:
            begun.set()

    task = asyncio.create_task(read())
    await asyncio.wait_for(begun.wait(), PATIENCE)
    began = time.perf_counter()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    took = time.perf_counter() - began
    said = attributes(spans.one("cancelled"))
    assert said["llmtrace.cancellation.cause"] == "task_cancelled"
    assert 0 <= said["llmtrace.cancellation.time_to_close"] <= took
    assert "llmtrace.cancellation.billed_tokens.upper" not in said
