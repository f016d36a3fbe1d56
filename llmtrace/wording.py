"""Words that every room prints: text from outside made harmless, counts with their nouns, sentences on stderr."""

from __future__ import annotations

import os
import re
import sys
import textwrap
import unicodedata
from typing import TextIO

_STEERING = re.compile(r"[\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb]")

_COMMAND = re.compile(r"pip install \S*\w[\]\"']*|llmtrace \w+ [\w.-]*\w")


def clean(text: str, longest: int = 400) -> str:
    """Text that cannot steer a terminal or a page: control and direction characters made visible or dropped."""
    if len(text) > longest:
        text = text[: longest - 1] + "…"
    if text.isascii() and text.isprintable():
        return text
    return "".join(_harmless(character) for character in text)


def _harmless(character: str) -> str:
    if character in "\t\n\r\v\f\x85\u2028\u2029":
        return " "
    category = unicodedata.category(character)
    if category in ("Cc", "Cs", "Co", "Cn"):
        return "\N{REPLACEMENT CHARACTER}"
    if category == "Cf" and character != "\N{ZERO WIDTH JOINER}":
        return ""
    return character


def clean_json(text: str) -> str:
    """JSON that cannot steer a terminal: the characters that JSON itself lets stand are escaped; the values stay."""
    return _STEERING.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def count(value: int) -> str:
    """``1,042``"""
    return f"{value:,}"


def plural(number: int, one: str, many: str = "") -> str:
    """``1 call``, ``2 calls``"""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def lines(sentence: str, width: int) -> list[str]:
    """The sentence in lines of the width; a command in it stays in one, so that it can be copied."""
    whole = _COMMAND.sub(lambda command: command[0].replace(" ", "\0"), sentence)
    wrapped = textwrap.wrap(whole, max(width, 1), break_long_words=False, break_on_hyphens=False)
    return [line.replace("\0", " ") for line in wrapped]


def fitted(sentence: str, stream: TextIO) -> str:
    """The sentence as ``stream`` is to have it: in lines as wide as the terminal that it is, else in one."""
    try:
        width = os.get_terminal_size(stream.fileno()).columns if stream.isatty() else 0
    except (OSError, ValueError, AttributeError):  # closed, or somebody else's object in its place
        width = 0
    return "\n".join(lines(sentence, width)) if 0 < width < len(sentence) else sentence


def say(sentence: str) -> None:
    """Tell people on stderr; nobody where that is closed: a program's own output is not the place."""
    stream: TextIO | None = sys.stderr
    if stream is not None:
        print(fitted(f"llmtrace: {sentence}", stream), file=stream, flush=True)
