"""Answers that say in an HTTP 200 that they failed: an ``error`` in the body, in a chunk, in a choice.

Gateways do so once a stream has begun, when no status can be sent any more, and some APIs throughout. What is taken is
the error's code or type, never its message, which may quote the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from llmtrace.providers.safe import get, items

_WORD: Final = r"[\w.:/-]{1,100}"
_FAILED: Final = ("error", "ERROR")


def failure_in(source: Any) -> str | None:
    """The provider's name for what failed, where a body or a chunk of chat completions' shape says that it did."""
    if (told := named(get(source, "error"))) is not None:
        return told
    for choice in items(get(source, "choices")):
        told = named(get(choice, "error"))
        if told is not None or get(choice, "finish_reason") in _FAILED:
            return told or "error"
    return None


def named(error: Any) -> str | None:
    """The provider's name for an error; None where it is none."""
    if not error or isinstance(error, bool):
        return None
    if isinstance(error, str):
        return "error"
    if not isinstance(error, Mapping) and not hasattr(error, "__dict__"):
        return None
    for name in ("code", "type", "status"):
        value = get(error, name)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if isinstance(value, str) and re.fullmatch(_WORD, value):
            return value
    return "error"
