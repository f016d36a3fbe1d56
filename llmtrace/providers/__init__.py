"""The client libraries that are traced: one line for each here, one small declaration for each beside this file.

This file imports no declaration: a declaration is loaded when its client library is imported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from llmtrace.providers.declare import Provider


class Client(NamedTuple):
    """One client library."""

    name: str
    """The name in ``llmtrace.instrument(name)``; also the extra that installs it."""
    title: str
    """Its instrumentor is ``{title}Instrumentor``."""
    distribution: str
    versions: str
    """The versions supported, as a requirement specifier's end: ``>= 1.40``."""
    package: str
    """The package that an application imports; the declaration is loaded once it does."""
    declaration: str
    """``module:NAME``, beneath ``llmtrace.providers``."""

    @property
    def requirement(self) -> str:
        """The distribution and its supported versions, as a package requires them."""
        return f"{self.distribution} {self.versions}"

    def load(self) -> Provider:
        """Import the declaration and return it."""
        module, _, name = self.declaration.partition(":")
        return getattr(importlib.import_module(f"{__name__}.{module}"), name)


CLIENTS: tuple[Client, ...] = (
    Client("openai", "OpenAI", "openai", ">= 1.40", "openai", "openai:OPENAI"),
    Client("bedrock", "Bedrock", "boto3", ">= 1.34.116", "botocore", "bedrock:BEDROCK"),
    Client("aiobotocore", "AioBotocore", "aiobotocore", ">= 2.13.1", "aiobotocore", "bedrock:AIOBOTOCORE"),
    Client("cohere", "Cohere", "cohere", ">= 5.16", "cohere", "cohere:COHERE"),
    Client("google-genai", "GoogleGenAI", "google-genai", ">= 1.10", "google.genai", "google:GOOGLE_GENAI"),
    Client("ollama", "Ollama", "ollama", ">= 0.4", "ollama", "ollama:OLLAMA"),
    Client("huggingface", "HuggingFace", "huggingface_hub", ">= 1.0", "huggingface_hub", "huggingface:HUGGINGFACE"),
    Client("llama-cpp-python", "LlamaCpp", "llama-cpp-python", ">= 0.3", "llama_cpp", "llama_cpp:LLAMA_CPP"),
    Client("vllm", "VLLM", "vllm", ">= 0.11", "vllm", "vllm:VLLM"),
    Client("litellm", "LiteLLM", "litellm", ">= 1.82", "litellm", "litellm:LITELLM"),
    Client("mistralai", "MistralAI", "mistralai", ">= 1.5", "mistralai", "mistralai:MISTRALAI"),
    Client("anthropic", "Anthropic", "anthropic", ">= 0.40", "anthropic", "anthropic:ANTHROPIC"),
    Client("groq", "Groq", "groq", ">= 0.9", "groq", "groq:GROQ"),
    Client("together", "Together", "together", ">= 2.0", "together", "together:TOGETHER"),
    Client("cerebras", "Cerebras", "cerebras-cloud-sdk", ">= 1.5", "cerebras.cloud.sdk", "cerebras:CEREBRAS"),
    Client("fireworks", "Fireworks", "fireworks-ai", ">= 1.2", "fireworks", "fireworks:FIREWORKS"),
    Client("transformers", "Transformers", "transformers", ">= 4.51", "transformers", "transformers:TRANSFORMERS"),
)


def client_named(name: str) -> Client:
    """The client library of that name.

    Raises:
        KeyError: there is none.
    """
    return _BY_NAME[name]


_BY_NAME = {client.name: client for client in CLIENTS}
