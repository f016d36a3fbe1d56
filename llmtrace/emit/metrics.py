"""Metrics of calls and phases, recorded through OpenTelemetry's public API alone.

Each value goes through its instrument's own ``record`` or ``add``, with the context of the call's span: readers, views,
exemplars and filters see what any program's values would give them. The setting ``semconv`` says which instruments
there are: those of the GenAI conventions v0.1.0, or those of v1.41 before them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from opentelemetry import metrics as api
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

from llmtrace.emit import later, names
from llmtrace.emit.instruments import CONVENTIONS, Instrument, counter, histogram
from llmtrace.emit.measurements import Kind, Measurements, Series
from llmtrace.observe import internal_errors
from llmtrace.observe.process import Lock

__all__ = ["Measurements", "Meters", "is_idle", "meters_on"]

_MOST_KINDS = 1000
"""Kinds of calls whose attribute sets are kept ready."""


class Meters:
    """The instruments on one MeterProvider. Safe in any thread: all that it keeps could be made again at any time."""

    def __init__(self, provider: MeterProvider, version: str, semconv: str = names.V0_1_0) -> None:
        meter = provider.get_meter("llmtrace", version)
        self._conventions = CONVENTIONS[semconv](meter)
        self._phase = histogram(meter, names.M_PHASE, "s", "Duration of one phase of a call.")
        self._errors = histogram(
            meter, names.M_ESTIMATE_ERROR, "s", "How far the blind estimate of a phase is off what the engine told."
        )
        self._diagnoses = counter(meter, names.M_DIAGNOSES, "{call}", "Calls with a diagnosis, once per cause.")
        # v1.41 knows no such metric.
        described = "The duration of a single tool execution."
        self._tool = histogram(meter, names.M_TOOL_DURATION, "s", described) if semconv == names.V0_1_0 else None
        self._meter = meter
        self._slo: tuple[Instrument, Instrument] | None = None
        self._series: dict[Kind, Series] = {}
        # Of a meter that has this one already (another ``Meters`` on it), the SDK returns that and drops ours.
        meter.create_observable_counter(
            names.M_ERRORS,
            callbacks=[_count_errors],
            unit="{error}",
            description="Failures inside llmtrace, by place; the traced application does not notice them.",
        )

    def record(self, measurements: Measurements) -> None:
        """Record what one ended call adds to the metrics, before this returns."""
        series = self._series_of(measurements)
        self._conventions.record(measurements, series)
        context = measurements.context
        for name, source, seconds in measurements.phases:
            attributes = series.base.plus((names.PHASE, name), (names.SOURCE, source))
            self._phase.record(seconds, attributes, context)
        if measurements.objectives is not None:
            self._record_objectives(measurements, measurements.objectives, series)
        for cause in measurements.causes:
            self._diagnoses.record(1, series.base.plus((names.CAUSE, cause)), context)
        for name, source, seconds in measurements.errors:
            attributes = series.base.plus((names.PHASE, name), (names.SOURCE, source))
            self._errors.record(seconds, attributes, context)

    def _record_objectives(self, measurements: Measurements, decided: Mapping[str, bool], series: Series) -> None:
        if self._slo is None:  # made when they are wanted: few programs name objectives
            described = "Calls judged by an objective, and whether they met it."
            calls = counter(self._meter, names.M_SLO_CALLS, "{call}", described)
            described = "Time beyond the targets of missed objectives, charged to phases."
            self._slo = calls, counter(self._meter, names.M_SLO_EXCESS, "s", described)
        calls, excess = self._slo
        context, base = measurements.context, series.base
        for objective, met in decided.items():
            attributes = base.plus((names.SLO_OBJECTIVE, objective), (names.SLO_MET, met))
            calls.record(1, attributes, context)
        cause = measurements.causes[0] if measurements.causes else "none"
        for objective, phase, seconds in measurements.charged:
            attributes = base.plus((names.SLO_OBJECTIVE, objective), (names.PHASE, phase), (names.CAUSE, cause))
            excess.record(seconds, attributes, context)

    def record_tool(self, tool: str, seconds: float, failure: str | None, context: Context | None) -> None:
        """Record how long the execution of a tool took."""
        if self._tool is None:
            return
        attributes = {names.TOOL_NAME: tool}
        if failure is not None:
            attributes[names.ERROR_TYPE] = failure
        self._tool.record(seconds, attributes, context)

    def _series_of(self, measurements: Measurements) -> Series:
        kind = Kind(
            measurements.operation,
            measurements.provider,
            measurements.request_model,
            measurements.response_model,
            measurements.address,
            measurements.port,
            measurements.refinements,
        )
        series = self._series.get(kind)
        if series is None:
            if len(self._series) >= _MOST_KINDS:
                self._series = {}
            series = self._series[kind] = Series(kind)
        return series


def _count_errors(options: CallbackOptions) -> Iterable[Observation]:
    # The SDK asks before it collects: what waits to be recorded is in this collection.
    later.settle()
    return [Observation(number, {names.WHERE: where}) for where, number in list(internal_errors.counts.items())]


class _Registered(NamedTuple):
    owner: Callable[[], MeterProvider | None]
    meters: Meters


_registered: dict[tuple[int, str], _Registered] = {}
_making = Lock()


def meters_on(provider: MeterProvider, version: str, semconv: str = names.V0_1_0) -> Meters:
    """The instruments on ``provider``, made once: a meter keeps what was registered with it for good.

    The provider is known by its identity, since one that is a dataclass has no hash (logfire's is one).
    """
    key = (id(provider), semconv)
    existing = _registered.get(key)
    if existing is not None and existing.owner() is provider:
        return existing.meters
    owner: Callable[[], MeterProvider | None]
    try:
        owner = weakref.ref(provider, lambda _: _registered.pop(key, None))
    except TypeError:  # a class with slots and none for weak references
        owner = lambda: provider  # noqa: E731
    with _making:
        existing = _registered.get(key)
        if existing is None or existing.owner() is not provider:  # no other thread was faster
            existing = _registered[key] = _Registered(owner, Meters(provider, version, semconv))
        return existing.meters


def is_idle(provider: MeterProvider) -> bool:
    """Whether ``provider`` records nothing: a no-op one, or the API's own stand-in while no real one is set.

    The stand-in that ``get_meter_provider`` returns until then has no public name. But the API package records nothing
    by itself: a provider whose class is defined in there, in ``opentelemetry.metrics`` or below it, is a no-op or that
    stand-in, in every version from 1.30 on. Neither the class's name nor a base class would say so: an application's
    real provider may be called ``ProxyMeterProvider`` (logfire's is), or derive from the stand-in. Once a real provider
    is set the stand-in hands over to it, so whoever still holds it is asked about the real one.
    """
    if isinstance(provider, api.NoOpMeterProvider):
        return True
    module = type(provider).__module__
    if module != api.__name__ and not module.startswith(f"{api.__name__}."):
        return False
    current = api.get_meter_provider()
    return current is provider or is_idle(current)
