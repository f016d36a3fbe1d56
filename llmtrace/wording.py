"""Words that every room prints: text from outside made harmless, and counts with their nouns."""

from __future__ import annotations

import re
import unicodedata

_STEERING = re.compile(r"[\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb]")


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
