"""Messages in the shape of the GenAI conventions' ``gen_ai.input.messages`` and ``gen_ai.output.messages``.

Only used where content capture is on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmtrace.providers.declare import Request
from llmtrace.providers.safe import get, items, text


def instructions(system: Any) -> list[dict[str, Any]]:
    """System instructions as parts of a message, from a text or from a list of texts and text blocks."""
    blocks = [system] if isinstance(system, str) else items(system)
    texts = (block if isinstance(block, str) else text(get(block, "text")) for block in blocks)
    return [{"type": "text", "content": string} for string in texts if string]


def system_text(request: Request) -> list[dict[str, Any]]:
    """The field ``system`` of a request, as parts."""
    return instructions(request.params.get("system"))


def tool_definitions(request: Request) -> list[dict[str, Any]]:
    """The tools of a request's ``tools`` or, in OpenAI's older API, ``functions``."""
    params = request.params
    return [tool(definition) for definition in (*items(params.get("tools")), *items(params.get("functions")))]


def tool(definition: Any) -> dict[str, Any]:
    """The type and name of a tool of any API; description and parameters are left out, as the conventions advise.

    The name may lie beside the type, or in an object named after it. A tool that a provider has built in may have no
    name but its type.
    """
    kind = text(get(definition, "type")) or "function"
    name = text(get(definition, "name")) or text(get(get(definition, kind), "name"))
    return {"type": kind, "name": name or text(getattr(definition, "__name__", None)) or kind}


def chat_input(request: Request) -> list[dict[str, Any]]:
    """The messages sent: ``[{"role": ..., "parts": [...]}, ...]``."""
    return [
        {"role": text(get(message, "role")) or "user", "parts": _parts(message)}
        for message in items(request.params.get("messages"))
    ]


def prompt_input(request: Request) -> list[dict[str, Any]]:
    """The prompts of a text completion, as messages."""
    prompt = request.params.get("prompt")
    prompts = [prompt] if isinstance(prompt, str) else items(prompt)
    return [
        {"role": "user", "parts": [{"type": "text", "content": string}]}
        for string in prompts
        if isinstance(string, str)
    ]


def chat_output(answer: Sequence[Any] | Any, streamed: bool) -> list[dict[str, Any]]:
    """The messages received, from all chunks of a stream or from the whole response."""
    if streamed:
        return _join(items(answer))
    return [
        {
            "role": text(get(get(choice, "message"), "role")) or "assistant",
            "parts": _parts(get(choice, "message")) or _text(choice),
            "finish_reason": text(get(choice, "finish_reason")) or "error",
        }
        for choice in items(get(answer, "choices"))
    ]


def _text(choice: Any) -> list[dict[str, Any]]:
    """The text of a text completion's choice, as parts of a message."""
    return [{"type": "text", "content": written}] if (written := text(get(choice, "text"))) else []


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
            whole["text"].append(text(get(delta, "content")) or text(get(choice, "text")) or "")
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


# ---- Anthropic's shape: a message is a list of typed blocks ----------------------------------------------------------


def blocks_input(request: Request) -> list[dict[str, Any]]:
    """The messages sent."""
    messages = [
        (text(get(message, "role")) or "user", get(message, "content"))
        for message in items(request.params.get("messages"))
    ]
    if prompt := text(request.params.get("prompt")):
        messages.append(("user", prompt))
    return [{"role": role, "parts": _blocks(content)} for role, content in messages]


def blocks_output(answer: Sequence[Any] | Any, streamed: bool) -> list[dict[str, Any]]:
    """The message received, from all events of a stream or from the whole message."""
    content: Any = get(answer, "content")
    end = text(get(answer, "stop_reason"))
    if streamed:
        built: dict[int, dict[str, Any]] = {}
        for event in items(answer):
            block, delta = get(event, "content_block"), get(event, "delta")
            if block is not None:
                block_fields = ("type", "text", "thinking", "id", "name", "content", "tool_use_id")
                built[get(event, "index") or 0] = {name: get(block, name) for name in block_fields} | {"input": ""}
            end = text(get(delta, "stop_reason")) or end
            whole = built.get(get(event, "index") or 0) if get(event, "type") == "content_block_delta" else None
            if whole is not None:
                for delta_field, name in (("text", "text"), ("thinking", "thinking"), ("partial_json", "input")):
                    whole[name] = (whole.get(name) or "") + (text(get(delta, delta_field)) or "")
        content = [block for _, block in sorted(built.items())]
    return [{"role": "assistant", "parts": _blocks(content), "finish_reason": end or "error"}]


def _blocks(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "content": content}]
    return [_block(block) for block in items(content)]


def _block(block: Any) -> dict[str, Any]:
    kind = get(block, "type")
    if kind == "text":
        return {"type": "text", "content": get(block, "text")}
    if kind == "thinking":
        return {"type": "reasoning", "content": get(block, "thinking")}
    if kind == "server_tool_use":
        name = text(get(block, "name")) or "unknown"
        call = {"type": name, "arguments": get(block, "input")}
        return {"type": "server_tool_call", "id": get(block, "id"), "name": name, "server_tool_call": call}
    if kind == "tool_use":
        return {
            "type": "tool_call",
            "id": get(block, "id"),
            "name": get(block, "name"),
            "arguments": get(block, "input"),
        }
    if kind == "tool_result":
        return {"type": "tool_call_response", "id": get(block, "tool_use_id"), "response": get(block, "content")}
    return {"type": str(kind)}
