"""The instrumentors that ``opentelemetry-instrument`` finds, and what ``llmtrace.instrument`` uses itself."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

from llmtrace.config import settings
from llmtrace.instrument import botocore, ends, methods, shared, stainless
from llmtrace.instrument.engine import Engine
from llmtrace.instrument.patching import Patches
from llmtrace.providers import CLIENTS, Client
from llmtrace.providers.declare import Generate, Stainless


class ClientInstrumentor(BaseInstrumentor):
    """Instruments one client library; each has a subclass, made from its line in ``llmtrace.providers``."""

    client: Client
    engine: Engine | None = None
    _patches: Patches | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """The client versions that are supported."""
        return (f"{self.client.distribution} {self.client.versions}",)

    def _instrument(self, **kwargs: Any) -> None:
        tracer_provider = kwargs.pop("tracer_provider", None)
        meter_provider = kwargs.pop("meter_provider", None)
        kwargs.pop("skip_dep_check", None)
        kwargs.pop("raise_exception_on_conflict", None)
        self.engine = engine = Engine(settings(kwargs), tracer_provider, meter_provider)
        self._patches = patches = Patches()
        shared.join(engine)
        patches.when_imported(self.client.package, lambda package: _hook(patches, engine, self.client))

    def _uninstrument(self, **kwargs: Any) -> None:
        if self._patches is not None:
            self._patches.undo()
        ends.drain()
        if self.engine is not None:
            shared.leave(self.engine)
            self.engine.flush()
        self.engine = self._patches = None


def _hook(patches: Patches, engine: Engine, client: Client) -> None:
    provider = client.load()
    for service in provider.services:
        botocore.patch(patches, engine, provider, service)
    for hook in provider.hooks:
        if isinstance(hook, Stainless):
            stainless.patch(patches, engine, provider, hook)
        elif isinstance(hook, Generate):
            from llmtrace.instrument import transformers

            transformers.patch(patches, engine, provider, hook)
        else:
            methods.patch(patches, engine, provider, hook)


def _instrumentor(client: Client) -> type[ClientInstrumentor]:
    doc = f"Instruments ``{client.name}``."
    return type(f"{client.title}Instrumentor", (ClientInstrumentor,), {"__doc__": doc, "client": client})


INSTRUMENTORS: dict[str, type[ClientInstrumentor]] = {client.name: _instrumentor(client) for client in CLIENTS}
globals().update((made.__name__, made) for made in INSTRUMENTORS.values())  # for the entry points
