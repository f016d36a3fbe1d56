"""The instrumentors that ``opentelemetry-instrument`` finds and ``llmtrace.instrument`` uses: one for each client."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.dependencies import DependencyConflict
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

from llmtrace.config import Settings, is_disabled, settings
from llmtrace.instrumentation import process_ends
from llmtrace.instrumentation.patching import Patches
from llmtrace.providers import Client, client_named

if TYPE_CHECKING:
    from llmtrace.instrumentation.traced import Traced

_log = logging.getLogger("llmtrace")


class ClientInstrumentor(BaseInstrumentor):
    """Instruments one client library. The classes below say which."""

    client: Client
    _patches: Patches | None = None
    _traced: Traced | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """The client versions that are supported."""
        return (f"{self.client.distribution} {self.client.versions}",)

    def _instrument(self, **kwargs: Any) -> None:
        tracer_provider = kwargs.pop("tracer_provider", None)
        meter_provider = kwargs.pop("meter_provider", None)
        kwargs.pop("skip_dep_check", None)
        checked: bool = kwargs.pop("supported", False)
        kwargs.pop("raise_exception_on_conflict", None)
        configured: Settings = kwargs.pop("settings", None) or settings(kwargs)
        if is_disabled():
            return
        self._patches = patches = Patches()
        if configured.flush_on_sigterm:
            # Now, not when the client is imported: handlers can be set on the main thread only.
            patches.when_undone(process_ends.take_sigterm())

        def imported(package: Any) -> None:
            if not checked and (conflict := self.unsupported()) is not None:
                # Not a warning: the user of a program can do nothing about it, and the calls may be traced through
                # another client. `llmtrace doctor` reports it.
                _log.debug("%s is not traced: %s", self.client.name, conflict)
                return
            self._traced = install(patches, self.client, configured, tracer_provider, meter_provider)

        patches.when_imported(self.client.package, imported)

    def unsupported(self) -> DependencyConflict | None:
        """What is wrong with the installed version; None where it is supported. Reads the distribution's metadata."""
        return self._check_dependency_conflicts()

    @property
    def patches(self) -> Patches | None:
        """The wrappers for this client; None while it is not instrumented."""
        return self._patches

    def _uninstrument(self, **kwargs: Any) -> None:
        if self._patches is not None:
            self._patches.undo()
        if self._traced is not None:
            self._traced.close()
        self._traced = self._patches = None


def install(patches: Patches, client: Client, *setup: Any) -> Traced:
    """Load the code that traces a client and put its hooks in.

    It is loaded this late to keep other programs' start quick.
    """
    from llmtrace.instrumentation.traced import Traced

    return Traced(patches, client, *setup)


class OpenAIInstrumentor(ClientInstrumentor):
    """Instruments ``openai``."""

    client = client_named("openai")


class BedrockInstrumentor(ClientInstrumentor):
    """Instruments ``bedrock``."""

    client = client_named("bedrock")


class AioBotocoreInstrumentor(ClientInstrumentor):
    """Instruments ``aiobotocore``."""

    client = client_named("aiobotocore")


class CohereInstrumentor(ClientInstrumentor):
    """Instruments ``cohere``."""

    client = client_named("cohere")


class GoogleGenAIInstrumentor(ClientInstrumentor):
    """Instruments ``google-genai``."""

    client = client_named("google-genai")


class OllamaInstrumentor(ClientInstrumentor):
    """Instruments ``ollama``."""

    client = client_named("ollama")


class HuggingFaceInstrumentor(ClientInstrumentor):
    """Instruments ``huggingface``."""

    client = client_named("huggingface")


class LlamaCppInstrumentor(ClientInstrumentor):
    """Instruments ``llama-cpp-python``."""

    client = client_named("llama-cpp-python")


class VLLMInstrumentor(ClientInstrumentor):
    """Instruments ``vllm``."""

    client = client_named("vllm")


class LiteLLMInstrumentor(ClientInstrumentor):
    """Instruments ``litellm``."""

    client = client_named("litellm")


class MistralAIInstrumentor(ClientInstrumentor):
    """Instruments ``mistralai``."""

    client = client_named("mistralai")


class AnthropicInstrumentor(ClientInstrumentor):
    """Instruments ``anthropic``."""

    client = client_named("anthropic")


class GroqInstrumentor(ClientInstrumentor):
    """Instruments ``groq``."""

    client = client_named("groq")


class TogetherInstrumentor(ClientInstrumentor):
    """Instruments ``together``."""

    client = client_named("together")


class CerebrasInstrumentor(ClientInstrumentor):
    """Instruments ``cerebras``."""

    client = client_named("cerebras")


class FireworksInstrumentor(ClientInstrumentor):
    """Instruments ``fireworks``."""

    client = client_named("fireworks")


class TransformersInstrumentor(ClientInstrumentor):
    """Instruments ``transformers``."""

    client = client_named("transformers")


INSTRUMENTORS: dict[str, type[ClientInstrumentor]] = {
    each.client.name: each
    for each in (
        OpenAIInstrumentor,
        BedrockInstrumentor,
        AioBotocoreInstrumentor,
        CohereInstrumentor,
        GoogleGenAIInstrumentor,
        OllamaInstrumentor,
        HuggingFaceInstrumentor,
        LlamaCppInstrumentor,
        VLLMInstrumentor,
        LiteLLMInstrumentor,
        MistralAIInstrumentor,
        AnthropicInstrumentor,
        GroqInstrumentor,
        TogetherInstrumentor,
        CerebrasInstrumentor,
        FireworksInstrumentor,
        TransformersInstrumentor,
    )
}
"""The instrumentors by their client's name."""
