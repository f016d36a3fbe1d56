"""What is recorded of a call reads, in every reader, as what a plain program would have recorded by itself."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.metrics import Meter, MeterProvider, NoOpMeterProvider
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, AlwaysOnExemplarFilter, TraceBasedExemplarFilter
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import (
    DropAggregation,
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    SumAggregation,
    View,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import set_span_in_context

from llmtrace.emit import names
from llmtrace.emit.instruments import by_modality
from llmtrace.emit.metrics import Measurements, Meters, is_idle, meters_on
from llmtrace.observe import internal_errors
from llmtrace.observe.answer import Usage
from tests.support.effort import examples

KIND: dict[str, Any] = {
    "operation": "chat",
    "provider": "openai",
    "request_model": "m",
    "response_model": "m-1",
    "address": "host",
    "port": 443,
}
BASE = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "m",
    "gen_ai.response.model": "m-1",
    "server.address": "host",
    "server.port": 443,
}


def call(**changes: Any) -> Measurements:
    return Measurements(**({"duration": 1.0} | KIND | changes))


def read(reader: InMemoryMetricReader) -> dict[str, Any]:
    """Metrics by name."""
    data = reader.get_metrics_data()
    if data is None:
        return {}
    return {
        metric.name: metric
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def points(reader: InMemoryMetricReader, name: str) -> list[Any]:
    metric = read(reader).get(name)
    return [] if metric is None else list(metric.data.data_points)


def labelled(reader: InMemoryMetricReader, name: str, label: str) -> dict[Any, Any]:
    """A counter's values by one of its labels."""
    return {dict(point.attributes)[label]: point.value for point in points(reader, name)}


class Plain:
    """The instruments of a program that knows OpenTelemetry's API and nothing else."""

    def __init__(self, provider: MeterProvider) -> None:
        meter = provider.get_meter("plain")

        def histogram(name: str, buckets: tuple[float, ...]) -> Any:
            return meter.create_histogram(name, explicit_bucket_boundaries_advisory=buckets)

        self.duration = histogram("gen_ai.client.inference.duration", names.SECONDS_BUCKETS)
        self.per_chunk = histogram("gen_ai.client.inference.time_per_output_chunk", names.SECONDS_BUCKETS)
        self.input = meter.create_counter("gen_ai.client.inference.usage.input_tokens")


def shape(point: Any) -> tuple[Any, ...]:
    """All of a point but its times. Of exemplars that a reservoir keeps by chance, whether there are any: in the oldest
    SDK chance decides how many, too."""
    told: Any = tuple(
        (each.value, each.span_id, each.trace_id, tuple(sorted((each.filtered_attributes or {}).items())))
        for each in sorted(point.exemplars, key=lambda each: each.value)
    )
    if not hasattr(point, "explicit_bounds"):
        told = bool(told)
    rest = [getattr(point, name, None) for name in ("count", "bucket_counts", "min", "max", "explicit_bounds")]
    return (
        tuple(sorted(dict(point.attributes).items())),
        pytest.approx(getattr(point, "sum", getattr(point, "value", 0))),
        *rest,
        told,
    )


SETUPS: dict[str, Callable[[], dict[str, Any]]] = {
    "plain": dict,
    "attributes dropped": lambda: {
        "views": [View(instrument_name="gen_ai.*", attribute_keys={"gen_ai.operation.name", "error.type"})]
    },
    "no attributes": lambda: {"views": [View(instrument_name="gen_ai.*", attribute_keys=set())]},
    "other buckets": lambda: {
        "views": [View(instrument_name="*.duration", aggregation=ExplicitBucketHistogramAggregation([0.5, 5]))]
    },
    "exponential": lambda: {
        "views": [View(instrument_name="*_chunk", aggregation=ExponentialBucketHistogramAggregation())]
    },
    "sums": lambda: {"views": [View(instrument_name="*.duration", aggregation=SumAggregation())]},
    "dropped": lambda: {"views": [View(instrument_name="*.duration", aggregation=DropAggregation())]},
    "no exemplars": lambda: {"exemplar_filter": AlwaysOffExemplarFilter()},
    "every exemplar": lambda: {"exemplar_filter": AlwaysOnExemplarFilter()},
    "of sampled traces": lambda: {"exemplar_filter": TraceBasedExemplarFilter()},
}


@pytest.mark.parametrize("setup", SETUPS)
@pytest.mark.parametrize("sampled", [True, False])
def test_the_same_as_by_hand(setup: str, sampled: bool) -> None:
    """Same points, values, buckets and exemplars, under every view and filter."""
    ours, theirs = InMemoryMetricReader(), InMemoryMetricReader()
    meters = Meters(sdk.MeterProvider([ours], **SETUPS[setup]()), "0")
    plain = Plain(sdk.MeterProvider([theirs], **SETUPS[setup]()))
    tracer = TracerProvider(**({} if sampled else {"sampler": ALWAYS_OFF})).get_tracer("t")
    for number, (failure, duration) in enumerate([(None, 0.3), ("500", 0.3), (None, 7.0), ("TimeoutError", 90.0)]):
        context = set_span_in_context(tracer.start_span("chat m"))
        gaps = [0.004 * 2**step * (1 + number / 10) for step in range(12)]
        usage = Usage(input_tokens=100 * number + 7, output_tokens=3)
        meters.record(call(failure=failure, duration=duration, gaps=gaps, usage=usage, context=context))
        ended = BASE if failure is None else {**BASE, "error.type": failure}
        plain.duration.record(duration, ended, context=context)
        for gap in gaps:
            plain.per_chunk.record(gap, BASE, context=context)
        plain.input.add(100 * number + 7, {**BASE, "gen_ai.token.modality": "unknown"}, context=context)
    told, expected = read(ours), read(theirs)
    for name in ("duration", "time_per_output_chunk"):
        metric = f"gen_ai.client.inference.{name}"
        assert (metric in told) == (metric in expected)
        if metric in told:
            found = sorted((shape(point) for point in told[metric].data.data_points), key=lambda each: each[0])
            wanted = sorted((shape(point) for point in expected[metric].data.data_points), key=lambda each: each[0])
            assert found == wanted
    spent = "gen_ai.client.inference.usage.input_tokens"
    (ours_spent,), (theirs_spent,) = told[spent].data.data_points, expected[spent].data.data_points
    assert ours_spent.value == theirs_spent.value == 628
    assert ours_spent.attributes == theirs_spent.attributes
    assert bool(ours_spent.exemplars) == bool(theirs_spent.exemplars)


def test_each_value_keeps_its_exemplar() -> None:
    """Twelve values in twelve buckets: twelve exemplars, each of its own call. (Handed over in bulk it was one.)"""
    reader = InMemoryMetricReader()
    meters = Meters(sdk.MeterProvider([reader]), "0")
    tracer = TracerProvider().get_tracer("t")
    expected: dict[float, int] = {}
    for bound in names.SECONDS_BUCKETS[:12]:
        span = tracer.start_span("chat m")
        meters.record(call(duration=bound, context=set_span_in_context(span)))
        expected[bound] = span.get_span_context().span_id
    (point,) = points(reader, names.M_DURATION)
    assert {exemplar.value: exemplar.span_id for exemplar in point.exemplars} == expected


def test_four_threads_lose_nothing() -> None:
    """Values of the same and of other series, recorded at once while a reader collects."""
    reader = InMemoryMetricReader()
    meters = Meters(sdk.MeterProvider([reader]), "0")
    each, threads = 600, 4
    over = threading.Event()
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for i in range(each):
                measured = call(
                    request_model=f"m{i % 3}",
                    failure=None if i % 5 else "500",
                    time_to_first_chunk=0.01,
                    gaps=[0.02] * 3,
                    usage=Usage(input_tokens=2, output_tokens=1, cached_tokens=1),
                    phases=[("decode", "client", 0.5), ("prefill", "estimate", 0.25)],
                    causes=("queueing",) if i % 2 else (),
                )
                meters.record(measured)
        except BaseException as error:
            failures.append(error)

    def collect() -> None:
        while not over.is_set():
            read(reader)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    collector = threading.Thread(target=collect)
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in (collector, *workers):
            thread.start()
        for thread in workers:
            thread.join()
    finally:
        over.set()
        collector.join()
        sys.setswitchinterval(switch)
    assert failures == []
    total = each * threads
    found = read(reader)

    def counted(name: str) -> int:
        return sum(point.count for point in found[name].data.data_points)

    def summed(name: str) -> int:
        return sum(point.value for point in found[name].data.data_points)

    assert counted(names.M_DURATION) == counted(names.M_TIME_TO_FIRST_CHUNK) == total
    assert counted(names.M_TIME_PER_CHUNK) == 3 * total
    assert counted(names.M_INPUT_TOKENS) == total
    assert counted(names.M_PHASE) == 2 * total
    assert summed(names.M_INPUT_USAGE) == 2 * total
    assert summed(names.M_CACHE_READ_USAGE) == total
    assert summed(names.M_DIAGNOSES) == total // 2


def test_four_hundred_series() -> None:
    """As many kinds of calls as a gateway may see, each with its own values."""
    reader = InMemoryMetricReader()
    meters = Meters(sdk.MeterProvider([reader]), "0")
    for _ in range(2):
        for number in range(400):
            meters.record(call(request_model=f"m{number}", duration=number / 100))
    found = points(reader, names.M_DURATION)
    assert len(found) == 400
    for point in found:
        number = int(dict(point.attributes)["gen_ai.request.model"].removeprefix("m"))
        assert (point.count, point.sum) == (2, pytest.approx(number / 50))


def test_what_is_kept_ready_is_bounded() -> None:
    """Any number of models and of error types: their values are recorded, their attributes not kept for ever."""
    reader = InMemoryMetricReader()
    meters = Meters(sdk.MeterProvider([reader], views=[View(instrument_name="*", attribute_keys=set())]), "0")
    for number in range(2500):
        meters.record(call(request_model=f"m{number}"))
    for number in range(400):
        meters.record(call(failure=f"E{number}"))
    assert [point.count for point in points(reader, names.M_DURATION)] == [2900]
    assert len(meters._series) <= 1000
    assert all(len(series.base._more) <= 256 for series in meters._series.values())


def test_delta_and_cumulative_readers() -> None:
    delta = InMemoryMetricReader(preferred_temporality={sdk.Histogram: AggregationTemporality.DELTA})
    cumulative = InMemoryMetricReader()
    meters = Meters(sdk.MeterProvider([delta, cumulative]), "0")
    seen = 0
    for round_ in range(3):
        for value in range(10 + round_):
            meters.record(call(duration=float(value)))
        seen += sum(point.count for point in points(delta, names.M_DURATION))
    assert seen == 33
    assert points(cumulative, names.M_DURATION)[0].count == 33


# ---- which metrics an operation has --------------------------------------------------------------------------------

CLIENT = "gen_ai.client"
OURS = {names.M_PHASE, names.M_DIAGNOSES}
TOLD = Usage(input_tokens=40, output_tokens=6, cached_tokens=16, cache_write_tokens=0, reasoning_tokens=2)
STREAM = {
    "time_to_first_chunk": 0.1,
    "gaps": (0.02, 0.03),
    "phases": [("decode", "client", 0.5)],
    "causes": ("queueing",),
}
INFERENCE = {
    f"{CLIENT}.inference.duration": ("s", "Histogram"),
    f"{CLIENT}.inference.time_to_first_chunk": ("s", "Histogram"),
    f"{CLIENT}.inference.time_per_output_chunk": ("s", "Histogram"),
    f"{CLIENT}.inference.usage.input_tokens": ("{token}", "Sum"),
    f"{CLIENT}.inference.usage.output_tokens": ("{token}", "Sum"),
    f"{CLIENT}.inference.usage.cache_read.input_tokens": ("{token}", "Sum"),
    f"{CLIENT}.inference.usage.cache_write.input_tokens": ("{token}", "Sum"),
    f"{CLIENT}.inference.usage.reasoning.output_tokens": ("{token}", "Sum"),
    f"{CLIENT}.inference.operation.input_tokens": ("{token}", "Histogram"),
    f"{CLIENT}.inference.operation.output_tokens": ("{token}", "Histogram"),
}
EMBEDDINGS = {
    f"{CLIENT}.embeddings.duration": ("s", "Histogram"),
    f"{CLIENT}.embeddings.operation.input_tokens": ("{token}", "Histogram"),
}
OLD = {
    f"{CLIENT}.operation.duration": ("s", "Histogram"),
    f"{CLIENT}.operation.time_to_first_chunk": ("s", "Histogram"),
    f"{CLIENT}.operation.time_per_output_chunk": ("s", "Histogram"),
    f"{CLIENT}.token.usage": ("{token}", "Histogram"),
}


@pytest.mark.parametrize(
    ("semconv", "operation", "expected"),
    [
        ("v0.1.0", "chat", INFERENCE),
        ("v0.1.0", "generate_content", INFERENCE),
        ("v0.1.0", "text_completion", INFERENCE),
        ("v0.1.0", "embeddings", EMBEDDINGS),
        ("v0.1.0", "rerank", {f"{CLIENT}.operation.duration": ("s", "Histogram")}),
        ("v1.41", "chat", OLD),
        ("v1.41", "embeddings", OLD),
    ],
)
def test_instruments(semconv: str, operation: str, expected: dict[str, tuple[str, str]]) -> None:
    """Names, units and kinds as the conventions have them, and no metric beside them but ours."""
    reader = InMemoryMetricReader()
    Meters(sdk.MeterProvider([reader]), "0", semconv).record(call(operation=operation, usage=TOLD, **STREAM))
    found = read(reader)
    kinds = {
        name: (metric.unit, type(metric.data).__name__)
        for name, metric in found.items()
        if name.startswith(CLIENT) and metric.data.data_points
    }
    assert kinds == expected
    assert {name for name in found if not name.startswith(CLIENT)} - {names.M_ERRORS} == OURS
    for name, (unit, kind) in expected.items():
        (point, *_) = found[name].data.data_points
        assert {**BASE, "gen_ai.operation.name": operation}.items() <= dict(point.attributes).items()
        if kind == "Histogram":
            bounds = names.SECONDS_BUCKETS if unit == "s" else names.TOKEN_BUCKETS
            assert tuple(point.explicit_bounds) == bounds
        else:
            assert found[name].data.is_monotonic


def test_an_error_type_where_the_conventions_want_it() -> None:
    reader = InMemoryMetricReader()
    failed = call(usage=TOLD, failure="500", **STREAM)
    Meters(sdk.MeterProvider([reader]), "0").record(failed)
    have = {
        name.removeprefix(f"{CLIENT}.inference.")
        for name, metric in read(reader).items()
        if any("error.type" in point.attributes for point in metric.data.data_points)
    }
    assert have == {"duration", "operation.input_tokens", "operation.output_tokens"}


def test_openai_names_its_tier_and_fingerprint() -> None:
    """On durations and tokens, as the conventions refine those, and on nothing else."""
    reader = InMemoryMetricReader()
    told = (("openai.response.service_tier", "default"), ("openai.response.system_fingerprint", "fp"))
    Meters(sdk.MeterProvider([reader]), "0").record(call(usage=TOLD, refinements=told, **STREAM))
    have = {
        name.removeprefix(f"{CLIENT}.inference.")
        for name, metric in read(reader).items()
        if any(dict(told).items() <= dict(point.attributes).items() for point in metric.data.data_points)
    }
    plain = {"time_to_first_chunk", "time_per_output_chunk"}
    assert have == {name.removeprefix(f"{CLIENT}.inference.") for name in INFERENCE} - plain


@given(
    st.integers(0, 10**9),
    st.dictionaries(st.sampled_from(["text", "image", "audio", "video"]), st.integers(0, 10**9)),
)
def test_modalities_add_up(total: int, told: dict[str, int]) -> None:
    """Whatever a provider tells of modalities, the counter's sum is the total that it told."""
    divided = by_modality(total, told)
    assert sum(tokens for _, tokens in divided) == total
    assert all(tokens > 0 for _, tokens in divided) or divided == [("unknown", 0)]
    if sum(told.values()) <= total:
        assert {name: tokens for name, tokens in divided if name != "unknown"} == {n: t for n, t in told.items() if t}
    else:
        assert divided == [("unknown", total)]


def test_modalities_on_the_counters() -> None:
    reader = InMemoryMetricReader()
    usage = Usage(
        input_tokens=300,
        output_tokens=50,
        cached_tokens=40,
        reasoning_tokens=20,
        input_by_modality={"text": 100, "image": 200},
        output_by_modality={"audio": 30},
        cached_by_modality={"text": 40},
    )
    Meters(sdk.MeterProvider([reader]), "0").record(call(usage=usage))
    modality = "gen_ai.token.modality"
    assert labelled(reader, names.M_INPUT_USAGE, modality) == {"text": 100, "image": 200}
    assert labelled(reader, names.M_OUTPUT_USAGE, modality) == {"audio": 30, "unknown": 20}
    assert labelled(reader, names.M_CACHE_READ_USAGE, modality) == {"text": 40}
    assert labelled(reader, names.M_REASONING_USAGE, modality) == {"unknown": 20}
    assert points(reader, names.M_INPUT_TOKENS)[0].sum == 300, "distributions are not divided"


@pytest.mark.parametrize("failure", [None, "500"])
@pytest.mark.parametrize("first_chunk", [None, 0.1])
def test_no_usage(failure: str | None, first_chunk: float | None) -> None:
    """Counters know of every call. A distribution holds a 0 only of a call that failed before anything came of it."""
    reader = InMemoryMetricReader()
    Meters(sdk.MeterProvider([reader]), "0").record(call(failure=failure, time_to_first_chunk=first_chunk))
    for name in (names.M_INPUT_USAGE, names.M_OUTPUT_USAGE):
        assert labelled(reader, name, "gen_ai.token.modality") == {"unknown": 0}
    for name in (names.M_CACHE_READ_USAGE, names.M_CACHE_WRITE_USAGE, names.M_REASONING_USAGE):
        assert points(reader, name) == [], "a 0 would say that the provider counts them"
    nothing_came = failure is not None and first_chunk is None
    for name in (names.M_INPUT_TOKENS, names.M_OUTPUT_TOKENS):
        found = [(point.sum, dict(point.attributes)["error.type"]) for point in points(reader, name)]
        assert found == ([(0, failure)] if nothing_came else [])


def test_attributes_are_as_they_can_be_exported() -> None:
    """Half of a surrogate pair would lose the attribute of each point, with a traceback in the application's log."""
    reader = InMemoryMetricReader()
    half = "m-\udc00"
    Meters(sdk.MeterProvider([reader]), "0").record(
        call(response_model=half, failure=half, refinements=(("openai.response.system_fingerprint", half),))
    )
    found = [dict(point.attributes) for metric in read(reader).values() for point in metric.data.data_points]
    found = [attributes for attributes in found if names.RESPONSE_MODEL in attributes]
    assert found
    for attributes in found:
        assert attributes[names.RESPONSE_MODEL] == "m-?"
        assert not any(half in str(value) for value in attributes.values())


def test_a_counter_is_known_from_its_first_zero_on() -> None:
    reader = InMemoryMetricReader()
    meters = Meters(sdk.MeterProvider([reader]), "0")
    for cached, total in ((0, 0), (0, 0), (7, 7), (0, 7)):
        meters.record(call(usage=Usage(input_tokens=10, cached_tokens=cached)))
        assert labelled(reader, names.M_CACHE_READ_USAGE, "gen_ai.token.modality") == {"unknown": total}
    assert labelled(reader, names.M_INPUT_USAGE, "gen_ai.token.modality") == {"unknown": 40}


@settings(max_examples=examples(20), deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["chat", "embeddings", "rerank", "text_completion"]),
            st.sampled_from([None, "500"]),
            st.floats(0, 1000),
            st.none() | st.integers(0, 2**40),
            st.none() | st.integers(0, 2**40),
        ),
        max_size=20,
    ),
    st.sampled_from(["v0.1.0", "v1.41"]),
)
def test_sums_are_the_calls_own(calls: list[tuple[Any, ...]], semconv: str) -> None:
    """By every version: as many durations as calls, and as many tokens as were told."""
    reader = InMemoryMetricReader()
    meters = Meters(sdk.MeterProvider([reader]), "0", semconv)
    for operation, failure, duration, inputs, outputs in calls:
        usage = Usage(input_tokens=inputs, output_tokens=outputs)
        meters.record(call(operation=operation, failure=failure, duration=duration, usage=usage))
    found = read(reader)
    durations = [metric for name, metric in found.items() if name.endswith(".duration") and name.startswith(CLIENT)]
    assert sum(point.count for metric in durations for point in metric.data.data_points) == len(calls)
    told = sum(point.sum for metric in durations for point in metric.data.data_points)
    assert told == pytest.approx(sum(each[2] for each in calls))
    if semconv == "v1.41":
        tokens = found[names.M_OLD_TOKENS].data.data_points if names.M_OLD_TOKENS in found else []
        assert sum(point.sum for point in tokens) == sum((each[3] or 0) + (each[4] or 0) for each in calls)
    else:
        spent = [found[n].data.data_points for n in (names.M_INPUT_USAGE, names.M_OUTPUT_USAGE) if n in found]
        asked = [each for each in calls if each[0] in ("chat", "text_completion")]
        counted = sum(point.value for each in spent for point in each)
        assert counted == sum((each[3] or 0) + (each[4] or 0) for each in asked)


@pytest.mark.parametrize("semconv", [names.V0_1_0, names.V1_41])
def test_a_view_that_raises_costs_its_own_value_alone(semconv: str) -> None:
    class Broken(ExplicitBucketHistogramAggregation):
        def _create_aggregation(self, *given: Any, **named: Any) -> Any:
            raise KeyError("the application's own")

    def names_with(views: list[View]) -> set[str]:
        reader = InMemoryMetricReader()
        meters = Meters(sdk.MeterProvider([reader], views=views), "1", semconv)
        usage = Usage(input_tokens=3, output_tokens=2)
        measured = call(time_to_first_chunk=0.1, usage=usage, phases=[("decode", "client", 0.5)], causes=["network"])
        meters.record(measured)
        return set(read(reader)) - {names.M_ERRORS}

    first_chunk = names.M_TIME_TO_FIRST_CHUNK if semconv == names.V0_1_0 else names.M_OLD_TIME_TO_FIRST_CHUNK
    where = f"recording {first_chunk}"
    before = internal_errors.counts.get(where, 0)
    assert names_with([View(instrument_name=first_chunk, aggregation=Broken())]) == names_with([]) - {first_chunk}
    assert internal_errors.counts.pop(where) == before + 1


def test_our_own_failures_are_a_metric() -> None:
    reader = InMemoryMetricReader()
    provider = sdk.MeterProvider([reader])
    for semconv in names.SEMCONVS:
        meters_on(provider, "0", semconv)
    internal_errors.note("a test", ValueError("x"))
    try:
        found = {dict(point.attributes)["llmtrace.where"]: point.value for point in points(reader, names.M_ERRORS)}
        assert found["a test"] == 1, "counted once, however many of us there are"
    finally:
        del internal_errors.counts["a test"]


# ---- which provider is one -----------------------------------------------------------------------------------------


@dataclass
class ProxyMeterProvider(MeterProvider):
    """A real one that hands over to another, as logfire's does: of this name, and with no hash."""

    inner: MeterProvider

    def get_meter(self, *args: Any, **kwargs: Any) -> Meter:
        return self.inner.get_meter(*args, **kwargs)


def test_a_real_provider_of_whatever_name_is_used() -> None:
    reader = InMemoryMetricReader()
    provider = ProxyMeterProvider(sdk.MeterProvider([reader]))
    assert ProxyMeterProvider.__hash__ is None
    assert not is_idle(provider)
    meters = meters_on(provider, "0")
    assert meters_on(provider, "0") is meters, "instruments are made once"
    assert meters_on(provider, "0", "v1.41") is not meters
    meters.record(call())
    assert [point.count for point in points(reader, names.M_DURATION)] == [1]


def test_another_provider_gets_instruments_of_its_own() -> None:
    """Even where it lies at the place of one that is gone."""
    for _ in range(20):
        reader = InMemoryMetricReader()
        provider = ProxyMeterProvider(sdk.MeterProvider([reader]))
        meters_on(provider, "0").record(call())
        assert [point.count for point in points(reader, names.M_DURATION)] == [1]
        gone = weakref.ref(provider)
        del provider
        gc.collect()
        assert gone() is None, "a provider is not kept alive"


def test_a_provider_without_weak_references() -> None:
    class Bare(MeterProvider):
        __slots__ = ("inner",)

        def get_meter(self, *args: Any, **kwargs: Any) -> Meter:
            return self.inner.get_meter(*args, **kwargs)

    provider = Bare()
    provider.inner = sdk.MeterProvider([InMemoryMetricReader()])
    assert not is_idle(provider)
    assert meters_on(provider, "0") is meters_on(provider, "0")


def test_a_provider_that_does_nothing_is_idle() -> None:
    assert is_idle(NoOpMeterProvider())


STAND_IN = """
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from llmtrace.emit.metrics import is_idle
stand_in = metrics.get_meter_provider()
assert is_idle(stand_in), "nothing is set up"

class Own(type(stand_in)):
    pass

assert not is_idle(Own()), "an application's own class, whatever it derives from"
metrics.set_meter_provider({real})
assert metrics.get_meter_provider() is not stand_in
assert is_idle(metrics.get_meter_provider()) is {idle}
assert is_idle(stand_in) is {idle}, "who kept the stand-in has the real one through it"
"""


@pytest.mark.parametrize(("real", "idle"), [("MeterProvider()", False), ("metrics.NoOpMeterProvider()", True)])
def test_the_stand_in_before_a_provider_is_set(real: str, idle: bool) -> None:
    code = STAND_IN.format(real=real, idle=idle)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
