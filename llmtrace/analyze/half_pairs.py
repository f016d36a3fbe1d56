"""JSON whose texts may hold half of a surrogate pair, as a browser escapes it where a text was cut inside an emoji."""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

_ESCAPES: Final = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
"""Each escape, a whole pair as one; the group is half of a pair."""


def loads(text: bytes) -> Any:
    """The value of ``text``; a character that is only half there reads as U+FFFD.

    Raises:
        orjson.JSONDecodeError: it is no JSON.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if "surrogate" not in error.msg:
            raise
    return orjson.loads(_ESCAPES.sub(lambda escape: b"\\ufffd" if escape[1] else escape[0], text))
