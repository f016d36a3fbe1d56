"""First beliefs: what comes before the prompt is computed."""

from __future__ import annotations

import pytest

from llmtrace.providers.anchors import before_prefill
from llmtrace.providers.chat_completions import CHAT
from llmtrace.providers.declare import Operation
from llmtrace.providers.responses import RESPONSES


@pytest.mark.parametrize(
    ("provider", "operation", "headers", "event"),
    [
        ("openai", RESPONSES, True, True),
        ("openai", CHAT, True, False),
        ("vllm", CHAT, True, False),
        ("anthropic", CHAT, True, False),
        ("llama.cpp", CHAT, False, False),
        ("llama.cpp", RESPONSES, False, False),
        ("who-knows", CHAT, True, False),
    ],
)
def test_beliefs(provider: str, operation: Operation, headers: bool, event: bool) -> None:
    assert before_prefill(provider, operation) == (headers, event)
