"""What else in a request changes how long its prompt takes: images and sound in it, and the ways in which it is asked.

Read, never kept: counts and short words only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_MEDIA_TYPES = frozenset(
    {"image_url", "input_image", "image", "input_audio", "audio", "audio_url", "video_url", "video", "document"}
    | {"input_file", "file"}
)
_MEDIA_FIELDS = ("inline_data", "inlineData", "file_data", "fileData", "image", "video", "document", "audio")
"""Of APIs whose parts have no type: the field itself says it."""
_MOST = 256
"""Parts looked at."""
_WAYS = frozenset(
    {"service_tier", "reasoning_effort", "reasoning", "thinking", "response_format", "text", "tools", "adapter_id"}
    | {"lora"}
)
"""The parameters that ``variant`` looks at."""


def media(params: Mapping[str, Any], last_only: bool = False) -> tuple[int, int]:
    """How many images, recordings and files the prompt holds, and how many characters of it are theirs.

    ``last_only``: only those of the last message; what came before is in the provider's cache.
    """
    messages: Any = params.get("messages") or params.get("contents") or params.get("input")
    if not isinstance(messages, (list, tuple)):
        return 0, 0
    count = size = looked = 0
    number = len(messages)
    for at, message in enumerate(messages):
        if type(message) is not dict and not isinstance(message, Mapping):  # the second alone takes long
            continue
        content: Any = message.get("content", message.get("parts"))
        images: Any = message.get("images")
        parts: Sequence[Any] = content if isinstance(content, (list, tuple)) else ()
        counts = not last_only or at == number - 1
        if isinstance(images, (list, tuple)):
            count += len(images) * counts
            size += sum(len(image) for image in images[:_MOST] if isinstance(image, str))
        for part in parts:
            looked += 1
            if looked > _MOST:
                return count, size
            if isinstance(part, Mapping) and _is_media(part):
                count += counts
                size += _longest(part)
    return count, size


def _is_media(part: Mapping[Any, Any]) -> bool:
    kind = part.get("type")
    return kind in _MEDIA_TYPES if isinstance(kind, str) else any(name in part for name in _MEDIA_FIELDS)


def _longest(part: Mapping[Any, Any]) -> int:
    """Characters of the longest text in a part, which is the data or where it lies."""
    longest = 0
    for value in part.values():
        for text in value.values() if isinstance(value, Mapping) else (value,):
            if isinstance(text, str):
                longest = max(longest, len(text))
    return longest


def variant(params: Mapping[str, Any]) -> tuple[str, ...]:
    """The ways of asking that make a call another kind of call: service tier, reasoning effort, the answer's format,
    tools, adapter. Empty for a plain call."""
    if _WAYS.isdisjoint(params):
        return ()
    found: list[str] = []
    tier = params.get("service_tier")
    if isinstance(tier, str) and tier not in ("auto", "default"):
        found.append(f"tier={tier[:32]}")
    effort = params.get("reasoning_effort")
    for name in ("reasoning", "thinking"):
        if effort is None and isinstance(inner := params.get(name), Mapping):
            effort = inner.get("effort", inner.get("type"))
    if isinstance(effort, str):
        found.append(f"effort={effort[:32]}")
    shape = params.get("response_format")
    if shape is None and isinstance(text := params.get("text"), Mapping):
        shape = text.get("format")
    if isinstance(shape, Mapping):
        shape = shape.get("type")
    if isinstance(shape, str) and shape != "text":
        found.append(f"format={shape[:32]}")
    if params.get("tools"):
        found.append("tools")
    for name in ("adapter_id", "lora"):
        if isinstance(adapter := params.get(name), (str, int)):
            found.append(f"adapter={str(adapter)[:64]}")
    return tuple(found)
