"""The instrumentors that ``opentelemetry-instrument`` finds: one for each client."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

from llmtrace.config import Settings, is_disabled, settings
from llmtrace.instrumentation.clients import TRACING
from llmtrace.instrumentation.patching import Patches
from llmtrace.providers import Client, client_named


class ClientInstrumentor(BaseInstrumentor):
    """Instruments one client library. The classes below say which."""

    client: Client

    def instrumentation_dependencies(self) -> Collection[str]:
        """The client versions that are supported."""
        return (self.client.requirement,)

    def _instrument(self, **kwargs: Any) -> None:
        tracer_provider = kwargs.pop("tracer_provider", None)
        meter_provider = kwargs.pop("meter_provider", None)
        kwargs.pop("skip_dep_check", None)
        kwargs.pop("raise_exception_on_conflict", None)
        configured: Settings = settings(kwargs)
        if not is_disabled():
            TRACING[self.client.name].on(configured, tracer_provider, meter_provider)

    def _uninstrument(self, **kwargs: Any) -> None:
        TRACING[self.client.name].off()

    def unsupported(self) -> str | None:
        """What is wrong with the installed version; None where it is supported."""
        return TRACING[self.client.name].unsupported()

    @property
    def patches(self) -> Patches | None:
        """The wrappers for this client; None while it is not instrumented."""
        return TRACING[self.client.name].patches


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
