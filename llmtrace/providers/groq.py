"""The groq client: OpenAI's shape, and its timings in ``usage`` or in ``x_groq`` of a stream's last chunk."""

from __future__ import annotations

from dataclasses import replace

from llmtrace.providers.chat_completions import CHAT
from llmtrace.providers.declare import Provider, Stainless
from llmtrace.providers.embeddings import EMBEDDINGS

GROQ = Provider(
    hooks=(
        Stainless(
            client_module="groq._base_client",
            stream_module="groq._streaming",
            operations=(
                replace(CHAT, path="/openai/v1/chat/completions"),
                replace(EMBEDDINGS, path="/openai/v1/embeddings"),
            ),
        ),
    ),
    provider_name=lambda client, host: "groq",
)
