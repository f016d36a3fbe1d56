"""Joins the events of streams whose messages are lists of blocks: Anthropic's, and Converse's of Bedrock.

Only used where content capture is on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmtrace.providers.content_blocks import content_parts
from llmtrace.providers.parts import parsed_arguments
from llmtrace.providers.safe import count, fields, get, items, text

Block = dict[str, Any]


def message(content: Any, end: str | None, role: str | None = None) -> dict[str, Any]:
    """The message that a content makes."""
    return {"role": role or "assistant", "parts": content_parts(content), "finish_reason": end or "error"}


# ---- Anthropic's -----------------------------------------------------------------------------------------------------

_DELTAS = ("text", "thinking", "content")
"""What a delta adds to the block's field of the same name."""


def blocks_output(answer: Sequence[Any] | Any, streamed: bool) -> list[dict[str, Any]]:
    """The message received, from all events of a stream or from the whole message."""
    if not streamed:
        return [_whole(answer)]
    blocks: dict[int, Block] = {}
    written: dict[int, str] = {}
    completion: list[str] = []
    end: str | None = None
    for event in items(answer):
        opened, delta = get(event, "content_block"), get(event, "delta")
        place = count(get(event, "index")) or 0
        completion.append(text(get(event, "completion")) or "")
        end = text(get(delta, "stop_reason")) or text(get(event, "stop_reason")) or end
        if opened is not None:
            blocks[place] = dict(fields(opened))
        elif delta is not None and get(event, "type") == "content_block_delta":
            block = blocks.setdefault(place, {"type": "thinking" if text(get(delta, "thinking")) else "text"})
            for name in _DELTAS:
                if (more := text(get(delta, name))) is not None:
                    block[name] = (text(block.get(name)) or "") + more
            written[place] = written.get(place, "") + (text(get(delta, "partial_json")) or "")
    for place, arguments in written.items():
        if arguments:
            blocks[place]["input"] = parsed_arguments(arguments)
    content: list[Any] = [block for _, block in sorted(blocks.items())]
    return [message(content or "".join(completion), end)]


def _whole(answer: Any) -> dict[str, Any]:
    content = get(answer, "content")
    if content is None:
        content = text(get(answer, "completion"))  # of the older text completions
    return message(content, text(get(answer, "stop_reason")), text(get(answer, "role")))


# ---- Converse's ------------------------------------------------------------------------------------------------------


def converse_output(documents: Sequence[Any], end: str | None) -> list[dict[str, Any]]:
    """The message received, from a whole response or from all events of a stream."""
    role: str | None = None
    blocks: dict[int, Block] = {}
    for document in documents:
        whole = get(get(document, "output"), "message")
        if whole is not None:
            return [message(get(whole, "content"), end, text(get(whole, "role")))]
        role = text(get(get(document, "messageStart"), "role")) or role
        opened, added = get(document, "contentBlockStart"), get(document, "contentBlockDelta")
        if opened is not None:
            blocks[_place(opened)] = {name: dict(fields(inner)) for name, inner in fields(get(opened, "start")).items()}
        if added is not None:
            _add(blocks.setdefault(_place(added), {}), get(added, "delta"))
    for block in blocks.values():
        if isinstance(arguments := get(block.get("toolUse"), "input"), str):
            block["toolUse"]["input"] = parsed_arguments(arguments)
    return [message([block for _, block in sorted(blocks.items())], end, role)]


def _place(event: Any) -> int:
    return count(get(event, "contentBlockIndex")) or 0


def _add(block: Block, delta: Any) -> None:
    """Add a delta of Converse's to its block."""
    if more := text(get(delta, "text")):
        block["text"] = block.get("text", "") + more
    if (thought := get(delta, "reasoningContent")) is not None:
        inner = block.setdefault("reasoningContent", {}).setdefault("reasoningText", {})
        inner["text"] = inner.get("text", "") + (text(get(thought, "text")) or "")
    if (used := get(delta, "toolUse")) is not None:
        call = block.setdefault("toolUse", {})
        call["input"] = (text(call.get("input")) or "") + (text(get(used, "input")) or "")
    for result in items(get(delta, "toolResult")):
        call = block.setdefault("toolResult", {})
        call["content"] = [*items(call.get("content")), result]


def is_blocks(document: Any) -> bool:
    """Whether an answer or event has Anthropic's shape."""
    return bool(items(get(document, "content"))) or (text(get(document, "type")) or "").startswith("content_block")


def is_converse(document: Any) -> bool:
    """Whether an answer or event has Converse's shape, which Nova's own JSON has too."""
    names = ("messageStart", "contentBlockStart", "contentBlockDelta")
    return get(get(document, "output"), "message") is not None or any(get(document, name) is not None for name in names)
