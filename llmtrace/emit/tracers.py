"""llmtrace's tracer of a provider, kept while the provider is the same."""

from __future__ import annotations

from opentelemetry.trace import Tracer, TracerProvider

from llmtrace.version import VERSION


class Tracers:
    """Gives the tracer of whichever provider is in force.

    To get one from the SDK makes Python forget which warnings it has shown, and an application's would come again.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: tuple[TracerProvider, Tracer] | None = None

    def of(self, provider: TracerProvider) -> Tracer:
        """The tracer of ``provider``."""
        last = self._last
        if last is None or last[0] is not provider:
            last = self._last = (provider, provider.get_tracer("llmtrace", VERSION))
        return last[1]
