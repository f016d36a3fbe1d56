"""A request's text in the order in which the model reads it, whatever API it is for. Read, never kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_ORDER = ("system", "system_instruction", "instructions", "messages", "input", "contents", "prompt")
_MOST_LEAVES = 4096


def prompt_texts(params: Mapping[str, Any]) -> Iterator[str]:
    """Names of the tools, then system text, then messages: each string that the model is given."""
    tools = params.get("tools")
    if isinstance(tools, (list, tuple)):
        for tool in tools[:64]:
            if isinstance(tool, Mapping):
                function = tool.get("function", tool)
                name = function.get("name") if isinstance(function, Mapping) else None
                if isinstance(name, str):
                    yield name
    left = [_MOST_LEAVES]
    for field in _ORDER:
        value = params.get(field)
        if value is not None:
            yield from _strings(value, left)


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


def _strings(value: Any, left: list[int]) -> Iterator[str]:
    if isinstance(value, str):
        left[0] -= 1
        yield value
    elif left[0] <= 0:
        return
    elif isinstance(value, Mapping):
        for field, inner in value.items():
            if field not in ("cache_control", "type", "id"):
                yield from _strings(inner, left)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _strings(inner, left)
