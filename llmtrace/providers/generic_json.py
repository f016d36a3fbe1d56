"""Reads the JSON of many model makers by all their field names, for APIs that pass a model's own JSON through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmtrace.providers.safe import get, items, text

_ALTERNATIVES = ("results", "generations", "completions", "choices", "outputs")
_TEXT_FIELDS = ("text", "outputText", "generation", "completion", "content")
_PROMPT_FIELDS = ("prompt", "inputText", "message")


def alternatives(answer: Any) -> list[Any]:
    """The alternative answers in an answer, which OpenAI calls choices."""
    return [alternative for name in _ALTERNATIVES for alternative in items(get(answer, name))]


def own_text(source: Any) -> str | None:
    """The text that ``source`` itself holds."""
    return next((string for name in _TEXT_FIELDS if (string := text(get(source, name)))), None)


def _all_text(source: Any) -> str:
    """The text in ``source``, its message or delta, the parts of its content and its alternatives."""
    if string := own_text(source):
        return string
    inner = [get(source, "delta"), get(source, "message"), get(get(source, "output"), "message")]
    inner += [get(source, "contentBlockDelta"), *items(get(source, "content")), *alternatives(source)]
    return "".join(_all_text(part) for part in inner if part is not None)


def _message(role: Any, content: str, **more: str) -> dict[str, Any]:
    return {"role": text(role) or "user", "parts": [{"type": "text", "content": content}], **more}


def generic_input(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages sent, or the prompt; only the text of each."""
    messages = items(body.get("messages"))
    if messages:
        return [_message(get(message, "role"), _all_text(message)) for message in messages]
    prompt = next((string for name in _PROMPT_FIELDS if (string := text(body.get(name)))), None)
    return [_message("user", prompt)] if prompt else []


def generic_output(documents: Sequence[Any], reason: str) -> list[dict[str, Any]]:
    """One message with all text of an answer, or of a stream's events."""
    return [_message("assistant", "".join(_all_text(document) for document in documents), finish_reason=reason)]
