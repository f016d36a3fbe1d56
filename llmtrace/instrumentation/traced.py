"""One client library under way: its engine and its hooks, put in once it is imported."""

from __future__ import annotations

from typing import Any

from llmtrace.calls import finalizers
from llmtrace.calls.engine import Engine
from llmtrace.config import Settings
from llmtrace.instrumentation import shared
from llmtrace.instrumentation.patching import Patches
from llmtrace.providers import Client
from llmtrace.providers.declare import Generate, Provider, Stainless


class Traced:
    """The engine of one client library, and the hooks that its declaration names."""

    def __init__(
        self, patches: Patches, client: Client, settings: Settings, tracer_provider: Any, meter_provider: Any
    ) -> None:
        self._engine = Engine(settings, tracer_provider, meter_provider)
        shared.join(self._engine)
        _hook(patches, self._engine, client.load())

    def close(self) -> None:
        """End what was collected, hand over the metrics, give up the hooks that all share."""
        finalizers.drain()
        shared.leave(self._engine)
        self._engine.flush()


def _hook(patches: Patches, engine: Engine, provider: Provider) -> None:
    for service in provider.services:
        from llmtrace.instrumentation import botocore

        botocore.patch(patches, engine, provider, service)
    for hook in provider.hooks:
        if isinstance(hook, Stainless):
            from llmtrace.instrumentation import stainless

            stainless.patch(patches, engine, provider, hook)
        elif isinstance(hook, Generate):
            from llmtrace.instrumentation import transformers

            transformers.patch(patches, engine, provider, hook)
        else:
            from llmtrace.instrumentation import methods

            methods.patch(patches, engine, provider, hook)
