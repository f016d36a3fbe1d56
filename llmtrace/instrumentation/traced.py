"""One traced client library: its tracer and its hooks, put in once it is imported."""

from __future__ import annotations

from typing import Any

from llmtrace.calls import finalizers
from llmtrace.calls.tracer import CallTracer
from llmtrace.config import Settings
from llmtrace.instrumentation import shared
from llmtrace.instrumentation.patching import Patches
from llmtrace.providers import Client
from llmtrace.providers.declare import Conversation, Generate, Provider, Stainless


class Traced:
    """The tracer of one client library, and the hooks that its declaration names."""

    def __init__(
        self, patches: Patches, client: Client, settings: Settings, tracer_provider: Any, meter_provider: Any
    ) -> None:
        self._tracer = CallTracer(settings, tracer_provider, meter_provider)
        shared.join(self._tracer)
        _hook(patches, self._tracer, client.load())

    def close(self) -> None:
        """End the dropped calls, leave the shared hooks, save what was learned of the routes. Calls under way go on."""
        finalizers.settle()
        shared.leave(self._tracer)
        self._tracer.close()


def _hook(patches: Patches, tracer: CallTracer, provider: Provider) -> None:
    for service in provider.services:
        from llmtrace.instrumentation import botocore

        botocore.patch(patches, tracer, provider, service)
    if provider.loads:
        from llmtrace.instrumentation import loads

        loads.patch_downloads(patches)
        for load in provider.loads:
            loads.patch(patches, tracer, provider, load)
    for hook in provider.hooks:
        if isinstance(hook, Stainless):
            from llmtrace.instrumentation import stainless

            stainless.patch(patches, tracer, provider, hook)
        elif isinstance(hook, Generate):
            from llmtrace.instrumentation import transformers

            transformers.patch(patches, tracer, provider, hook)
        elif isinstance(hook, Conversation):
            from llmtrace.instrumentation import conversations

            conversations.patch(patches, tracer, provider, hook)
        else:
            from llmtrace.instrumentation import methods

            methods.patch(patches, tracer, provider, hook)
