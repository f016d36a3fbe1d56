"""Whether a request asks again because an answer did not pass a check: the failed answer, then an error message.

Libraries that want structure (instructor, pydantic-ai, LangGraph's tool node) do this, and loops written by hand. What
follows the failed answer is looked at and never kept. A repair is told only where that is about the answer: better one
missed than the error of a tool or of a person taken for one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from llmtrace.providers.content_blocks import content_parts
from llmtrace.providers.safe import get, items, text

_HEAD, _TAIL = 3000, 500
"""Characters of the beginning and of the end of a message that are looked at."""
_MOST_MESSAGES = 8
"""Messages after an answer, beyond which they are no error message."""
_REPORT = r"\d+ validation errors? for [^\n]+\n"
"""How pydantic begins what it found."""
_VALIDATOR = re.compile(
    r"\s*(?:validation error(?:s|\(s\))? found:|correct your json only response\b"
    r"|correct the following json response, based on the errors"  # instructor
    r"|your previous response failed the application's validation|\{\"error\": ?\[\{\"type\": ?\"\w+\", ?\"loc\": ?\[)"
    rf"|\s*(?:validation feedback:|\d+ validation errors?:\s*\n|(?:error: )?{_REPORT}|error invoking tool '"
    r"|error: failed to parse structured output).*"  # pydantic-ai; LangGraph: these by their end too
    r"(?:fix the errors? and try again|please fix your mistakes)\.?\s*\Z",
    re.IGNORECASE | re.DOTALL,
)
"""The messages that libraries write, from their beginning: about an answer, whoever is said to speak."""
_ANSWER = r"(?:answer|response|output|reply|json|yaml|xml|arguments|(?:function|tool) call)\b"
_WRONG = (
    r"[^.\n]{0,40}?\b(?:(?:is|are|was|were) (?:not valid|invalid|malformed|unparseable|not parseable)"
    r"|(?:did|does|do)(?: not|n't) (?:match|conform|validate|parse|pass)|failed|violate[sd]?"
    r"|(?:could|can)(?: ?not|n't|'t) be (?:parsed|decoded|validated))\b"
)
_FAULT = re.compile(
    rf"\W*(?:the (?:\w+ ){{0,2}}?{_ANSWER}{_WRONG}|fix the (?:\w+ )?errors?(?: and try again)?\s*[:.]\s*{_REPORT})"
    rf"|.{{0,300}}?(?<!\bif )(?<!\bwhen )(?<!\bunless )(?<!\bcase )\byour (?:\w+ ){{0,2}}?{_ANSWER}{_WRONG}",
    re.IGNORECASE | re.DOTALL,
)
"""How a message begins that finds fault with the answer before it. A rule for answers (if yours is ...) does not."""
_AGAIN = re.compile(
    r"\b(?:fix|correct|try again|retry|recall|redo|regenerate|resubmit|once more|again)\b"
    r"|\b(?:answer|respond|reply|return|output|provide|send)\b[^.?]{0,40}\b(?:only|valid|correct|schema|json)\b",
    re.IGNORECASE,
)
"""Words that ask for another answer."""
_PARSER = re.compile(r"\s*(?:json\.decoder\.)?JSONDecodeError: ")
"""The bare words of Python's parser, as a loop by hand passes them on."""
_JSON = re.compile(r"\s*(?:```(?:json)?\s*)?(?P<json>[\[{])", re.IGNORECASE)
_MODEL_ROLES = frozenset({"assistant", "model", "chatbot"})
_HISTORY = ("messages", "input", "contents")
_RESULTS = ("function_call_output", "custom_tool_call_output")
_RESULT_FIELDS = ("toolResult", "function_response", "functionResponse")
_NO_TEXT = frozenset({"type", "id", "name", "role", "status", "tool_use_id", "toolUseId", "tool_call_id"})


def is_reask(params: Mapping[str, Any], quick: bool) -> bool:
    """Whether the end of a request's history is an answer that failed a check, and the error.

    ``quick``: the request came sooner after the answer than a person could have read that and written one.
    """
    history = next((value for name in _HISTORY if (value := items(params.get(name)))), ())
    answers: list[Any] = []
    complaints: list[_Complaint] = []
    for number, message in enumerate(reversed(history)):
        if _is_answer(message):
            answers.append(message)
        elif answers:
            break
        elif number >= _MOST_MESSAGES:
            return False
        else:
            complaints += _complaints(message)
    if any(_VALIDATOR.match(complaint.text) for complaint in complaints):
        return bool(answers)
    spoken = [complaint.text for complaint in complaints if not complaint.of_tool]
    if not answers or not spoken:
        return False
    if quick or _asks_for_structure(params):
        return any(_FAULT.match(each) and _AGAIN.search(each) for each in spoken) or (
            any(map(_PARSER.match, spoken)) and any(map(_is_broken, answers))
        )
    return False


class _Complaint(NamedTuple):
    """What may be said of an answer."""

    text: str
    of_tool: bool
    """It is the result of a tool, which says what is wrong anywhere in the world."""


def _is_answer(message: Any) -> bool:
    role = text(get(message, "role"))
    if role is not None:
        return role.lower() in _MODEL_ROLES
    kind = text(get(message, "type")) or ""
    return kind in ("reasoning", "function_call", "custom_tool_call")  # items of the Responses API


def _is_broken(message: Any) -> bool:
    """Whether an answer tried to be JSON and is not."""
    parts = content_parts(get(message, "content")) or content_parts(get(message, "parts"))
    for part in parts:
        if part["type"] == "text" and (begun := _JSON.match(part["content"])):
            written = part["content"][begun.start("json") :].rpartition("```")
            try:
                json.loads(written[0] or written[2])
            except (ValueError, RecursionError):
                return True
    return False


def _complaints(message: Any) -> list[_Complaint]:
    """What a message says: each result of a tool by itself, for one message may hold several."""
    if get(message, "type") in _RESULTS:
        return [_Complaint(_flat(get(message, "output")), True)]
    of_tool = get(message, "role") in ("tool", "function")
    content = get(message, "content") or get(message, "parts")
    blocks = [content] if isinstance(content, str) else items(content) or [content]
    return [_Complaint(_flat(block), of_tool or _is_result(block)) for block in blocks]


def _is_result(block: Any) -> bool:
    kind = text(get(block, "type")) or ""
    return kind.endswith("tool_result") or any(get(block, name) is not None for name in _RESULT_FIELDS)


def _flat(value: Any, depth: int = 0) -> str:
    """The text in a content or in the result of a tool."""
    if isinstance(value, str):
        return value if len(value) <= _HEAD + _TAIL else f"{value[:_HEAD]} {value[-_TAIL:]}"
    if depth > 4:
        return ""
    if isinstance(value, Mapping):
        nested = (inner for name, inner in value.items() if name not in _NO_TEXT)
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
