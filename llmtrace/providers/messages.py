"""Chat messages in the shape of the GenAI conventions' ``gen_ai.input.messages`` and ``gen_ai.output.messages``.

Only used where content capture is on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmtrace.providers.declare import Request
from llmtrace.providers.read import get, items, text


def chat_input(request: Request) -> list[dict[str, Any]]:
    """The messages sent: ``[{"role": ..., "parts": [...]}, ...]``."""
    return [
        {"role": text(get(message, "role")) or "user", "parts": _parts(message)}
        for message in items(request.params.get("messages"))
    ]


def chat_output(answer: Sequence[Any] | Any, streamed: bool) -> list[dict[str, Any]]:
    """The messages received, from all chunks of a stream or from the whole response."""
    if streamed:
        return _join(items(answer))
    return [
        {
            "role": text(get(get(choice, "message"), "role")) or "assistant",
            "parts": _parts(get(choice, "message")),
            "finish_reason": text(get(choice, "finish_reason")) or "error",
        }
        for choice in items(get(answer, "choices"))
    ]


def _parts(message: Any) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    content = get(message, "content")
    if isinstance(content, str):
        if get(message, "role") == "tool":
            return [{"type": "tool_call_response", "id": get(message, "tool_call_id"), "response": content}]
        parts.append({"type": "text", "content": content})
    for part in items(content):
        written = text(get(part, "text"))
        parts.append({"type": "text", "content": written} if written else {"type": str(get(part, "type"))})
    if reasoning := text(get(message, "reasoning_content")):
        parts.append({"type": "reasoning", "content": reasoning})
    for call in items(get(message, "tool_calls")):
        function = get(call, "function")
        parts.append(
            {
                "type": "tool_call",
                "id": get(call, "id"),
                "name": get(function, "name"),
                "arguments": get(function, "arguments"),
            }
        )
    return parts


def _join(chunks: Sequence[Any]) -> list[dict[str, Any]]:
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for choice in items(get(chunk, "choices")):
            index = get(choice, "index") or 0
            whole = choices.setdefault(
                index, {"role": "assistant", "text": [], "reasoning": [], "calls": {}, "end": ""}
            )
            delta = get(choice, "delta")
            whole["role"] = text(get(delta, "role")) or whole["role"]
            whole["text"].append(text(get(delta, "content")) or "")
            whole["reasoning"].append(text(get(delta, "reasoning_content")) or "")
            whole["end"] = text(get(choice, "finish_reason")) or whole["end"]
            for call in items(get(delta, "tool_calls")):
                function = get(call, "function")
                entry = whole["calls"].setdefault(get(call, "index") or 0, {"id": None, "name": None, "arguments": ""})
                entry["id"] = get(call, "id") or entry["id"]
                entry["name"] = get(function, "name") or entry["name"]
                entry["arguments"] += text(get(function, "arguments")) or ""
    messages: list[dict[str, Any]] = []
    for _, whole in sorted(choices.items()):
        parts: list[dict[str, Any]] = []
        if reasoning := "".join(whole["reasoning"]):
            parts.append({"type": "reasoning", "content": reasoning})
        if written := "".join(whole["text"]):
            parts.append({"type": "text", "content": written})
        parts.extend({"type": "tool_call", **entry} for entry in whole["calls"].values())
        messages.append({"role": whole["role"], "parts": parts, "finish_reason": whole["end"] or "error"})
    return messages
