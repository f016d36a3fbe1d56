"""The items of OpenAI's Responses API, sent and received, as messages of the GenAI conventions' shape.

Only used where content capture is on. Field names: openai-python's ``types/responses``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmtrace.providers import parts
from llmtrace.providers.content_blocks import content_parts
from llmtrace.providers.declare import Request
from llmtrace.providers.messages import user_message
from llmtrace.providers.parts import Part
from llmtrace.providers.safe import count, fields, get, items, text

_CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
"""Items in which the model calls a tool of the application's, and where its arguments are."""
_RUNS = {
    "code_interpreter_call": "code",
    "file_search_call": "queries",
    "web_search_call": "action",
    "mcp_call": "arguments",
}
"""Items in which the provider ran a tool, and where its arguments are."""
_OUTPUTS = {"code_interpreter_call": "outputs", "file_search_call": "results", "mcp_call": "output"}
_OUTPUT = "_output"
_OF_THE_ITEM = frozenset({"type", "id", "call_id", "status", "output", "execution", "created_by"})
"""Fields of an output that are no part of what the tool gave."""


def input_messages(request: Request) -> list[dict[str, Any]]:
    """The input sent, as messages."""
    prompt = request.params.get("input")
    if isinstance(prompt, str):
        return user_message(prompt)
    return [{"role": _role(item), "parts": item_parts(item)} for item in items(prompt)]


def whole_message(output: Sequence[Any], end: str) -> dict[str, Any]:
    """The message that the items of an output make."""
    return {"role": "assistant", "parts": [part for item in output for part in item_parts(item)], "finish_reason": end}


def _role(item: Any) -> str:
    if role := text(get(item, "role")):
        return role
    kind = text(get(item, "type")) or "message"
    if kind.endswith(_OUTPUT):
        return "tool"
    return "user" if kind in ("message", "item_reference") else "assistant"


def item_parts(item: Any) -> list[Part]:
    """The parts of one item."""
    kind = text(get(item, "type")) or "message"
    if kind == "message":
        return content_parts(get(item, "content"))
    if kind in _CALLS:
        return [parts.tool_call(get(item, "call_id"), get(item, "name"), get(item, _CALLS[kind]))]
    if kind.endswith(_OUTPUT):
        return [parts.tool_result(get(item, "call_id"), _given(item))]
    if kind == "reasoning":
        blocks = [*items(get(item, "summary")), *items(get(item, "content"))]
        return [part for block in blocks for part in parts.reasonings(get(block, "text"))]
    if kind in _RUNS:
        name = text(get(item, "name")) or kind.removesuffix("_call")
        made = [parts.server_call(get(item, "id"), name, get(item, _RUNS[kind]))]
        if (outcome := get(item, _OUTPUTS.get(kind, ""))) is not None:
            made.append(parts.server_result(get(item, "id"), name, outcome))
        return made
    if kind == "image_generation_call":
        return [parts.server_call(get(item, "id"), "image_generation", None)]  # the result is the image
    if kind == "compaction":
        return [{"type": kind, "id": text(get(item, "id"))}]
    return [parts.other(kind, item)]


def _given(item: Any) -> Any:
    """What a tool gave: the output, or (a search for tools) the fields that stand in its place."""
    output = get(item, "output")
    if output is not None:
        return output
    given = {name: value for name, value in fields(item).items() if value is not None and name not in _OF_THE_ITEM}
    return given or None


# ---- a stream whose last state does not hold the whole output --------------------------------------------------------

_TEXTS = {
    "response.output_text.delta": ("content", "output_text", "text"),
    "response.refusal.delta": ("content", "refusal", "refusal"),
    "response.reasoning_summary_text.delta": ("summary", "summary_text", "text"),
    "response.reasoning_text.delta": ("content", "reasoning_text", "text"),
}
"""The deltas of text: the item's list that they belong to, the type of the block in it, and the block's field."""
_ARGUMENTS = {
    "response.function_call_arguments.delta": "arguments",
    "response.mcp_call_arguments.delta": "arguments",
    "response.custom_tool_call_input.delta": "input",
    "response.code_interpreter_call_code.delta": "code",
}


def streamed_items(events: Sequence[Any]) -> list[Any]:
    """The items of an output as far as the events of a stream brought them."""
    made: dict[int, dict[str, Any]] = {}
    blocks: dict[tuple[int, str, int], dict[str, Any]] = {}
    for event in events:
        kind = text(get(event, "type")) or ""
        place = count(get(event, "output_index")) or 0
        if kind in ("response.output_item.added", "response.output_item.done"):
            made[place] = dict(fields(get(event, "item")))
        elif kind in _TEXTS:
            where, block_type, name = _TEXTS[kind]
            item = made.setdefault(place, {"type": "message"})
            index = count(get(event, "content_index" if where == "content" else "summary_index")) or 0
            block = blocks.get((place, where, index))
            if block is None:
                block = blocks[place, where, index] = {"type": block_type, name: ""}
                item[where] = [*items(item.get(where)), block]
            block[name] += text(get(event, "delta")) or ""
        elif kind in _ARGUMENTS and place in made:
            name = _ARGUMENTS[kind]
            made[place][name] = (text(made[place].get(name)) or "") + (text(get(event, "delta")) or "")
    return [item for _, item in sorted(made.items())]
