"""Metrics of calls and phases, by the GenAI conventions' names and buckets.

The SDK takes about as long to record one histogram value as to start a span, and a call has a dozen of them (plus
one for each chunk). So values are put aside per attribute set, and handed over in bulk when a reader collects: an
observable counter (our own failures) is the hook that collection calls first. Where the SDK's histogram is not the
one we know (another aggregation by a view, another SDK), each value goes through ``record`` as usual.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from opentelemetry.metrics import CallbackOptions, Histogram, MeterProvider, Observation
from opentelemetry.trace import Span, set_span_in_context

from llmtrace.emit import names
from llmtrace.observe import internal_errors

_PENDING = 4096
"""Values put aside in one series before they are handed over without waiting for a collection."""
_SETS = 1000
"""Attribute sets remembered between two collections."""


class Series:
    """Values of one instrument under one attribute set, on their way to the SDK."""

    __slots__ = ("attributes", "exemplar", "instrument", "values")

    def __init__(self, instrument: Histogram, attributes: Mapping[str, Any]) -> None:
        self.instrument = instrument
        self.attributes = attributes
        self.values: deque[float] = deque()
        self.exemplar: Span | None = None

    def add(self, value: float, span: Span | None) -> None:
        """Put one value aside; ``span``: which it belongs to."""
        self.values.append(value)
        self.exemplar = span

    def extend(self, values: Iterable[float], span: Span | None) -> None:
        """Put many values aside."""
        self.values.extend(values)
        self.exemplar = span

    def flush(self) -> None:
        """Hand everything over. One value goes through ``record``: it makes the SDK's point and may be its exemplar."""
        pending = self.values
        values = [pending.popleft() for _ in range(len(pending))]
        if not values:
            return
        context = None if self.exemplar is None else set_span_in_context(self.exemplar)
        self.instrument.record(values.pop(), self.attributes, context=context)
        self.exemplar = None
        if not values:
            return
        targets = _known_points(self.instrument, self.attributes)
        if targets is None:
            for value in values:
                self.instrument.record(value, self.attributes)
            return
        values.sort()
        for lock, point in targets:
            with lock:
                _add_in_bulk(point, values)


class CallSeries:
    """The series of one kind of call: one look-up a call, then appends."""

    __slots__ = ("_base", "_meters", "duration", "input_tokens", "output_tokens", "per_chunk", "phases", "to_first")

    def __init__(self, meters: Meters, base: Mapping[str, Any], error: str | None) -> None:
        self._meters = meters
        self._base = base
        failed = {**base, names.ERROR_TYPE: error} if error else base
        self.duration = Series(meters.duration, failed)
        self.to_first = Series(meters.time_to_first_chunk, base)
        self.per_chunk = Series(meters.time_per_chunk, base)
        self.input_tokens = Series(meters.tokens, {**base, names.TOKEN_TYPE: "input"})
        self.output_tokens = Series(meters.tokens, {**base, names.TOKEN_TYPE: "output"})
        self.phases: dict[tuple[str, str], Series] = {}

    def phase(self, phase: str, source: str) -> Series:
        """The series of one phase as known from one source."""
        series = self.phases.get((phase, source))
        if series is None:
            attributes = {**self._base, names.PHASE: phase, names.SOURCE: source}
            series = self.phases[(phase, source)] = Series(self._meters.phase, attributes)
        return series

    def diagnosed(self, cause: str) -> None:
        """Count one verdict; they are rare."""
        self._meters.diagnoses.add(1, {**self._base, names.CAUSE: cause})

    def flush(self) -> None:
        """Hand over every series of this kind of call."""
        for series in (self.duration, self.to_first, self.per_chunk, self.input_tokens, self.output_tokens):
            series.flush()
        for series in list(self.phases.values()):
            series.flush()


class Meters:
    """The instruments on one MeterProvider, and the values on their way to them."""

    def __init__(self, provider: MeterProvider, version: str) -> None:
        meter = provider.get_meter("llmtrace", version)
        seconds, tokens = names.SECONDS_BUCKETS, names.TOKEN_BUCKETS

        def histogram(name: str, unit: str, description: str, buckets: tuple[float, ...]) -> Histogram:
            return meter.create_histogram(
                name, unit=unit, description=description, explicit_bucket_boundaries_advisory=buckets
            )

        self.duration = histogram(names.M_DURATION, "s", "GenAI operation duration.", seconds)
        self.time_to_first_chunk = histogram(
            names.M_TIME_TO_FIRST_CHUNK, "s", "Time from the request to the first chunk of the stream.", seconds
        )
        self.time_per_chunk = histogram(
            names.M_TIME_PER_CHUNK, "s", "Time from one chunk of the stream to the next.", seconds
        )
        self.tokens = histogram(names.M_TOKENS, "{token}", "Number of input and output tokens used.", tokens)
        self.phase = histogram(names.M_PHASE, "s", "Duration of one phase of a call.", seconds)
        self.diagnoses = meter.create_counter(
            names.M_DIAGNOSES, unit="{call}", description="Calls with a diagnosis, once per cause."
        )
        self._sets: dict[tuple[Any, ...], CallSeries] = {}
        self._in_bulk = _is_sdk(provider)
        meter.create_observable_counter(
            names.M_ERRORS,
            callbacks=[self._collect],
            unit="{error}",
            description="Failures inside llmtrace, by place; the traced application does not notice them.",
        )

    def series(self, key: tuple[Any, ...], error: str | None) -> CallSeries:
        """The series for a call. ``key``: operation, provider, request model, response model, address, port."""
        whole = (*key, error)
        found = self._sets.get(whole)
        if found is None:
            if len(self._sets) >= _SETS:
                self.flush()
                self._sets.clear()
            base = {
                name: value
                for name, value in zip(
                    (
                        names.OPERATION,
                        names.PROVIDER,
                        names.REQUEST_MODEL,
                        names.RESPONSE_MODEL,
                        names.SERVER_ADDRESS,
                        names.SERVER_PORT,
                    ),
                    key,
                    strict=False,
                )
                if value is not None
            }
            found = self._sets[whole] = CallSeries(self, base, error)
        return found

    def settle(self, series: CallSeries) -> None:
        """After a call's values were added: hand them over now, unless a collection will ask for them in time."""
        if not self._in_bulk or max(len(series.duration.values), len(series.per_chunk.values)) >= _PENDING:
            series.flush()

    def flush(self) -> None:
        """Hand over everything that was put aside."""
        for found in list(self._sets.values()):
            found.flush()

    def _collect(self, options: CallbackOptions) -> Iterable[Observation]:
        try:
            self.flush()
        except Exception as error:
            internal_errors.note("handing over metrics", error)
        return [Observation(number, {names.WHERE: where}) for where, number in list(internal_errors.counts.items())]


_known: WeakKeyDictionary[MeterProvider, Meters] = WeakKeyDictionary()


def meters_on(provider: MeterProvider, version: str) -> Meters:
    """The instruments on ``provider``, made once: a meter keeps what was registered with it for good."""
    found = _known.get(provider)
    if found is None:
        found = _known[provider] = Meters(provider, version)
    return found


def _is_sdk(provider: MeterProvider) -> bool:
    return type(provider).__module__.startswith("opentelemetry.sdk.metrics")


def _known_points(instrument: Any, attributes: Mapping[str, Any]) -> list[tuple[Any, Any]] | None:
    """The SDK's histogram points for ``attributes``, with their locks; None if they are not of the kind we know."""
    try:
        found: list[tuple[Any, Any]] = []
        consumer = instrument._measurement_consumer
        for storage in list(consumer._reader_storages.values()):
            for match in storage._instrument_view_instrument_matches[instrument]:
                keys = match._view._attribute_keys
                wanted = {k: v for k, v in attributes.items() if keys is None or k in keys}
                points = list(match._attributes_aggregation.values())
                same = [point for point in points if dict(point._attributes or {}) == wanted]
                if len(same) != 1 or type(same[0]).__name__ != "_ExplicitBucketHistogramAggregation":
                    return None
                found.append((same[0]._lock, same[0]))
        return found
    except (AttributeError, KeyError, TypeError):
        return None


def _add_in_bulk(point: Any, values: list[float]) -> None:
    """Add sorted ``values`` to an explicit-bucket histogram point, as so many ``record`` calls would."""
    if point._value is None:
        point._value = point._get_empty_bucket_counts()
    counts, before = point._value, 0
    for i, bound in enumerate(point._boundaries):
        upto = bisect_right(values, bound)
        counts[i] += upto - before
        before = upto
    counts[-1] += len(values) - before
    point._sum += sum(values)
    if point._record_min_max:
        point._min = min(point._min, values[0])
        point._max = max(point._max, values[-1])
