"""The instruments that each version of the GenAI conventions names, and the values that go into them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from opentelemetry.context import Context
from opentelemetry.metrics import Meter
from opentelemetry.util.types import AttributeValue

from llmtrace.emit import names
from llmtrace.emit.measurements import Measurements, Series
from llmtrace.observe import internal_errors

_MOST = 2**40
"""The highest value that is recorded. Nobody uses that many tokens in a call, and an SDK adds values up: a sum beyond
64 bits cannot be exported, nor anything that is exported with it, the application's own metrics among them."""
_UNKNOWN = "unknown"
"""The modality of tokens that the provider does not divide."""


class Conventions(Protocol):
    """The instruments that one version of the conventions names."""

    def record(self, measurements: Measurements, series: Series) -> None:
        """Record the values of one call that this version of the conventions asks for."""
        ...


class Instrument:
    """A histogram or counter, of which a value that cannot be recorded is counted as an error of ours.

    An application's view or aggregation may raise: that costs this value, not those that a call has beside it.
    """

    __slots__ = ("_put", "_where")

    def __init__(self, name: str, put: Callable[..., None]) -> None:
        self._put, self._where = put, f"recording {name}"

    def record(self, value: float, attributes: Mapping[str, AttributeValue], context: Context | None) -> None:
        """Record a value of the histogram, or add one to the counter."""
        if value > _MOST:
            return
        try:
            self._put(value, attributes, context=context)
        except Exception as error:
            internal_errors.note(self._where, error)


def histogram(meter: Meter, name: str, unit: str, description: str) -> Instrument:
    """A histogram with the buckets that the conventions recommend for its unit, ``s`` or ``{token}``."""
    buckets = names.TOKEN_BUCKETS if unit == "{token}" else names.SECONDS_BUCKETS
    made = meter.create_histogram(name, unit=unit, description=description, explicit_bucket_boundaries_advisory=buckets)
    return Instrument(name, made.record)


def counter(meter: Meter, name: str, unit: str, description: str) -> Instrument:
    """A counter."""
    return Instrument(name, meter.create_counter(name, unit=unit, description=description).add)


def by_modality(total: int, reported: Mapping[str, int] | None) -> list[tuple[str, int]]:
    """``total`` tokens by modality, as the provider reported them; the rest has the modality ``unknown``.

    A division that adds up to more than the total is not believed.
    """
    if not reported:
        return [(_UNKNOWN, total)]
    divided = [(modality, tokens) for modality, tokens in reported.items() if tokens > 0]
    rest = total - sum(tokens for _, tokens in divided)
    if rest < 0:
        return [(_UNKNOWN, total)]
    return [*divided, (_UNKNOWN, rest)] if rest or not divided else divided


class _Spent:
    """A counter of tokens, by modality."""

    def __init__(self, meter: Meter, name: str, description: str) -> None:
        self._name = name
        self._counter = counter(meter, name, "{token}", description)

    def add(self, total: int, reported: Mapping[str, int] | None, series: Series, context: Context | None) -> None:
        """Count ``total`` tokens. A 0 is only added to a counter without a value, so that the counter exists."""
        if not total and self._name in series.counted:
            return
        series.counted.add(self._name)
        for modality, tokens in by_modality(total, reported):
            self._counter.record(tokens, series.refined.plus((names.TOKEN_MODALITY, modality)), context)


class _V010:
    """The client metrics of semantic-conventions-genai v0.1.0."""

    def __init__(self, meter: Meter) -> None:
        seconds, tokens = "s", "{token}"
        self._duration = histogram(meter, names.M_DURATION, seconds, "GenAI client inference operation duration.")
        self._to_first_chunk = histogram(
            meter, names.M_TIME_TO_FIRST_CHUNK, seconds, "Time from the request to the first chunk of the stream."
        )
        self._per_chunk = histogram(
            meter, names.M_TIME_PER_CHUNK, seconds, "Time from one chunk of the stream to the next."
        )
        self._input = _Spent(
            meter, names.M_INPUT_USAGE, "The number of input (prompt) tokens used, including cached tokens."
        )
        self._output = _Spent(
            meter, names.M_OUTPUT_USAGE, "The number of output (completion) tokens used, including reasoning tokens."
        )
        self._cache_read = _Spent(
            meter, names.M_CACHE_READ_USAGE, "The number of input tokens served from a provider-managed cache."
        )
        self._cache_write = _Spent(
            meter, names.M_CACHE_WRITE_USAGE, "The number of input tokens written to a provider-managed cache."
        )
        self._reasoning = _Spent(meter, names.M_REASONING_USAGE, "The number of output tokens used for reasoning.")
        self._input_per_call = histogram(
            meter, names.M_INPUT_TOKENS, tokens, "The number of input (prompt) tokens used per inference operation."
        )
        self._output_per_call = histogram(
            meter,
            names.M_OUTPUT_TOKENS,
            tokens,
            "The number of output (completion) tokens used per inference operation.",
        )
        self._embeddings = histogram(
            meter, names.M_EMBEDDINGS_DURATION, seconds, "GenAI client embeddings operation duration."
        )
        self._embeddings_input = histogram(
            meter, names.M_EMBEDDINGS_INPUT_TOKENS, tokens, "The number of input tokens used per embeddings operation."
        )
        self._other = histogram(meter, names.M_OPERATION_DURATION, seconds, "GenAI operation duration.")

    def record(self, measurements: Measurements, series: Series) -> None:
        context = measurements.context
        if measurements.operation in names.INFERENCE:
            self._inference(measurements, series)
        elif measurements.operation == names.EMBEDDINGS:
            self._embeddings.record(measurements.duration, series.base.ended(measurements.failure), context)
            if measurements.usage.input_tokens is not None:
                self._embeddings_input.record(measurements.usage.input_tokens, series.base.own, context)
        else:
            self._other.record(measurements.duration, series.base.ended(measurements.failure), context)

    def _inference(self, measurements: Measurements, series: Series) -> None:
        context, usage = measurements.context, measurements.usage
        ended = series.refined.ended(measurements.failure)
        self._duration.record(measurements.duration, ended, context)
        if measurements.time_to_first_chunk is not None:
            self._to_first_chunk.record(measurements.time_to_first_chunk, series.base.own, context)
        record, base = self._per_chunk.record, series.base.own
        for gap in measurements.gaps:
            record(gap, base, context)
        # The conventions want a value for each call, 0 where no usage came: no sum changes by it.
        self._input.add(usage.input_tokens or 0, usage.input_by_modality, series, context)
        self._output.add(usage.output_tokens or 0, usage.output_by_modality, series, context)
        # Where a provider does not count these there is no value: a 0 would say that it did, and found none.
        if usage.cached_tokens is not None:
            self._cache_read.add(usage.cached_tokens, usage.cached_by_modality, series, context)
        if usage.cache_write_tokens is not None:
            self._cache_write.add(usage.cache_write_tokens, None, series, context)
        if usage.reasoning_tokens is not None:
            self._reasoning.add(usage.reasoning_tokens, None, series, context)
        # The distributions hold reported counts. A call that failed before any part of an answer came counts as 0, and
        # ``error.type`` sets it apart. Any other call without usage spent tokens that nobody counted: it has no value.
        uncounted = 0 if measurements.failure is not None and measurements.time_to_first_chunk is None else None
        for distribution, reported in (
            (self._input_per_call, usage.input_tokens),
            (self._output_per_call, usage.output_tokens),
        ):
            tokens = uncounted if reported is None else reported
            if tokens is not None:
                distribution.record(tokens, ended, context)


class _V141:
    """The client metrics of semantic-conventions v1.41, whatever the operation."""

    def __init__(self, meter: Meter) -> None:
        self._duration = histogram(meter, names.M_OPERATION_DURATION, "s", "GenAI operation duration.")
        self._to_first_chunk = histogram(
            meter, names.M_OLD_TIME_TO_FIRST_CHUNK, "s", "Time from the request to the first chunk of the stream."
        )
        self._per_chunk = histogram(
            meter, names.M_OLD_TIME_PER_CHUNK, "s", "Time from one chunk of the stream to the next."
        )
        self._tokens = histogram(meter, names.M_OLD_TOKENS, "{token}", "Number of input and output tokens used.")

    def record(self, measurements: Measurements, series: Series) -> None:
        context, usage = measurements.context, measurements.usage
        self._duration.record(measurements.duration, series.base.ended(measurements.failure), context)
        if measurements.time_to_first_chunk is not None:
            self._to_first_chunk.record(measurements.time_to_first_chunk, series.base.own, context)
        for gap in measurements.gaps:
            self._per_chunk.record(gap, series.base.own, context)
        for kind, count in (("input", usage.input_tokens), ("output", usage.output_tokens)):
            if count is not None:
                self._tokens.record(count, series.base.plus((names.TOKEN_TYPE, kind)), context)


CONVENTIONS: Mapping[str, Callable[[Meter], Conventions]] = {names.V0_1_0: _V010, names.V1_41: _V141}
