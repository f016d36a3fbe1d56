"""The text of a request of any API, in the order in which the model reads it. The text is read and never kept."""

from __future__ import annotations

import json
import marshal
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from llmtrace.providers.safe import fields, is_model

_ORDER = ("system", "system_instruction", "instructions", "messages", "input", "contents", "prompt")
_MOST_LEAVES = 4096
_MOST_TOOLS = 128
_MOST_NAME = 64
_NO_TEXT = frozenset({"cache_control", "type", "id"})
_END_OF_TOOLS = "]"
"""So that a prompt with fewer tools is told from one whose messages changed."""


def prompt_texts(params: Mapping[str, Any], of_tool: Callable[[Mapping[str, Any]], str] | None = None) -> list[str]:
    """Everything that the model is given: a text for each tool and one for their end, then every string of the system's
    text and the messages. Empty where none of it can be read.

    ``of_tool``: a tool's text; by default one that tells it from others (``tool_packed``).
    """
    texts = [*map(of_tool or tool_packed, _tools(params)), _END_OF_TOOLS]
    most = len(texts) + _MOST_LEAVES
    for field in _ORDER:
        value = params.get(field)
        if value is not None:
            _strings(value, texts, most)
    return texts if len(texts) > 1 else []


def _tools(params: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    tools = params.get("tools")
    if tools is None and isinstance(config := params.get("toolConfig", params.get("config")), Mapping):
        tools = config.get("tools")
    if not isinstance(tools, (list, tuple)):
        return []
    return [tool for tool in tools[:_MOST_TOOLS] if isinstance(tool, Mapping)]


_PLAIN: Final = 2
"""The version of ``marshal``'s format in which equal values are equal bytes: later ones tell shared objects too."""


def tool_packed(tool: Mapping[str, Any]) -> str:
    """A tool's whole definition, for hashes alone: another text wherever a value, a type or the order is another.

    Agents send the same tools with each call, and this takes a quarter of the time of ``tool_definition``.
    """
    plain: Any = _without_cache_control(tool)
    try:
        return marshal.dumps(plain, _PLAIN).decode("latin-1")
    except ValueError:  # something of a class's, or too deep: JSON has its own ways with it
        return tool_definition(tool)


def tool_definition(tool: Mapping[str, Any]) -> str:
    """A tool with its description and its schema, as the model is given it."""
    try:
        return _as_json(_without_cache_control(tool))
    except (ValueError, RecursionError):
        return tool_name(tool)


def _without_cache_control(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where a cache may end is no part of a tool."""
    if "cache_control" not in tool:
        return tool
    return {field: value for field, value in tool.items() if field != "cache_control"}


def _no_json(value: Any) -> str:
    """What stands for an object of a class: its own text may have an address in it."""
    return type(value).__name__


_as_json: Final = json.JSONEncoder(default=_no_json, skipkeys=True).encode
"""Made once: ``json.dumps`` makes one for each tool of each call, which takes as long as its text."""


def tool_name(tool: Mapping[str, Any]) -> str:
    """A tool's name, the same in every provider's way of defining it; else its type."""
    inner = next((each for name in ("function", "toolSpec") if isinstance(each := tool.get(name), Mapping)), tool)
    name = inner.get("name", tool.get("type"))
    return name[:_MOST_NAME] if isinstance(name, str) else ""


def place_of(params: Mapping[str, Any], number: int) -> tuple[str, bool]:
    """Where the text with that ``number`` in ``prompt_texts`` stands: ``system``, ``messages[3]``, ``tools[2] search``
    with a tool's name, or ``tools`` for their end; and whether that is among the tools."""
    tools = _tools(params)
    if number < len(tools):
        return f"tools[{number}] {tool_name(tools[number])}".rstrip(), True
    left = number - len(tools) - 1
    if left < 0:
        return "tools", True
    for field in _ORDER:
        value = params.get(field)
        items: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value]
        for place, item in enumerate(items):
            texts: list[str] = []
            if item is not None:
                _strings(item, texts, _MOST_LEAVES)
            left -= len(texts)
            if left < 0:
                return (f"{field}[{place}]" if isinstance(value, (list, tuple)) else field), False
    return "end", False


def asks_for_caching(params: Mapping[str, Any]) -> bool:
    """Whether any block carries Anthropic's ``cache_control``."""
    if "cache_control" in params:
        return True
    for field in ("tools", "system", "messages"):
        for item in _dicts(params.get(field)):
            if "cache_control" in item or any("cache_control" in part for part in _dicts(item.get("content"))):
                return True
    return False


def _dicts(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, (list, tuple)):
        for item in value:
            if isinstance(item, Mapping):
                yield item


def _strings(value: Any, texts: list[str], most: int) -> None:
    """Add the strings in ``value`` to ``texts``, until that has ``most``."""
    if isinstance(value, str):
        texts.append(value)
    elif len(texts) >= most:
        return
    elif isinstance(value, (list, tuple)):
        if value and isinstance(value[0], int):
            return  # token ids, perhaps a hundred thousand
        for inner in value:
            _strings(inner, texts, most)
    elif type(value) is dict or isinstance(value, Mapping):  # the second alone takes long
        for field, inner in value.items():
            if field in _NO_TEXT:
                continue
            if type(inner) is str:
                texts.append(inner)
            else:
                _strings(inner, texts, most)
    elif value is not None and is_model(value):  # an answer's message, handed back as it came
        _strings(fields(value), texts, most)
