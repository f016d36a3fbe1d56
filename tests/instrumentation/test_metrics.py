"""Metrics of calls: names, units, buckets and attributes of the GenAI conventions, and our phase histogram."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.support import replay as play
from tests.support.apis import Sync
from tests.support.replay import Replay, openai_stream
from tests.support.spans import SECRETS, Metrics, Spans, attributes, seconds

pytestmark = pytest.mark.usefixtures("traced")

SECONDS = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
TOKENS = [1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864]


def test_a_stream(api: Sync, replay: Replay, spans: Spans, metrics: Metrics) -> None:
    replay.play(openai_stream(usage=play.USAGE, ttft=0.02, itl=0.004))
    chunks = api.drain(api.stream())
    span = spans.one("completed")
    found = metrics.collect()
    units = {name: (metric.unit, type(metric.data).__name__) for name, metric in found.items()}
    assert units["gen_ai.client.operation.duration"] == ("s", "Histogram")
    assert units["gen_ai.client.operation.time_to_first_chunk"] == ("s", "Histogram")
    assert units["gen_ai.client.operation.time_per_output_chunk"] == ("s", "Histogram")
    assert units["gen_ai.client.token.usage"] == ("{token}", "Histogram")
    assert units["llmtrace.phase.duration"] == ("s", "Histogram")
    points = {name: list(metric.data.data_points) for name, metric in found.items()}
    (duration,) = points["gen_ai.client.operation.duration"]
    assert duration.count == 1
    assert duration.sum == pytest.approx(seconds(span), abs=1e-6)
    assert list(duration.explicit_bounds) == SECONDS
    assert dict(duration.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": play.MODEL,
        "gen_ai.response.model": play.MODEL,
        "server.address": "127.0.0.1",
        "server.port": replay.port,
    }
    (first,) = points["gen_ai.client.operation.time_to_first_chunk"]
    assert first.sum == pytest.approx(attributes(span)["gen_ai.response.time_to_first_chunk"], abs=1e-6)
    (per_chunk,) = points["gen_ai.client.operation.time_per_output_chunk"]
    assert list(per_chunk.explicit_bounds) == SECONDS
    assert 1 <= per_chunk.count <= len(chunks) - 1
    assert per_chunk.sum < seconds(span)
    tokens = {dict(p.attributes)["gen_ai.token.type"]: p for p in points["gen_ai.client.token.usage"]}
    assert {name: point.sum for name, point in tokens.items()} == {"input": 40, "output": 6}
    assert list(tokens["input"].explicit_bounds) == TOKENS
    phases = {dict(p.attributes)["llmtrace.phase"]: p for p in points["llmtrace.phase.duration"]}
    assert set(phases) == set(spans.phases(span))
    for name, phase in spans.phases(span).items():
        assert phases[name].sum == pytest.approx(seconds(phase), abs=1e-6)
        assert dict(phases[name].attributes)["llmtrace.phase.source"] == attributes(phase)["llmtrace.phase.source"]
    assert not any(secret in str(points) for secret in SECRETS)


def test_a_whole_answer(api: Sync, replay: Replay, metrics: Metrics) -> None:
    replay.play(play.openai_body())
    api.create()
    found = metrics.collect()
    assert "gen_ai.client.operation.duration" in found
    for streamed in ("time_to_first_chunk", "time_per_output_chunk"):
        metric = found.get(f"gen_ai.client.operation.{streamed}")
        assert metric is None or not list(metric.data.data_points)


def test_an_error(api: Sync, replay: Replay, metrics: Metrics) -> None:
    replay.play(play.server_error())
    with pytest.raises(openai.InternalServerError):
        api.create()
    (duration,) = metrics.points("gen_ai.client.operation.duration")
    assert "error.type" in duration.attributes
    assert "gen_ai.client.token.usage" not in metrics.collect()


def test_counts_add_up_over_collections(api: Sync, replay: Replay, metrics: Metrics) -> None:
    """However values are handed over, none is lost and none counted twice, across collections and many calls."""
    replay.serve(lambda request: openai_stream(usage=play.USAGE))
    for calls in (1, 3, 10):
        while len(replay.requests) < calls:
            api.drain(api.stream())
        (duration,) = metrics.points("gen_ai.client.operation.duration")
        assert duration.count == calls
        assert sum(duration.bucket_counts) == calls
        assert duration.min <= duration.sum / calls <= duration.max
        sums = {dict(p.attributes)["gen_ai.token.type"]: p.sum for p in metrics.points("gen_ai.client.token.usage")}
        assert sums == {"input": 40 * calls, "output": 6 * calls}


def test_metrics_can_be_left_out(tracing: Any, api: Sync, replay: Replay, spans: Spans, metrics: Metrics) -> None:
    tracing.off()
    tracing.on(metrics=False)
    replay.play(openai_stream())
    api.drain(api.stream())
    spans.one("completed")
    assert "gen_ai.client.operation.duration" not in metrics.collect()
