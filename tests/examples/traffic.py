"""Real calls of every kind that the dashboards speak of, and the metrics that Prometheus gets of them.

The SDK's own come through OpenTelemetry's Prometheus exporter. Those that the Collector makes of spans are made here of
the same calls' spans, by the example's configuration of its ``spanmetrics``.
"""

from __future__ import annotations

import importlib
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import openai
import pytest
import yaml
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from llmtrace.calls import finalizers, tracer
from llmtrace.emit import names
from llmtrace.observe import internal_errors, transport
from llmtrace.probe.clients import open_client
from llmtrace.probe.maths.drift import Change
from llmtrace.probe.prompts import Prompts
from llmtrace.probe.session import Purse, Session
from llmtrace.probe.watching import DECODE, FIXED, PREFILL, WIRE, Measured, Meters, Watched
from tests.conftest import Tracing
from tests.support import replay as play
from tests.support.apis import Sync
from tests.support.clock import Clock
from tests.support.paced import pace
from tests.support.replay import Replay
from tests.support.spans import Spans, attributes, seconds

GRAFANA = Path(__file__).parents[2] / "examples" / "grafana"
LEARNED = 8
"""Calls after which this route's phases are estimated."""


def generator() -> Any:
    """``generate.py``, with the modules beside it."""
    sys.path.insert(0, str(GRAFANA))
    try:
        return importlib.import_module("generate")
    finally:
        sys.path.remove(str(GRAFANA))


class SpanMetrics(Collector):
    """What the Collector's span metrics make of spans, as their documentation describes it."""

    def __init__(self) -> None:
        self._settings = yaml.safe_load((GRAFANA / "collector.yaml").read_text())["connectors"]["spanmetrics"]
        self._dimensions = [dimension["name"] for dimension in self._settings["dimensions"]]
        self._durations: defaultdict[tuple[str, ...], list[float]] = defaultdict(list)

    def take(self, spans: Spans) -> None:
        """Count the spans that have come, and forget them."""
        for span in spans.finished():
            told = attributes(span)
            labels = (
                str(span.resource.attributes["service.name"]),
                span.name,
                f"SPAN_KIND_{span.kind.name}",
                f"STATUS_CODE_{span.status.status_code.name}",
                *(str(told.get(dimension, "")) for dimension in self._dimensions),
            )
            self._durations[labels].append(seconds(span))
        spans.clear()

    def collect(self) -> Iterator[Metric]:
        prefix = self._settings["namespace"].replace(".", "_")
        unit = {"s": "seconds", "ms": "milliseconds"}[self._settings["histogram"]["unit"]]
        labels = ["service_name", "span_name", "span_kind", "status_code"]
        labels += [dimension.replace(".", "_") for dimension in self._dimensions]
        calls = CounterMetricFamily(f"{prefix}_calls", "spans", labels=labels)
        durations = HistogramMetricFamily(f"{prefix}_duration_{unit}", "spans", labels=labels)
        for values, lengths in list(self._durations.items()):
            calls.add_metric(values, len(lengths))
            bounds = [*names.SECONDS_BUCKETS, float("inf")]
            buckets = [
                ("+Inf" if bound == float("inf") else str(bound), float(sum(length <= bound for length in lengths)))
                for bound in bounds
            ]
            durations.add_metric(values, buckets, sum(lengths))
        yield calls
        yield durations


class Traffic:
    """Plays calls; what became of them is in ``registry``."""

    def __init__(
        self,
        replay: Replay,
        spans: Spans,
        tracing: Tracing,
        make_api: Callable[..., Sync],
        clock: Clock,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self._replay, self._spans, self._tracing, self._make_api, self._clock = replay, spans, tracing, make_api, clock
        self._services: list[Any] = []
        self.registry = CollectorRegistry()
        self.span_metrics = SpanMetrics()
        self.registry.register(self.span_metrics)
        self._provider = MeterProvider(metric_readers=[PrometheusMetricReader(registry=self.registry)])
        monkeypatch.setattr(internal_errors, "counts", Counter({"a place": 1}))
        monkeypatch.setattr(transport, "_TCP_INFO", None)
        services = tracer.Services

        def kept(*args: Any, **kwargs: Any) -> Any:
            self._services.append(services(*args, **kwargs))
            return self._services[-1]

        monkeypatch.setattr(tracer, "Services", kept)

    def play(self, semconv: str = names.V0_1_0) -> None:
        """One call of each kind, and as many as it takes for estimates."""
        self._tracing.on(
            meter_provider=self._provider, semconv=semconv, min_calls=LEARNED, min_spread=2.0, slo_ttft=1e-3
        )
        api = self._make_api("sync", max_retries=2)
        pace(api, self._clock, [0.03, *[0.004] * 12])
        self._of_every_kind(api)
        for number in range(2 * LEARNED):
            self._paced(api, 40 * (1 + number * 7 % 11), told=number % 8 != 7)
        finalizers.settle()
        self.span_metrics.take(self._spans)
        self._tracing.off()
        self._watch()

    def _watch(self) -> None:
        """A round of ``llmtrace probe --watch``, after which something has changed."""
        client = open_client("openai", self._replay.base_url, "m")
        watched = Watched(Session(client, Prompts(), Purse(), 400), cast(Any, None))
        meters = Meters(self._provider)
        meters.begin(watched)
        parts = {WIRE: 0.01, FIXED: 0.1, PREFILL: 1e-4, DECODE: 0.01}
        meters.record(watched, Measured(parts, "text", None, "here"), {WIRE: Change(0.01, 0.02, 4)})
        client.close()

    def _of_every_kind(self, api: Sync) -> None:
        replay = self._replay
        replay.play(play.openai_stream(usage=play.USAGE, last={"metrics": play.VLLM_METRICS}))
        api.drain(api.stream())
        replay.play(play.too_many(1), play.too_many(1), play.openai_stream(usage=play.USAGE))
        api.drain(api.stream())
        replay.play(play.openai_stream())
        stream = api.stream()
        api.take(stream, 2)
        api.close(stream)
        replay.play(play.server_error(400))
        with pytest.raises(openai.BadRequestError):
            api.create()
        through_a_gateway = play.json_answer(play.completion(id="gen-1790000000-a", provider="Azure"))
        replay.play(play.too_many(1), play.too_many(1), through_a_gateway)
        api.create()

    def _paced(self, api: Sync, tokens: int, told: bool) -> None:
        """A stream of so many prompt tokens, whose prefill takes 0.1 ms each; with what the engine told, or not."""
        timings = {"queue_time_ms": 1.0, "time_to_first_token_ms": 13 + 0.1 * tokens, "generation_time_ms": 20.0}
        usage = {"prompt_tokens": tokens, "completion_tokens": 6, "total_tokens": tokens + 6}
        pace(api, self._clock, [0.01 + 1e-4 * tokens, *[0.004] * 9])
        words = [f"word{number} " for number in range(6)]
        self._replay.play(play.openai_stream(words, usage, last={"metrics": timings} if told else None))
        api.drain(api.stream())
        for each in self._services:
            each.baselines.settle()

    def shut(self) -> None:
        self._provider.shutdown()
