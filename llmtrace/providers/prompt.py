"""The text of a request of any API, in the order in which the model reads it. The text is read and never kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_ORDER = ("system", "system_instruction", "instructions", "messages", "input", "contents", "prompt")
_MOST_LEAVES = 4096
_NO_TEXT = frozenset({"cache_control", "type", "id"})


def prompt_texts(params: Mapping[str, Any]) -> list[str]:
    """Every string that the model is given: names of the tools, then system text, then messages."""
    texts = _tool_names(params)
    most = len(texts) + _MOST_LEAVES
    for field in _ORDER:
        value = params.get(field)
        if value is not None:
            _strings(value, texts, most)
    return texts


def _tool_names(params: Mapping[str, Any]) -> list[str]:
    names: list[str] = []
    tools = params.get("tools")
    if isinstance(tools, (list, tuple)):
        for tool in tools[:64]:
            if isinstance(tool, Mapping):
                function = tool.get("function", tool)
                name = function.get("name") if isinstance(function, Mapping) else None
                if isinstance(name, str):
                    names.append(name)
    return names


def place_of(params: Mapping[str, Any], number: int) -> str:
    """Where the text with that ``number`` in ``prompt_texts`` stands: ``tools[2]``, ``system`` or ``messages[3]``."""
    left = number - len(_tool_names(params))
    if left < 0:
        return f"tools[{number}]"
    for field in _ORDER:
        value = params.get(field)
        items: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value]
        for place, item in enumerate(items):
            texts: list[str] = []
            if item is not None:
                _strings(item, texts, _MOST_LEAVES)
            left -= len(texts)
            if left < 0:
                return f"{field}[{place}]" if isinstance(value, (list, tuple)) else field
    return "end"


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
