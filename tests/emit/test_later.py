"""Values that wait to be recorded: none is lost, and a collection finds all of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from llmtrace.emit import later
from llmtrace.emit.metrics import Measurements, meters_on


@pytest.fixture(autouse=True)
def _settled() -> Iterator[None]:
    later.settle()
    yield
    later.settle()


def _count(reader: InMemoryMetricReader) -> int:
    data = reader.get_metrics_data()
    metrics = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics] if data else []
    return sum(p.count for m in metrics if m.name == "gen_ai.client.operation.duration" for p in m.data.data_points)


def _call() -> Measurements:
    return Measurements(operation="text_completion", provider="p", request_model="m", duration=1.0)


def test_a_collection_has_every_call_that_ended_before_it() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    meters = meters_on(provider, "0", "v1.41")

    def end_calls() -> None:
        for _ in range(200):
            later.soon(lambda: meters.record(_call()))

    for turn in range(1, 4):
        threads = [threading.Thread(target=end_calls) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert _count(reader) == 800 * turn
    provider.shutdown()


def test_too_many_are_recorded_where_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(later, "_MOST", 0)
    recorded: list[str] = []
    later.soon(lambda: recorded.append(threading.current_thread().name))
    assert recorded == [threading.current_thread().name]
