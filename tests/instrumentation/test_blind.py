"""``server_timings=False`` is blind: whatever an engine reports of its own work, spans and metrics stay as they are.

Each engine's way of reporting is played twice over real sockets, with other numbers, on the test's own clock. What is
exported has to be equal to the last nanosecond. With its timings read, the two differ: so it is known that the numbers
are where they are looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import ollama
import pytest

import llmtrace
from llmtrace.calls import finalizers, tracer
from llmtrace.observe import transport
from tests.support import ndjson
from tests.support import replay as play
from tests.support.apis import sync_client
from tests.support.clock import Clock
from tests.support.paced import pace
from tests.support.replay import Replay
from tests.support.spans import Metrics, Spans, attributes

MS = 1e-3
CALLS = 16
WORDS = [f"word{number} " for number in range(6)]


@dataclass
class Told:
    """What one engine reports, by a factor that its numbers are multiplied with."""

    last: Callable[[float], Mapping[str, Any]] = lambda factor: {}
    """Fields of a stream's last chunk and of a whole body."""
    headers: Callable[[float], Mapping[str, str]] = lambda factor: {}
    usage: Callable[[float], Mapping[str, Any]] = lambda factor: {}
    """Fields of the usage."""
    who: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Fields of the last chunk that say who answered, which is looked at however the setting stands."""


def vllm(factor: float) -> dict[str, float]:
    return {"queue_time_ms": 4 * factor, "time_to_first_token_ms": 6 * factor, "generation_time_ms": 3 * factor}


GROQ = {"queue_time": 4 * MS, "prompt_time": 6 * MS, "completion_time": 3 * MS, "total_time": 9 * MS}


def times(numbers: Mapping[str, float], factor: float) -> dict[str, float]:
    return {name: number * factor for name, number in numbers.items()}


ENGINES = {
    "vllm": Told(last=lambda factor: {"metrics": vllm(factor)}),
    "reference": Told(
        last=lambda factor: {
            "metrics": vllm(factor)
            | {"engine": "llmtrace-reference", "timed_by": "host", "kv_cache_hit_time_ms": factor, "preemptions": 1}
        }
    ),
    "reference on a gpu": Told(
        last=lambda factor: {"metrics": vllm(factor) | {"engine": "llmtrace-reference", "timed_by": "cuda"}}
    ),
    "llama.cpp": Told(
        last=lambda factor: {
            "timings": {
                "cache_n": int(8 * factor),
                "prompt_n": 4,
                "prompt_ms": 6 * factor,
                "predicted_ms": 3 * factor,
                "predicted_n": 6,
            }
        }
    ),
    "groq": Told(last=lambda factor: {"x_groq": {"usage": times(GROQ, factor)}}),
    "groq in usage": Told(usage=lambda factor: times(GROQ, factor)),
    "cerebras": Told(last=lambda factor: {"time_info": times(GROQ, factor)}),
    "fireworks": Told(
        last=lambda factor: {
            "perf_metrics": {
                "prefill-queue-duration": str(4 * MS * factor),
                "prefill-duration": str(6 * MS * factor),
                "generation-duration": str(3 * MS * factor),
                "cached-prompt-tokens": str(int(8 * factor)),
            }
        }
    ),
    "fireworks in headers": Told(
        headers=lambda factor: {
            "fireworks-server-time-to-first-token": str(10 * MS * factor),
            "fireworks-cached-prompt-tokens": str(int(8 * factor)),
        }
    ),
    "sglang": Told(
        last=lambda factor: {
            "meta_info": {"queue_time": 4 * MS * factor, "e2e_latency": 13 * MS * factor, "first_token_latency": MS}
        }
    ),
    "sambanova": Told(
        usage=lambda factor: {"time_to_first_token": 10 * MS * factor, "total_latency": 14 * MS * factor}
    ),
    "dynamo": Told(
        last=lambda factor: {
            "nvext": {
                "timing": {"prefill_wait_time_ms": 4 * factor, "prefill_time_ms": 6 * factor, "total_time_ms": 15}
            }
        }
    ),
    "tensorrt-llm": Told(
        headers=lambda factor: {
            "server-timing": f"server_queue;dur={4 * factor}, server_ttft;dur={10 * factor}, server_e2e;dur=15"
        }
    ),
    "tgi": Told(
        headers=lambda factor: {
            "x-queue-time": str(int(4 * factor)),
            "x-inference-time": str(int(9 * factor)),
            "x-total-time": str(int(13 * factor)),
        }
    ),
    "openrouter": Told(
        last=lambda factor: {"openrouter_metadata": {"generation_time": int(9 * factor)}},
        who={"openrouter_metadata": {}},
    ),
    "openai-processing-ms": Told(headers=lambda factor: {"openai-processing-ms": str(int(11 * factor))}),
    "envoy": Told(headers=lambda factor: {"x-envoy-upstream-service-time": str(int(11 * factor))}),
    "google's front end": Told(headers=lambda factor: {"server-timing": f"gfet4t7; dur={int(11 * factor)}"}),
}


@dataclass
class Exported:
    """All that left llmtrace, in a form that can be compared: times from each call's start, no ids."""

    spans: list[Any] = field(default_factory=list)
    points: list[Any] = field(default_factory=list)
    sources: set[str] = field(default_factory=set)


def exported(spans: Spans, metrics: Metrics) -> Exported:
    found = Exported()
    finalizers.settle()
    finished = spans.exporter.get_finished_spans()
    calls = {span.context.span_id: span for span in finished if span.parent is None}
    for span in finished:
        told = attributes(span)
        call = span if span.parent is None else calls[span.parent.span_id]
        begin = call.start_time or 0  # each call lies in the epoch by a reading of the real clock
        if told.get("llmtrace.phase.source") in ("server", "device", "estimate"):
            found.sources.add(told["llmtrace.phase.source"])
        events = [(event.name, event.timestamp - begin, dict(event.attributes or {})) for event in span.events]
        times = ((span.start_time or 0) - begin, (span.end_time or 0) - begin)
        found.spans.append((span.name, *times, told, span.status.status_code, events))
    for name, metric in sorted(metrics.collect().items()):
        for point in metric.data.data_points:
            if hasattr(point, "bucket_counts"):
                # To the nanosecond: two threads may record, and a sum's last digit depends on their order.
                value = round(point.sum, 9), point.count, point.bucket_counts
            else:
                value = point.value
            found.points.append((name, sorted((point.attributes or {}).items()), value))
    found.points.sort(key=str)
    return found


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Clock:
    """The kernel tells nothing of the connection's real times: with the test's clock, all times are the test's."""
    monkeypatch.setattr(transport, "_TCP_INFO", None)
    return clock


def play_openai(replay: Replay, clock: Clock, told: Told, factor: float, settle: Callable[[], object]) -> None:
    """Streams of prompts of many lengths, then whole answers; each takes as long as its prompt asks for."""
    api = SimpleNamespace(name="sync", client=sync_client(replay.base_url))
    headers = told.headers(factor)
    for number in range(CALLS):
        tokens = 40 * (1 + number * 7 % 11)
        usage = {"prompt_tokens": tokens, "completion_tokens": 6, "total_tokens": tokens + 6} | told.usage(factor)
        script = play.openai_stream(WORDS, usage, last=told.last(factor), headers=headers)
        replay.play(script)
        pace(api, clock, [0.01 + 1e-4 * tokens, *[0.004] * 9])  # type: ignore[arg-type]
        for _ in api.client.chat.completions.create(
            model=play.MODEL, messages=[{"role": "user", "content": "x" * tokens}], stream=True
        ):
            pass
        settle()
    for _ in range(2):
        body = play.completion("Hello.", usage=play.USAGE | told.usage(factor)) | told.last(factor)
        replay.play(play.json_answer(body, headers=headers))
        pace(api, clock, [0.05])  # type: ignore[arg-type]
        api.client.chat.completions.create(model=play.MODEL, messages=[{"role": "user", "content": "x"}])
    api.client.close()


def run(
    monkeypatch: pytest.MonkeyPatch,
    clock: Clock,
    told: bool,
    played: Callable[[Callable[[], object]], None],
    client: str = "openai",
) -> Exported:
    """What is exported of the calls that ``played`` makes; it is given what waits for the routes' fits."""
    services: list[Any] = []
    original = tracer.Services

    def kept(*args: Any, **kwargs: Any) -> Any:
        services.append(original(*args, **kwargs))
        return services[-1]

    monkeypatch.setattr(tracer, "Services", kept)
    clock.at = 10**15
    spans, metrics = Spans(), Metrics()
    llmtrace.instrument(
        client,
        tracer_provider=spans.provider,
        meter_provider=metrics.provider,
        server_timings=told,
        min_calls=6,
        min_spread=2.0,
    )
    try:
        played(lambda: [each.baselines.settle() for each in services])  # each call finds its route fitted
    finally:
        llmtrace.uninstrument()
    return exported(spans, metrics)


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_that_an_engine_reports_of_itself_changes_anything(
    engine: str, replay: Replay, still: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = ENGINES[engine]

    def played(server_timings: bool, what: Told, factor: float) -> Exported:
        return run(monkeypatch, still, server_timings, partial(play_openai, replay, still, what, factor))

    blind = [played(False, told, factor) for factor in (1.0, 2.0)]
    assert blind[0].spans == blind[1].spans
    assert blind[0].points == blind[1].points
    assert blind[0].sources == {"estimate"}, "and it has estimated"
    seeing = [played(True, told, factor) for factor in (1.0, 2.0)]
    assert seeing[0].spans != seeing[1].spans, "the numbers are where they are looked for"
    silent = played(False, Told(last=lambda factor: told.who), 1.0)
    assert silent.spans == blind[0].spans, "nor whether it reports at all"
    assert silent.points == blind[0].points


def test_nothing_that_ollama_reports_of_its_durations_changes_anything(
    replay: Replay, still: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def played(factor: float, settle: Callable[[], object]) -> None:
        client = ollama.Client(host=replay.url)
        durations = {name: int(ns * factor) for name, ns in ndjson.DURATIONS.items()}
        for _ in range(3):
            replay.play(ndjson.stream(end=ndjson.COUNTS | durations))
            for _ in client.chat(model=ndjson.MODEL, messages=[{"role": "user", "content": "x"}], stream=True):
                pass
            still.advance(0.05)
        client._client.close()

    blind = [run(monkeypatch, still, False, partial(played, factor), "ollama") for factor in (1.0, 0.5)]
    seeing = [run(monkeypatch, still, True, partial(played, factor), "ollama") for factor in (1.0, 0.5)]
    assert values(blind[0]) == values(blind[1])
    assert values(seeing[0]) != values(seeing[1])


def values(one: Exported) -> list[Any]:
    """What is said, without the times of a stream whose lines come in whatever grain they are read."""
    return [
        (name, [(key, value) for key, value in told.items() if not isinstance(value, float) or ".server." in key])
        for name, _, _, told, *_ in one.spans
    ]
