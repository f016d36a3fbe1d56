"""Values handed over in bulk must read, in every reader, as if each had been recorded by itself."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View

from llmtrace.emit import names
from llmtrace.emit.metrics import Meters, _known_points
from llmtrace.observe import internal_errors

KEY = ("chat", "openai", "m", "m-1", "host", 443)


def points(reader: InMemoryMetricReader, name: str) -> list[Any]:
    data = reader.get_metrics_data()
    if data is None:
        return []
    return [
        point
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == name
        for point in metric.data.data_points
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 200, allow_nan=False), min_size=1, max_size=50))
def test_bulk_equals_one_by_one(values: list[float]) -> None:
    bulk, single = InMemoryMetricReader(), InMemoryMetricReader()
    meters = Meters(MeterProvider([bulk]), "0")
    meters.series(KEY, None).per_chunk.extend(values, None)
    plain = (
        MeterProvider([single])
        .get_meter("x")
        .create_histogram(names.M_TIME_PER_CHUNK, explicit_bucket_boundaries_advisory=names.SECONDS_BUCKETS)
    )
    for value in values:
        plain.record(value)
    ours, theirs = points(bulk, names.M_TIME_PER_CHUNK)[0], points(single, names.M_TIME_PER_CHUNK)[0]
    assert ours.count == theirs.count
    assert ours.bucket_counts == theirs.bucket_counts
    assert (ours.min, ours.max) == (theirs.min, theirs.max)
    assert ours.sum == pytest.approx(theirs.sum)
    assert ours.explicit_bounds == names.SECONDS_BUCKETS


def test_the_bulk_path_is_the_one_in_use_with_this_sdk() -> None:
    meters = Meters(MeterProvider([InMemoryMetricReader()]), "0")
    series = meters.series(KEY, None).duration
    series.add(1.0, None)
    series.flush()
    assert _known_points(series.instrument, series.attributes) is not None


def test_several_readers_delta_and_cumulative_lose_nothing() -> None:
    delta = InMemoryMetricReader(preferred_temporality={Histogram: AggregationTemporality.DELTA})
    cumulative = InMemoryMetricReader()
    meters = Meters(MeterProvider([delta, cumulative]), "0")
    seen = 0
    for round_ in range(3):
        for value in range(10 + round_):
            meters.series(KEY, None).duration.add(float(value), None)
        seen += sum(point.count for point in points(delta, names.M_DURATION))
    assert seen == 33
    assert points(cumulative, names.M_DURATION)[0].count == 33


@pytest.mark.parametrize("keep", [{names.OPERATION}, set()])
def test_a_view_that_drops_attributes(keep: set[str]) -> None:
    reader = InMemoryMetricReader()
    view = View(instrument_name=names.M_DURATION, attribute_keys=keep)
    meters = Meters(MeterProvider([reader], views=[view]), "0")
    for error in (None, "500"):
        for value in range(5):
            meters.series(KEY, error).duration.add(float(value), None)
    found = points(reader, names.M_DURATION)
    assert [point.count for point in found] == [10]
    assert set(found[0].attributes) == keep


def test_a_view_with_another_aggregation_goes_one_by_one() -> None:
    reader = InMemoryMetricReader()
    view = View(instrument_name=names.M_DURATION, aggregation=ExponentialBucketHistogramAggregation())
    meters = Meters(MeterProvider([reader], views=[view]), "0")
    for value in range(20):
        meters.series(KEY, None).duration.add(float(value), None)
    assert [point.count for point in points(reader, names.M_DURATION)] == [20]


def test_a_full_series_is_handed_over_without_a_collection() -> None:
    meters = Meters(MeterProvider([InMemoryMetricReader()]), "0")
    series = meters.series(KEY, None)
    series.per_chunk.extend([0.1] * 5000, None)
    meters.settle(series)
    assert not series.per_chunk.values


def test_our_own_failures_are_a_metric() -> None:
    reader = InMemoryMetricReader()
    Meters(MeterProvider([reader]), "0")
    internal_errors.note("a test", ValueError("x"))
    try:
        assert {"llmtrace.where": "a test"} in [dict(point.attributes) for point in points(reader, names.M_ERRORS)]
    finally:
        del internal_errors.counts["a test"]
