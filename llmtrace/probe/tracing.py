"""Traces the probe's own calls, marks their spans, and lets the calls that show a route's cost into its baseline."""

from __future__ import annotations

import contextlib
import contextvars
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

from llmtrace.emit.names import PROBE, RTT
from llmtrace.launch import destinations
from llmtrace.launch.configure import meter_provider, span_processor
from llmtrace.launch.destinations import Destination

_BASELINE_ENV = "LLMTRACE_BASELINE_PATH"
_step: contextvars.ContextVar[str] = contextvars.ContextVar("llmtrace-probe-step", default="")


def destination(file: Path | None) -> Destination | None:
    """Where the spans go: a file, an endpoint that is set, a viewer that runs; else nowhere. Nothing is started."""
    if file is not None:
        return destinations.choose(file=file)
    if destinations.is_named(os.environ):
        return destinations.choose()
    return destinations.viewer() if destinations.is_viewer(destinations.VIEWER) else None


class Tracing:
    """Tracing of one client library, for as long as the probe runs."""

    def __init__(self, client: str, target: Destination | None, baseline: Path | None) -> None:
        """``baseline``: the file that the route's baseline is written to; None: ``LLMTRACE_BASELINE_PATH``, if set."""
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider

        named = os.environ.pop(_BASELINE_ENV, None)  # what is not to be learned must not go there
        self.baseline = str(baseline) if baseline is not None else named or None
        self.round_trips: list[float] = []
        """s, of each call."""
        self._client = client
        self._named = named
        resource = Resource.create({"service.name": "llmtrace-probe"})
        self._provider = TracerProvider(resource=resource)
        self.meters = None if target is None else meter_provider(target, resource)
        """Where metrics go; None where they are not taken."""
        self._provider.add_span_processor(_marks(self.round_trips))
        if target is not None:
            self._provider.add_span_processor(span_processor(target))
        self._learns = False
        self._on(learns=False)

    def _on(self, learns: bool) -> None:
        from llmtrace.instrumentation import switch

        if self._client in switch.instrumented():
            switch.uninstrument(self._client)  # and what was learned is saved
        options: dict[str, Any] = {"baseline_path": self.baseline} if learns and self.baseline else {}
        switch.instrument(
            self._client, tracer_provider=self._provider, metrics=False, diagnosis=False, parent="own", **options
        )
        self._learns = learns

    @contextlib.contextmanager
    def step(self, name: str, *, learns: bool) -> Generator[Any]:
        """A span around the calls of one step. ``learns``: they go into the route's baseline."""
        if learns != self._learns:
            self._on(learns)
        mark = _step.set(name)
        try:
            tracer = self._provider.get_tracer("llmtrace")
            with tracer.start_as_current_span(PROBE, attributes={PROBE: name}) as span:
                yield span
        finally:
            _step.reset(mark)

    def close(self) -> None:
        """Save the baseline, send what is left, trace no more."""
        from llmtrace.instrumentation import switch

        switch.uninstrument(self._client)
        self._provider.shutdown()
        if self.meters is not None:
            self.meters.shutdown()
        if self._named is not None:
            os.environ[_BASELINE_ENV] = self._named


def _marks(round_trips: list[float]) -> Any:
    from opentelemetry.sdk.trace import SpanProcessor

    class Marks(SpanProcessor):
        """Marks every span with the step that it belongs to, and keeps what the connection's own clock said."""

        def on_start(self, span: Any, parent_context: Any = None) -> None:
            if step := _step.get():
                span.set_attribute(PROBE, step)

        def on_end(self, span: Any) -> None:
            trip = (span.attributes or {}).get(RTT)
            if isinstance(trip, (int, float)) and trip > 0:
                round_trips.append(float(trip))

    return Marks()
