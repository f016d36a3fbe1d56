"""The openai client: its operations, and the provider whose API it really talks to.

Provider names: the OpenTelemetry GenAI conventions' list, and names of the same kind for those that it has not.
"""

from __future__ import annotations

import re
from typing import Any

from llmtrace.providers.chat_completions import CHAT, COMPLETION
from llmtrace.providers.declare import Platform, Provider, Stainless, platform_of
from llmtrace.providers.embeddings import EMBEDDINGS
from llmtrace.providers.openai_media import MEDIA
from llmtrace.providers.openai_realtime import CONVERSATIONS
from llmtrace.providers.responses import RESPONSES

_HOSTS = {
    "api.openai.com": "openai",
    "openai.azure.com": "azure.ai.openai",
    "cognitiveservices.azure.com": "azure.ai.openai",
    "services.ai.azure.com": "azure.ai.inference",
    "models.inference.ai.azure.com": "azure.ai.inference",
    "api.groq.com": "groq",
    "api.together.xyz": "together_ai",
    "api.together.ai": "together_ai",
    "api.fireworks.ai": "fireworks_ai",
    "api.cerebras.ai": "cerebras",
    "api.sambanova.ai": "sambanova",
    "api.deepseek.com": "deepseek",
    "api.x.ai": "x_ai",
    "api.moonshot.ai": "moonshot_ai",
    "api.moonshot.cn": "moonshot_ai",
    "api.perplexity.ai": "perplexity",
    "api.mistral.ai": "mistral_ai",
    "api.anthropic.com": "anthropic",
    "api.cohere.com": "cohere",
    "api.cohere.ai": "cohere",
    "openrouter.ai": "openrouter",
    "api.deepinfra.com": "deepinfra",
    "router.huggingface.co": "huggingface",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "aiplatform.googleapis.com": "gcp.vertex_ai",
}
_BEDROCK = r"bedrock-(runtime|mantle)\..*(amazonaws\.com|api\.aws)"  # compiled when it is first used, as all here

_PLATFORMS = (
    Platform("azure.ai.openai", "openai.lib.azure", ("AzureOpenAI", "AsyncAzureOpenAI")),
    Platform("aws.bedrock", "openai.lib.bedrock", ("BedrockOpenAI", "AsyncBedrockOpenAI")),
)

_ENGINES = {"vllm": "vllm", "sglang": "sglang", "llama": "llama.cpp", "lmstudio": "lm_studio", "ollama": "ollama"}
"""Engines that people run themselves, by a word in the host's name."""
_PORTS = {8000: "vllm", 8080: "llama.cpp", 30000: "sglang", 1234: "lm_studio", 11434: "ollama"}
"""Their default ports; only looked at for this machine and private hosts."""
_PRIVATE = (
    r"localhost$|127\.|10\.|192\.168\.|172\.(1[6-9]|2\d|3[01])\.|\[?::1|[^.]+$|.*\.(local|internal|lan|localhost|svc)$"
)


def provider_of(host: str) -> str | None:
    """The known provider whose API ``host`` serves, None for other hosts."""
    for suffix, name in _HOSTS.items():
        if host == suffix or host.endswith("." + suffix):
            return name
    if host.endswith("-aiplatform.googleapis.com"):
        return "gcp.vertex_ai"
    return "aws.bedrock" if re.match(_BEDROCK, host) else None


def provider_name(client: Any, host: str | None) -> str:
    """The platform that the client is for (Azure, Bedrock), the known provider of a known host, else a public host.

    For a private host it is the engine that a word of the host's name or the usual port shows, else ``openai``, whose
    API it is; also ``openai`` where the host is not known.
    """
    if platform := platform_of(client, _PLATFORMS):
        return platform
    if host is None:
        return "openai"
    if known := provider_of(host):
        return known
    for word in re.split(r"[^a-z]+", host):
        if word in _ENGINES:
            return _ENGINES[word]
    if not re.match(_PRIVATE, host):
        return host
    return _PORTS.get(getattr(getattr(client, "_base_url", None), "port", None) or 0, "openai")


OPENAI = Provider(
    hooks=(
        Stainless(
            client_module="openai._base_client",
            stream_module="openai._streaming",
            operations=(CHAT, RESPONSES, COMPLETION, EMBEDDINGS, *MEDIA),
        ),
        *CONVERSATIONS,
    ),
    provider_name=provider_name,
)
