"""The fireworks-ai client: OpenAI's shape (and Anthropic's), and its timings in ``perf_metrics`` or in headers."""

from __future__ import annotations

from dataclasses import replace

from llmtrace.providers.anthropic import MESSAGES
from llmtrace.providers.chat_completions import CHAT, COMPLETION
from llmtrace.providers.declare import Provider, Stainless

FIREWORKS = Provider(
    hooks=(
        Stainless(
            client_module="fireworks._base_client",
            stream_module="fireworks._streaming",
            operations=(
                *(replace(operation, path="/v1" + operation.path) for operation in (CHAT, COMPLETION)),
                MESSAGES,
            ),
        ),
    ),
    provider_name=lambda client, host: "fireworks_ai",
)
