"""Metrics of calls and phases, recorded through the instruments (temporary form; see the metrics branch)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from opentelemetry import metrics as metrics_api
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Histogram, MeterProvider, NoOpMeterProvider, Observation

from llmtrace.emit import names
from llmtrace.emit.values import safe_attributes
from llmtrace.observe import internal_errors
from llmtrace.observe.answer import Usage


@dataclass(frozen=True, slots=True)
class Measurements:
    """The values of one ended call."""

    operation: str
    provider: str
    request_model: str | None
    response_model: str | None
    address: str | None
    port: int | None
    failure: str | None
    duration: float
    time_to_first_chunk: float | None
    gaps: Sequence[float]
    usage: Usage
    phases: Sequence[tuple[str, str, float]]
    causes: Sequence[str]
    context: Context


class Meters:
    """The instruments on one MeterProvider."""

    def __init__(self, provider: MeterProvider, version: str) -> None:
        meter = provider.get_meter("llmtrace", version)
        seconds, tokens = names.SECONDS_BUCKETS, names.TOKEN_BUCKETS

        def histogram(name: str, unit: str, description: str, buckets: tuple[float, ...]) -> Histogram:
            return meter.create_histogram(
                name, unit=unit, description=description, explicit_bucket_boundaries_advisory=buckets
            )

        self.duration = histogram(names.M_DURATION, "s", "GenAI operation duration.", seconds)
        self.time_to_first_chunk = histogram(names.M_TIME_TO_FIRST_CHUNK, "s", "Time to the first chunk.", seconds)
        self.time_per_chunk = histogram(names.M_TIME_PER_CHUNK, "s", "Time per chunk.", seconds)
        self.tokens = histogram(names.M_TOKENS, "{token}", "Number of input and output tokens used.", tokens)
        self.phase = histogram(names.M_PHASE, "s", "Duration of one phase of a call.", seconds)
        self.diagnoses = meter.create_counter(names.M_DIAGNOSES, unit="{call}", description="Calls with a diagnosis.")
        meter.create_observable_counter(
            names.M_ERRORS, callbacks=[_errors], unit="{error}", description="Failures inside llmtrace, by place."
        )

    def record(self, values: Measurements) -> None:
        """Record one call's values."""
        base: Mapping[str, Any] = safe_attributes(
            {
                name: value
                for name, value in (
                    (names.OPERATION, values.operation),
                    (names.PROVIDER, values.provider),
                    (names.REQUEST_MODEL, values.request_model),
                    (names.RESPONSE_MODEL, values.response_model),
                    (names.SERVER_ADDRESS, values.address),
                    (names.SERVER_PORT, values.port),
                )
                if value is not None
            }
        )
        context = values.context
        failed = {**base, names.ERROR_TYPE: values.failure} if values.failure else base
        self.duration.record(values.duration, failed, context=context)
        if values.time_to_first_chunk is not None:
            self.time_to_first_chunk.record(values.time_to_first_chunk, base, context=context)
            for gap in values.gaps:
                self.time_per_chunk.record(gap, base, context=context)
        for kind, count in (("input", values.usage.input_tokens), ("output", values.usage.output_tokens)):
            if count is not None:
                self.tokens.record(count, {**base, names.TOKEN_TYPE: kind}, context=context)
        for phase, source, seconds in values.phases:
            self.phase.record(seconds, {**base, names.PHASE: phase, names.SOURCE: source}, context=context)
        for cause in values.causes:
            self.diagnoses.add(1, {**base, names.CAUSE: cause}, context=context)


def _errors(options: CallbackOptions) -> Iterable[Observation]:
    return [Observation(number, {names.WHERE: where}) for where, number in list(internal_errors.counts.items())]


_known: WeakKeyDictionary[MeterProvider, Meters] = WeakKeyDictionary()


def meters_on(provider: MeterProvider, version: str) -> Meters:
    """The instruments on ``provider``, made once: a meter keeps what was registered with it for good."""
    known = _known.get(provider)
    if known is None:
        known = _known[provider] = Meters(provider, version)
    return known


def is_idle(provider: MeterProvider) -> bool:
    """Whether nothing that is recorded on ``provider`` goes anywhere."""
    if isinstance(provider, NoOpMeterProvider):
        return True
    return (
        type(provider).__module__.startswith("opentelemetry.metrics") and provider is metrics_api.get_meter_provider()
    )
