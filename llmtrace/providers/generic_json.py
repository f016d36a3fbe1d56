"""Reads the JSON of many model makers by all their field names, for APIs that pass a model's own JSON through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmtrace.providers.messages import chat_message, user_message
from llmtrace.providers.parts import texts
from llmtrace.providers.safe import count, get, items, text

_ALTERNATIVES = ("results", "generations", "completions", "choices", "outputs")
_TEXT_FIELDS = ("text", "outputText", "generation", "completion", "content")
_PROMPT_FIELDS = ("prompt", "inputText", "message")


def alternatives(answer: Any) -> list[Any]:
    """The alternative answers in an answer, which OpenAI calls choices."""
    return [alternative for name in _ALTERNATIVES for alternative in items(get(answer, name))]


def own_text(source: Any) -> str | None:
    """The text that ``source`` itself holds."""
    return next((string for name in _TEXT_FIELDS if (string := text(get(source, name)))), None)


def generic_input(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages sent, or the prompt; of Cohere's the history before it."""
    messages = [chat_message(message) for message in items(body.get("messages"))]
    for turn in items(body.get("chat_history")):
        role = (text(get(turn, "role")) or "user").lower()
        messages.append({"role": role, "parts": texts(get(turn, "message"))})
    prompt = next((string for name in _PROMPT_FIELDS if (string := text(body.get(name)))), None)
    return messages if body.get("messages") else messages + user_message(prompt)


def generic_output(documents: Sequence[Any], reasons: Sequence[str]) -> list[dict[str, Any]]:
    """The text of each alternative of an answer, or of a stream's events, as a message.

    ``reasons``: why they ended, in their order.
    """
    written: dict[int, str] = {}
    for document in documents:
        for place, alternative in enumerate(alternatives(document) or [document]):
            index = count(get(alternative, "index"))
            index = place if index is None else index
            written[index] = written.get(index, "") + (
                own_text(alternative) or own_text(get(alternative, "data")) or ""
            )
    return [
        {"role": "assistant", "parts": texts(written[index]), "finish_reason": (*reasons[place:], "error")[0]}
        for place, index in enumerate(sorted(written))
    ]
