"""Whether a request asks again because an answer did not pass a check: the failed answer, then an error message.

Libraries that want structure (instructor, pydantic-ai, LangGraph's tool node) do this, and loops written by hand. What
follows the failed answer is looked at and never kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from llmtrace.providers.content_blocks import content_parts
from llmtrace.providers.safe import get, items, text

_MOST = 4000
"""Characters of the error message that are looked at."""
_MOST_MESSAGES = 8
"""Messages after an answer, beyond which they are no error message."""
_ERROR = re.compile(
    r"validation ?errors?|validation (?:feedback|failed|failure)|(?:failed|did not pass) (?:the )?validation"
    r"|did not validate|jsondecodeerror|expecting value: line|expecting property name|unterminated string"
    r"|extra data: line|field required|\[type=\w+, input_|errors\.pydantic\.dev|is a required property"
    r"|is not of type '|is not valid under|(?:invalid|not valid|malformed|not parseable|unparseable) (?:json|yaml|xml)"
    r"|(?:json|yaml|xml|output|answer|response|reply) (?:is|was) (?:not |in)valid|following errors?\b"
    r"|(?:could not|couldn't|cannot|can't|failed to|unable to) (?:be )?(?:parse|decode|validate)"
    r"|(?:match|conform to|violates?|against) (?:the |your |this )?(?:json )?schema|error invoking tool",
    re.IGNORECASE,
)
"""Words in which a check says what it found."""
_AGAIN = re.compile(
    r"\b(?:fix|correct|try again|retry|recall|redo|regenerate|resubmit|once more|again)\b"
    r"|\b(?:answer|respond|reply|return|output|provide|send|use)\b[^.?]{0,40}\b(?:only|valid|correct|schema|json)\b"
    r"|\bmust be\b|\bmake sure\b|\bensure\b",
    re.IGNORECASE,
)
"""Words that ask for another answer."""
_OPENS = re.compile(
    r"\W*(?:\w*error|validation|invalid|(?:your|the) (?:\w+ )?(?:answer|response|output|reply|json)|json|failed"
    r"|could not|cannot|exception|traceback|\d+ validation errors?)\b",
    re.IGNORECASE,
)
"""How a message begins that is about the answer before it, as a person's question is not."""
_OF_ANSWER = re.compile(r"\byour (?:\w+ )?(?:answer|response|output|reply|json)\b", re.IGNORECASE)
_STRUCTURE = re.compile(r"\s*(?:```(?:json|yaml|xml)\s|```\s*[\[{]|[\[{])", re.IGNORECASE)
_MODEL_ROLES = frozenset({"assistant", "model", "chatbot"})
_HISTORY = ("messages", "input", "contents")


def is_reask(params: Mapping[str, Any], quick: bool) -> bool:
    """Whether the end of a request's history is an answer that failed a check, and the error.

    ``quick``: the request came sooner after the answer than a person could have read that and written one.
    """
    history = next((value for name in _HISTORY if (value := items(params.get(name)))), ())
    answers: list[Any] = []
    complaints: list[str] = []
    for message in reversed(history):
        if _is_answer(message):
            answers.append(message)
        elif answers:
            break
        else:
            complaints.append(_text_of(message)[:_MOST])
            if len(complaints) > _MOST_MESSAGES:
                return False
    complaint = "\n".join(complaints)
    if not _ERROR.search(complaint):
        return False
    again = _AGAIN.search(complaint) is not None
    if _asks_for_structure(params) or any(map(_is_structure, answers)):
        return again or (quick and any(map(_OPENS.match, complaints)))
    return again and quick and _OF_ANSWER.search(complaint) is not None


def _is_answer(message: Any) -> bool:
    role = text(get(message, "role"))
    if role is not None:
        return role.lower() in _MODEL_ROLES
    kind = text(get(message, "type")) or ""
    return kind in ("reasoning", "function_call", "custom_tool_call")  # items of the Responses API


def _is_structure(message: Any) -> bool:
    """Whether an answer tried to be a structure: a tool call, or a text that begins as JSON, YAML or XML does."""
    if get(message, "type") in ("function_call", "custom_tool_call") or items(get(message, "tool_calls")):
        return True
    parts = content_parts(get(message, "content")) or content_parts(get(message, "parts"))
    if any(part["type"] == "tool_call" for part in parts):
        return True
    return any(part["type"] == "text" and _STRUCTURE.match(part["content"]) for part in parts)


def _text_of(message: Any) -> str:
    if get(message, "type") == "function_call_output":
        return _flat(get(message, "output"))
    return _flat(get(message, "content")) or _flat(get(message, "parts"))


def _flat(value: Any, depth: int = 0) -> str:
    """The text in a content or in the result of a tool."""
    if isinstance(value, str):
        return value[:_MOST]
    if depth > 4:
        return ""
    if isinstance(value, Mapping):
        nested = (inner for name, inner in value.items() if name not in ("type", "id", "tool_use_id", "toolUseId"))
        return " ".join(filter(None, (_flat(inner, depth + 1) for inner in nested)))
    return " ".join(filter(None, (_flat(inner, depth + 1) for inner in items(value)[:16])))


def _asks_for_structure(params: Mapping[str, Any]) -> bool:
    """Whether the request wants its answer in a shape: by its format, or by the one tool that has to be called."""
    formats = (
        get(params.get("response_format"), "type"),
        get(get(params.get("text"), "format"), "type"),
        get(get(params.get("output_config"), "format"), "type"),
        get(params.get("config"), "response_mime_type"),
    )
    if any(isinstance(kind, str) and "json" in kind for kind in formats) or params.get("format"):
        return True
    choice = params.get("tool_choice")
    return choice in ("required", "any") or get(choice, "type") in ("function", "tool", "any")
