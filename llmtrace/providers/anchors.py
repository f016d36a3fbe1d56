"""Which moments of a stream come before the prompt is computed, by provider: a first assumption.

The route's own calls correct it (``llmtrace.estimate.anchors``). Where nothing is known, headers are taken to come
before it and the first event after it, which claims the least.
"""

from __future__ import annotations

from llmtrace.providers.declare import Operation

HEADERS_WAIT = frozenset({"llama.cpp", "ollama"})
"""Engines that hold the headers back until there is something to stream, so that an early error has its HTTP status:
llama.cpp's server asks for the first result first, and ollama's first write sends the headers."""


def before_prefill(provider: str, operation: Operation) -> tuple[bool, bool]:
    """Whether the headers, and whether the first event, come before the prompt is computed.

    OpenAI's Responses API sends ``response.created`` at once. vLLM's role chunk comes with the first token, its headers
    before the queue. What Anthropic's ``message_start`` and OpenAI's role chunk wait for is not documented: they are
    believed to wait until data shows otherwise.
    """
    headers = provider not in HEADERS_WAIT
    return headers, headers and operation.announces
