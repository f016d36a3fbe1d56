"""The instrumentors that ``opentelemetry-instrument`` finds, and what ``llmtrace.instrument`` uses itself."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

from llmtrace.config import settings
from llmtrace.instrument import ends, http, lifecycle, stainless
from llmtrace.instrument.engine import Engine
from llmtrace.instrument.patching import Patches
from llmtrace.providers.declare import Provider
from llmtrace.providers.openai import OPENAI


class ClientInstrumentor(BaseInstrumentor):
    """Instruments the client library that ``provider`` declares; one subclass, of one line, per provider."""

    provider: Provider
    engine: Engine | None = None
    _patches: Patches | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """The client versions that are supported."""
        return (self.provider.versions,)

    def _instrument(self, **kwargs: Any) -> None:
        tracer_provider = kwargs.pop("tracer_provider", None)
        meter_provider = kwargs.pop("meter_provider", None)
        kwargs.pop("skip_dep_check", None)
        kwargs.pop("raise_exception_on_conflict", None)
        self.engine = Engine(settings(kwargs), tracer_provider, meter_provider)
        self._patches = Patches()
        http.patch(self._patches, self.engine)
        stainless.patch(self._patches, self.engine, self.provider)
        lifecycle.patch(self._patches, self.engine)

    def _uninstrument(self, **kwargs: Any) -> None:
        if self._patches is not None:
            self._patches.undo()
        ends.drain()
        if self.engine is not None:
            self.engine.flush()
        self.engine = self._patches = None


class OpenAIInstrumentor(ClientInstrumentor):
    """Instruments ``openai``."""

    provider = OPENAI


INSTRUMENTORS: dict[str, type[ClientInstrumentor]] = {cls.provider.name: cls for cls in (OpenAIInstrumentor,)}
