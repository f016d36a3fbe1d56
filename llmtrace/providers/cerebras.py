"""The cerebras-cloud-sdk client: OpenAI's shape, and its timings in ``time_info``."""

from __future__ import annotations

from dataclasses import replace

from llmtrace.providers.chat_completions import CHAT, COMPLETION
from llmtrace.providers.declare import Provider, Stainless

CEREBRAS = Provider(
    hooks=(
        Stainless(
            client_module="cerebras.cloud.sdk._base_client",
            stream_module="cerebras.cloud.sdk._streaming",
            operations=tuple(replace(operation, path="/v1" + operation.path) for operation in (CHAT, COMPLETION)),
        ),
    ),
    provider_name=lambda client, host: "cerebras",
)
