"""The blocks that a message's content is made of, of any API, as parts of the GenAI conventions' shape.

OpenAI's, Anthropic's, Mistral's and Cohere's blocks name their type; those of Bedrock's Converse are named by their one
field. No name below means one thing in one API and another in the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmtrace.providers import parts
from llmtrace.providers.parts import Part
from llmtrace.providers.safe import fields, get, items, text

_TEXTS = frozenset({"text", "input_text", "output_text"})
_REASONING = frozenset({"thinking", "reasoning", "reasoning_text", "summary_text"})
_RESULT = "_tool_result"
_SILENT = frozenset({"cachePoint", "cache_point"})
"""Blocks that say something to the provider and nothing to the model."""


def content_parts(content: Any) -> list[Part]:
    """The parts of a message's content: of a text, of a list of texts and blocks, or of a single block."""
    if isinstance(content, str):
        return parts.texts(content)
    blocks = items(content) or ([content] if isinstance(content, Mapping) and content else [])
    return [part for block in blocks for part in block_parts(block)]


def block_parts(block: Any) -> list[Part]:
    """The parts of one block."""
    if isinstance(block, str):
        return parts.texts(block)
    kind = text(get(block, "type"))
    if kind is None or (kind not in _TEXTS and _is_keyed(block)):
        return keyed_parts(block)
    if kind in _TEXTS:
        return parts.texts(get(block, "text"))
    if kind in _REASONING:
        return parts.reasonings(thought(block, kind))
    if kind == "redacted_thinking":
        return [{"type": kind}]
    if kind == "refusal":
        return parts.refusals(get(block, "refusal"))
    if kind == "tool_use":
        return [parts.tool_call(get(block, "id"), get(block, "name"), get(block, "input"))]
    if kind in ("server_tool_use", "mcp_tool_use"):
        return [parts.server_call(get(block, "id"), get(block, "name"), get(block, "input"))]
    if kind == "tool_result":
        return [parts.tool_result(get(block, "tool_use_id"), get(block, "content"))]
    if kind.endswith(_RESULT):
        return [parts.server_result(get(block, "tool_use_id"), kind.removesuffix(_RESULT), get(block, "content"))]
    if kind == "compaction":
        return [{"type": kind, "content": text(get(block, "content"))}]
    return [parts.other(kind, block)]


def drawn(message: Any) -> list[Part]:
    """The images that a gateway puts beside the content of an answer (OpenRouter, LiteLLM), without their data."""
    return [part for image in items(get(message, "images")) if get(image, "type") for part in block_parts(image)]


def thought(block: Any, kind: str) -> str:
    """What was thought: a text, or a list of texts (Mistral's, Databricks' summary)."""
    told = get(block, "thinking") or get(block, kind) or get(block, "text") or get(block, "summary")
    if isinstance(told, str):
        return told
    return "".join(text(get(piece, "text")) or "" for piece in items(told))


# ---- blocks that are named by their field ----------------------------------------------------------------------------

_KEYED = frozenset({"toolUse", "toolResult", "reasoningContent", "guardContent", "citationsContent", "searchResult"})


def _is_keyed(block: Any) -> bool:
    return isinstance(block, Mapping) and not _KEYED.isdisjoint(block)


def keyed_parts(block: Any) -> list[Part]:
    """The parts of a block of Converse's."""
    made: list[Part] = []
    for name, value in fields(block).items():
        if value is None or name in _SILENT or name.startswith("_"):
            continue
        if name == "text":
            made += parts.texts(value)
        elif name == "toolUse":
            made.append(parts.tool_call(get(value, "toolUseId"), get(value, "name"), get(value, "input")))
        elif name == "toolResult":
            made.append(parts.tool_result(get(value, "toolUseId"), get(value, "content")))
        elif name == "reasoningContent":
            thought = parts.reasonings(get(get(value, "reasoningText"), "text"))
            made += thought or [{"type": "redacted_thinking"}]
        elif name == "guardContent":
            guarded = get(value, "text")
            made += parts.texts(get(guarded, "text")) if guarded is not None else [parts.other(name, value)]
        elif name == "citationsContent":
            made += [part for cited in items(get(value, "content")) for part in parts.texts(get(cited, "text"))]
        elif isinstance(value, Mapping):
            made.append(parts.other(name, value))
    return made
