"""Metrics of calls: names, units, buckets and attributes of the GenAI conventions, and our phase histogram."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import openai
import pytest
from opentelemetry.metrics import Meter, MeterProvider

from tests.support import replay as play
from tests.support.apis import Sync
from tests.support.replay import Replay, openai_stream
from tests.support.spans import SECRETS, Metrics, Spans, attributes, seconds, spent

pytestmark = pytest.mark.usefixtures("traced")

SECONDS = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
TOKENS = [1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864]


INFERENCE = "gen_ai.client.inference"
OLD = {
    "gen_ai.client.operation.duration",
    "gen_ai.client.operation.time_to_first_chunk",
    "gen_ai.client.operation.time_per_output_chunk",
    "gen_ai.client.token.usage",
}


def test_a_stream(api: Sync, replay: Replay, spans: Spans, metrics: Metrics) -> None:
    replay.play(openai_stream(usage=play.USAGE, ttft=0.02, itl=0.004))
    chunks = api.drain(api.stream())
    span = spans.one("completed")
    found = metrics.collect()
    units = {name: (metric.unit, type(metric.data).__name__) for name, metric in found.items()}
    for name in ("duration", "time_to_first_chunk", "time_per_output_chunk"):
        assert units[f"{INFERENCE}.{name}"] == ("s", "Histogram")
    for name in ("input_tokens", "output_tokens"):
        assert units[f"{INFERENCE}.operation.{name}"] == ("{token}", "Histogram")
    for name in ("input_tokens", "output_tokens", "cache_read.input_tokens", "reasoning.output_tokens"):
        assert units[f"{INFERENCE}.usage.{name}"] == ("{token}", "Sum")
    assert units["llmtrace.phase.duration"] == ("s", "Histogram")
    assert not found.keys() & OLD
    points = {name: list(metric.data.data_points) for name, metric in found.items()}
    (duration,) = points[f"{INFERENCE}.duration"]
    assert duration.count == 1
    assert duration.sum == pytest.approx(seconds(span), abs=1e-6)
    assert list(duration.explicit_bounds) == SECONDS
    base = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": play.MODEL,
        "gen_ai.response.model": play.MODEL,
        "server.address": "127.0.0.1",
        "server.port": replay.port,
    }
    refined = {"openai.response.service_tier": "default", "openai.response.system_fingerprint": "fp_replay"}
    assert dict(duration.attributes) == base | refined
    (first,) = points[f"{INFERENCE}.time_to_first_chunk"]
    assert first.sum == pytest.approx(attributes(span)["gen_ai.response.time_to_first_chunk"], abs=1e-6)
    assert dict(first.attributes) == base
    (per_chunk,) = points[f"{INFERENCE}.time_per_output_chunk"]
    assert list(per_chunk.explicit_bounds) == SECONDS
    assert 1 <= per_chunk.count <= len(chunks) - 1
    assert per_chunk.sum < seconds(span)
    told = {"input": 40, "output": 6, "cache_read.input": 16, "reasoning.output": 0}
    assert {kind: spent(metrics, kind) for kind in told} == told
    for kind in told:
        (counter,) = points[f"{INFERENCE}.usage.{kind}_tokens"]
        assert dict(counter.attributes) == base | refined | {"gen_ai.token.modality": "unknown"}
    for kind in ("input", "output"):
        (tokens,) = points[f"{INFERENCE}.operation.{kind}_tokens"]
        assert (tokens.count, tokens.sum, list(tokens.explicit_bounds)) == (1, told[kind], TOKENS)
        assert dict(tokens.attributes) == base | refined
    phases = {dict(p.attributes)["llmtrace.phase"]: p for p in points["llmtrace.phase.duration"]}
    assert set(phases) == set(spans.phases(span))
    for name, phase in spans.phases(span).items():
        assert phases[name].sum == pytest.approx(seconds(phase), abs=1e-6)
        assert dict(phases[name].attributes)["llmtrace.phase.source"] == attributes(phase)["llmtrace.phase.source"]
    assert not any(secret in str(points) for secret in SECRETS)


def test_exemplars_lead_to_the_call(api: Sync, replay: Replay, spans: Spans, metrics: Metrics) -> None:
    replay.serve(lambda request: openai_stream(usage=play.USAGE, ttft=0.03))
    for _ in range(3):
        api.drain(api.stream())
    called = {(span.context.trace_id, span.context.span_id) for span in spans.parents()}
    assert len(called) == 3
    found = metrics.collect()  # once: what was told is not told again
    for name in ("duration", "time_to_first_chunk", "usage.input_tokens", "operation.output_tokens"):
        (point,) = found[f"{INFERENCE}.{name}"].data.data_points
        assert point.exemplars
        assert {(exemplar.trace_id, exemplar.span_id) for exemplar in point.exemplars} <= called


def test_a_whole_answer(api: Sync, replay: Replay, metrics: Metrics) -> None:
    replay.play(play.openai_body())
    api.create()
    found = metrics.collect()
    assert f"{INFERENCE}.duration" in found
    for streamed in ("time_to_first_chunk", "time_per_output_chunk"):
        metric = found.get(f"{INFERENCE}.{streamed}")
        assert metric is None or not list(metric.data.data_points)


def test_an_error(api: Sync, replay: Replay, metrics: Metrics) -> None:
    replay.play(play.server_error())
    with pytest.raises(openai.InternalServerError):
        api.create()
    for name in ("duration", "operation.input_tokens", "operation.output_tokens"):
        (point,) = metrics.points(f"{INFERENCE}.{name}")
        assert point.attributes["error.type"] == "500"
    (counter,) = metrics.points(f"{INFERENCE}.usage.input_tokens")
    assert (counter.value, counter.attributes["gen_ai.token.modality"]) == (0, "unknown")
    assert "error.type" not in counter.attributes


def test_a_stream_without_usage(api: Sync, replay: Replay, metrics: Metrics) -> None:
    """Its tokens were spent, but nobody says how many: no distribution may take it for a call of none."""
    replay.play(openai_stream())
    api.drain(api.stream())
    assert spent(metrics, "input") == spent(metrics, "output") == 0
    assert metrics.points(f"{INFERENCE}.operation.input_tokens") == []
    assert metrics.points(f"{INFERENCE}.operation.output_tokens") == []


def test_modalities(api: Sync, replay: Replay, spans: Spans, metrics: Metrics) -> None:
    """What the provider tells of audio and text, on the counters and the span."""
    told = play.USAGE | {
        "prompt_tokens_details": {"cached_tokens": 16, "audio_tokens": 30, "text_tokens": 10},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 4},
    }
    replay.play(play.openai_body(usage=told))
    api.create()
    by = {
        kind: {
            dict(point.attributes)["gen_ai.token.modality"]: point.value
            for point in metrics.points(f"{INFERENCE}.usage.{kind}_tokens")
        }
        for kind in ("input", "output")
    }
    assert by == {"input": {"audio": 30, "text": 10}, "output": {"audio": 4, "unknown": 2}}
    attrs = attributes(spans.one("completed"))
    found = {name: value for name, value in attrs.items() if ".audio." in name or ".text." in name}
    assert found == {
        "gen_ai.usage.audio.input_tokens": 30,
        "gen_ai.usage.text.input_tokens": 10,
        "gen_ai.usage.audio.output_tokens": 4,
    }


def embeddings() -> play.Script:
    vector = {"object": "embedding", "index": 0, "embedding": [0.0, 1.0]}
    usage = {"prompt_tokens": 7, "total_tokens": 7}
    return play.json_answer({"object": "list", "data": [vector], "model": "e-1", "usage": usage})


def test_embeddings(api: Sync, replay: Replay, spans: Spans, metrics: Metrics) -> None:
    replay.play(embeddings())
    api.run(api.client.embeddings.create(model="e", input="one"))
    found = {name for name, metric in metrics.collect().items() if list(metric.data.data_points)}
    assert {name for name in found if name.startswith("gen_ai.")} == {
        "gen_ai.client.embeddings.duration",
        "gen_ai.client.embeddings.operation.input_tokens",
    }
    (duration,) = metrics.points("gen_ai.client.embeddings.duration")
    assert duration.sum == pytest.approx(seconds(spans.one("completed")), abs=1e-6)
    (tokens,) = metrics.points("gen_ai.client.embeddings.operation.input_tokens")
    assert (tokens.sum, list(tokens.explicit_bounds)) == (7, TOKENS)
    assert dict(tokens.attributes) == {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "e",
        "gen_ai.response.model": "e-1",
        "server.address": "127.0.0.1",
        "server.port": replay.port,
    }


@pytest.mark.parametrize("way", ["argument", "environment"])
def test_the_names_of_before(
    way: str, tracing: Any, api: Sync, replay: Replay, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``v1.41``: exactly what was emitted until v0.1.0, under the same names, for embeddings too."""
    tracing.off()
    if way == "argument":
        tracing.on(semconv="v1.41")
    else:
        monkeypatch.setenv("LLMTRACE_SEMCONV", "v1.41")
        tracing.on()
    replay.play(openai_stream(usage=play.USAGE, itl=0.004), embeddings(), play.server_error())
    api.drain(api.stream())
    api.run(api.client.embeddings.create(model="e", input="one"))
    with pytest.raises(openai.InternalServerError):
        api.create()
    found = {name: metric for name, metric in metrics.collect().items() if list(metric.data.data_points)}
    assert {name for name in found if name.startswith("gen_ai.")} == OLD
    assert {type(found[name].data).__name__ for name in OLD} == {"Histogram"}
    assert sum(point.count for point in metrics.points("gen_ai.client.operation.duration")) == 3
    told = {
        (dict(p.attributes)["gen_ai.operation.name"], dict(p.attributes)["gen_ai.token.type"]): p.sum
        for p in metrics.points("gen_ai.client.token.usage")
    }
    assert told == {("chat", "input"): 40, ("chat", "output"): 6, ("embeddings", "input"): 7}
    assert "llmtrace.phase.duration" in found


def test_counts_add_up_over_collections(api: Sync, replay: Replay, metrics: Metrics) -> None:
    """However values are handed over, none is lost and none counted twice, across collections and many calls."""
    replay.serve(lambda request: openai_stream(usage=play.USAGE))
    for calls in (1, 3, 10):
        while len(replay.requests) < calls:
            api.drain(api.stream())
        (duration,) = metrics.points(f"{INFERENCE}.duration")
        assert duration.count == calls
        assert sum(duration.bucket_counts) == calls
        assert duration.min <= duration.sum / calls <= duration.max
        assert (spent(metrics, "input"), spent(metrics, "output")) == (40 * calls, 6 * calls)


def test_metrics_can_be_left_out(tracing: Any, api: Sync, replay: Replay, spans: Spans, metrics: Metrics) -> None:
    tracing.off()
    tracing.on(metrics=False)
    replay.play(openai_stream())
    api.drain(api.stream())
    spans.one("completed")
    assert f"{INFERENCE}.duration" not in metrics.collect()


def test_a_provider_that_hands_over_to_another(tracing: Any, api: Sync, replay: Replay, metrics: Metrics) -> None:
    """Logfire's is a dataclass, so without a hash, and is called ProxyMeterProvider: it was taken for no provider."""

    @dataclass
    class ProxyMeterProvider(MeterProvider):
        inner: MeterProvider

        def get_meter(self, *args: Any, **kwargs: Any) -> Meter:
            return self.inner.get_meter(*args, **kwargs)

    tracing.off()
    tracing.on(meter_provider=ProxyMeterProvider(metrics.provider))
    replay.play(openai_stream(usage=play.USAGE))
    api.drain(api.stream())
    (duration,) = metrics.points(f"{INFERENCE}.duration")
    assert duration.count == 1
