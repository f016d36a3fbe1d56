"""JSON of many makers, read by the names that they use for one thing: for APIs that hand a model's own through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmtrace.providers.safe import get, items, text

_ALTERNATIVES = ("results", "generations", "completions", "choices", "outputs")
_WRITTEN = ("text", "outputText", "generation", "completion", "content")
_PROMPTS = ("prompt", "inputText", "message")


def alternatives(answer: Any) -> list[Any]:
    """The answers in an answer: what is otherwise called choices."""
    return [each for name in _ALTERNATIVES for each in items(get(answer, name))]


def written(source: Any) -> str | None:
    """The text that ``source`` itself holds."""
    return next((found for name in _WRITTEN if (found := text(get(source, name)))), None)


def _all_written(source: Any) -> str:
    """The text in ``source``, its message or delta, the parts of its content and its alternatives."""
    if found := written(source):
        return found
    inner = [get(source, "delta"), get(source, "message"), get(get(source, "output"), "message")]
    inner += [get(source, "contentBlockDelta"), *items(get(source, "content")), *alternatives(source)]
    return "".join(_all_written(each) for each in inner if each is not None)


def _message(role: Any, content: str, **more: str) -> dict[str, Any]:
    return {"role": text(role) or "user", "parts": [{"type": "text", "content": content}], **more}


def loose_input(sent: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages sent, or the prompt; of each only its text."""
    messages = items(sent.get("messages"))
    if messages:
        return [_message(get(each, "role"), _all_written(each)) for each in messages]
    prompt = next((found for name in _PROMPTS if (found := text(sent.get(name)))), None)
    return [_message("user", prompt)] if prompt else []


def loose_output(said: Sequence[Any], reason: str) -> list[dict[str, Any]]:
    """One message of all text in an answer, or in a stream's events."""
    return [_message("assistant", "".join(_all_written(each) for each in said), finish_reason=reason)]
