"""Tokens to text, piece by piece: never half a character, never a piece of a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["Detokenizer", "StopFinder"]

_REPLACEMENT = "\ufffd"


class Detokenizer:
    """Incremental decoding. A token that ends inside a character yields nothing until the character is whole.

    The pieces add up to what the tokenizer makes of all tokens at once with ``skip_special_tokens=True``, so a special
    token has no text, whether the model chose it or it came of a typed ``<s>``. Each piece is the difference between
    two decodings that start at the same token, because a token's text may depend on the one before it (a leading
    space, for one).
    """

    _LONGEST_WAIT = 8
    """Tokens; a character has at most 4 bytes, so what is still broken after more than that is broken for good."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._start = 0  # where both decodings start
        self._given_out = 0  # tokens whose text has been given out

    def push(self, token: int) -> str:
        """The text that this token completes; empty while it is held back."""
        self._ids.append(token)
        before = self._decode(self._ids[self._start : self._given_out])
        after = self._decode(self._ids[self._start :])
        if after == before and self._is_special(token):
            self._ids.pop()  # it has no text, and what stands around it is decoded as if it were not there
            return ""
        if after.endswith(_REPLACEMENT) and len(self._ids) - self._given_out < self._LONGEST_WAIT:
            return ""
        self._start, self._given_out = self._given_out, len(self._ids)
        return after[len(before) :]

    def flush(self) -> str:
        """The text that is still held back at the end of the sequence, broken characters included."""
        before = self._decode(self._ids[self._start : self._given_out])
        after = self._decode(self._ids[self._start :])
        self._start = self._given_out = len(self._ids)
        return after[len(before) :]

    def _is_special(self, token: int) -> bool:
        return self._decode([token]) == "" != self._decode([token], skip_special_tokens=False)

    def _decode(self, ids: list[int], *, skip_special_tokens: bool = True) -> str:
        if not ids:
            return ""
        options = {"skip_special_tokens": skip_special_tokens, "clean_up_tokenization_spaces": False}
        return str(self._tokenizer.decode(ids, **options))


class StopFinder:
    """Looks for stop strings across pieces, and holds back an end that may be the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""

    def push(self, piece: str) -> tuple[str, bool]:
        """The text that is safe to give out, and whether a stop string was met (the text then ends before it)."""
        if not self._stops:
            return piece, False
        text = self._held + piece
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self._held = ""
            return text[: min(places)], True
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def flush(self) -> str:
        held_back, self._held = self._held, ""
        return held_back


def _overlap(text: str, stop: str) -> int:
    """The longest end of `text` that is a beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-length:]):
            return length
    return 0
