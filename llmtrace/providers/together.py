"""The together client: OpenAI's shape. It reports tokens, no timings."""

from __future__ import annotations

from dataclasses import replace

from llmtrace.providers.chat_completions import CHAT, COMPLETION
from llmtrace.providers.declare import Provider, Stainless
from llmtrace.providers.embeddings import EMBEDDINGS

# Versions before 2.0 are not generated: they have no module of this name, and nothing is patched.
TOGETHER = Provider(
    hooks=(
        Stainless(
            client_module="together._base_client",
            stream_module="together._streaming",
            operations=tuple(
                replace(operation, path=path + operation.path)
                for path in ("", "/v1")
                for operation in (CHAT, COMPLETION, EMBEDDINGS)
            ),
        ),
    ),
    provider_name=lambda client, host: "together_ai",
)
