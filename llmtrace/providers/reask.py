"""Whether a request asks again because an answer did not pass a check: the failed answer, then an error message.

Libraries that want structure (instructor, pydantic-ai, LangGraph's tool node) do this, and loops written by hand. What
follows the failed answer is looked at (``complaints.py``) and never kept. A repair is told only where that is about
the answer: better one missed than the error of a tool or of a person taken for one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llmtrace.providers.complaints import (
    FINAL_RESULT,
    finds_fault,
    is_a_librarys,
    is_about_form,
    is_no_final_result,
    quotes,
)
from llmtrace.providers.content_blocks import content_parts
from llmtrace.providers.safe import fields, get, is_model, items, text

_HEAD, _TAIL = 3000, 500
"""Characters of the beginning and of the end of a message that are looked at."""
_MOST_MESSAGES = 8
"""Messages after an answer, beyond which they are no error message."""
_MODEL_ROLES = frozenset({"assistant", "model", "chatbot"})
_HISTORY = ("messages", "input", "contents")
_RESULTS = ("function_call_output", "custom_tool_call_output")
_RESULT_FIELDS = ("toolResult", "function_response", "functionResponse")
_NO_TEXT = frozenset({"type", "id", "name", "role", "status", "tool_use_id", "toolUseId", "tool_call_id"})


def is_reask(params: Mapping[str, Any], quick: bool, continued: bool = False) -> bool:
    """Whether the end of a request's history is an answer that failed a check, and the error.

    ``quick``: the request came sooner after the answer than a person could have read that and written one;
    ``continued``: it goes on from an answer that the server has kept, and holds no more than what is said to that.
    """
    history = next((value for name in _HISTORY if (value := items(params.get(name)))), ())
    if continued and not history:
        history = [{"role": "user", "content": params.get("input")}]
    answers: list[Any] = []
    complaints: list[_Complaint] = []
    # With neither the failed answer nor one that the server keeps, the last message has to say it all.
    most = _MOST_MESSAGES if continued or any(map(_is_answer, history)) else 1
    for number, message in enumerate(reversed(history)):
        if _is_answer(message):
            answers.append(message)
        elif answers or number >= most:
            break
        else:
            complaints += _complaints(message)
    if any(is_a_librarys(complaint.text) for complaint in complaints):
        return True
    refused = any(complaint.of_tool and is_no_final_result(complaint.text) for complaint in complaints)
    if refused and any(name.startswith(FINAL_RESULT) for answer in answers for name in _called(answer)):
        return True
    structured = _asks_for_structure(params)
    if not (quick or structured):
        return False
    texts = [written for answer in answers for written in _written(answer)]
    formal = structured or any(is_about_form(_said(message)) for message in _prompt(params, history))
    return any(
        quotes(complaint.text, texts) if complaint.of_tool else finds_fault(complaint.text, texts, formal, quick)
        for complaint in complaints
    )


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


def _written(answer: Any) -> list[str]:
    """The texts of an answer, and the arguments of its calls."""
    parts, calls = _parts_and_calls(answer)
    found = [written for part in parts if (written := text(part.get("content")))]
    return found + [given for call in (*parts, *calls) if (given := _arguments(get(call, "arguments")))]


def _called(answer: Any) -> list[str]:
    """The names of the tools that an answer calls."""
    parts, calls = _parts_and_calls(answer)
    return [name for call in (*parts, *calls) if (name := text(get(call, "name")))]


def _parts_and_calls(answer: Any) -> tuple[Sequence[Mapping[str, Any]], Sequence[Any]]:
    """The parts of an answer's content, and its calls of tools: one of these may be the answer itself."""
    parts = content_parts(get(answer, "content")) or content_parts(get(answer, "parts"))
    return parts, [answer, *(get(call, "function") for call in items(get(answer, "tool_calls")))]


def _arguments(given: Any) -> str | None:
    """Arguments as text: of a mapping its JSON."""
    if isinstance(given, Mapping):
        try:
            return json.dumps(given)
        except (TypeError, ValueError, RecursionError):
            return None
    return text(given)


def _prompt(params: Mapping[str, Any], history: Sequence[Any]) -> list[Any]:
    """Where a program says what its answers are to look like: the instructions, and the first messages."""
    return [*(params.get(name) for name in ("system", "instructions")), *history[:2]]


def _said(message: Any) -> str:
    return _flat(get(message, "content") or get(message, "parts") or message)


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
    value = fields(value) if is_model(value) else value
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
