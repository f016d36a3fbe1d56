"""What all calls of one client library share: settings, tracer, instruments, and what earlier calls taught."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics as metrics_api
from opentelemetry import trace as trace_api

from llmtrace.calls.repairs import Repairs
from llmtrace.calls.retry_links import RetryLinks
from llmtrace.calls.verdict import Diagnoser
from llmtrace.config import Settings, seconds_per_prefill_token
from llmtrace.emit.metrics import Meters, is_idle, meters_on
from llmtrace.emit.tracers import Tracers
from llmtrace.estimate.baselines import Baselines
from llmtrace.estimate.hits import RouteHits
from llmtrace.estimate.prefixes import Prefixes
from llmtrace.version import VERSION

if TYPE_CHECKING:
    from llmtrace.calls.objectives import Objectives


class Telemetry:
    """The tracer and the instruments, found anew only when their providers change."""

    def __init__(
        self,
        tracer_provider: trace_api.TracerProvider | None,
        meter_provider: metrics_api.MeterProvider | None,
        settings: Settings,
    ) -> None:
        """The providers given, else the global ones as they are at each call."""
        self._tracer_provider = tracer_provider
        self._meter_provider = meter_provider
        self._settings = settings
        self._tracers = Tracers()
        self._meters: tuple[Any, Meters] | None = None

    def tracer(self) -> trace_api.Tracer:
        """The tracer of the provider in force."""
        provider = self._tracer_provider
        if provider is None:
            provider = trace_api.get_tracer_provider()
        return self._tracers.of(provider)

    def providers(self) -> list[Any]:
        """The providers in force: of spans, and of metrics where they are wanted."""
        providers: list[Any] = [self._tracer_provider or trace_api.get_tracer_provider()]
        if self._settings.metrics:
            providers.append(self._meters_provider())
        return providers

    def may_go_to(self, provider: Any) -> bool:
        """Whether spans or values may go to ``provider``, which is one of the SDK's own: not if another one of these is
        in force. What an application puts before the SDK's does not show which one it hands over to.
        """
        for mine in (self._tracer_provider or trace_api.get_tracer_provider(), self._meters_provider()):
            if mine is not provider and type(mine) is type(provider):
                return False
        return True

    def _meters_provider(self) -> metrics_api.MeterProvider:
        return self._meter_provider or metrics_api.get_meter_provider()

    def meters(self) -> Meters | None:
        """The instruments, None while no MeterProvider is set up."""
        if not self._settings.metrics:
            return None
        provider = self._meters_provider()
        known = self._meters
        if known is None or known[0] is not provider:
            if is_idle(provider):
                return None
            known = self._meters = (provider, meters_on(provider, VERSION, self._settings.semconv))
        return known[1]


class Services:
    """What the steps of a call's way are given to work with."""

    def __init__(
        self,
        settings: Settings,
        tracer_provider: trace_api.TracerProvider | None = None,
        meter_provider: metrics_api.MeterProvider | None = None,
    ) -> None:
        self.settings = settings
        self.tracer_provider = tracer_provider
        """The one given, None: the global one."""
        self.telemetry = Telemetry(tracer_provider, meter_provider, settings)
        self.baselines = Baselines(
            settings.min_calls,
            settings.min_spread,
            path=settings.baseline_path or None,
            least_per_token=seconds_per_prefill_token(settings.baseline_prior),
            tokenizer=settings.tokenizer,
        )
        self.diagnoser = Diagnoser()
        self.prefixes = Prefixes()
        self.hits = RouteHits()
        self.retry_links = RetryLinks()
        self.repairs = Repairs()
        self.objectives = _objectives(settings)

    def providers(self) -> list[Any]:
        """Where these calls' telemetry goes: what has to export before the process ends."""
        providers = self.telemetry.providers()
        if (logs := sys.modules.get("opentelemetry._logs")) is not None:  # else no event has been emitted
            providers.append(logs.get_logger_provider())
        return providers


def _objectives(settings: Settings) -> Objectives | None:
    if not (settings.slo_ttft or settings.slo_itl or settings.slo_total):
        return None
    from llmtrace.calls.objectives import Objectives  # here, since few programs name any

    return Objectives(settings)
