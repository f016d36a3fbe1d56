"""Prompts of a wanted length that nobody has sent before, made of plain words."""

from __future__ import annotations

import random
from dataclasses import dataclass

_TEXT = (
    "time year people way day man thing woman life child world school state family student group country problem hand "
    "part place case week company system program question work government number night point home water room mother "
    "area money story fact month lot right study book eye job word business issue side kind head house service friend "
    "father power hour game line end member law car city community name president team minute idea body information "
    "back parent face others level office door health person art war history party result change morning reason "
    "research girl guy moment air teacher force education"
)
_WORDS = tuple(_TEXT.split())
_COUNT = "\nCount from 1 to 999, one number after the other, and write nothing else:"
PER_CHARACTER = 0.25
"""Tokens in a character, until the provider has told."""
TEMPLATE = 64
"""Tokens at most that the chat's own form may add, until told."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt in two parts, of which the first may have been sent before."""

    shared: str
    tail: str = ""

    @property
    def text(self) -> str:
        """All of it."""
        return self.shared + self.tail


class Prompts:
    """Makes prompts, and knows how many tokens they have once the provider has told of two."""

    def __init__(self, seed: int | None = None) -> None:
        """``seed``: for prompts that are the same each time; None: never the same."""
        self._chance = random.Random(seed)
        self._per_character = PER_CHARACTER
        self._form = 10.0
        """Tokens of the chat's own form."""
        self.told = False
        """The provider counts tokens, and has told of two prompts."""

    def guess(self, text: str, tokens: int) -> None:
        """One prompt and its tokens, for the length of the next."""
        self._per_character = max(0.05, (tokens - self._form) / len(text))

    def learn(self, shorter: tuple[str, int], longer: tuple[str, int]) -> None:
        """Two prompts and their tokens: what a character takes, and the chat's form around them."""
        (short, few), (long, many) = shorter, longer
        if len(long) > len(short) and many > few:
            self._per_character = (many - few) / (len(long) - len(short))
            self._form = max(0.0, few - self._per_character * len(short))
            self.told = True

    def unique(self, tokens: int) -> Prompt:
        """A prompt of about so many tokens, whose beginning is its own, and which asks for a long answer."""
        room = (tokens - self._form) / self._per_character - len(_COUNT)
        return Prompt(self._fresh(room) + _COUNT)

    def branch(self, prompt: Prompt, share: float) -> tuple[Prompt, int]:
        """A prompt that goes as ``prompt`` does for this share of it and then its own way; and how many tokens the two
        have in common, as reckoned."""
        head = prompt.text[: max(1, int(len(prompt.text) * share))].rpartition(" ")[0] + " "
        return Prompt(head, self._fresh(80) + _COUNT), self.tokens(head)

    def _fresh(self, characters: float) -> str:
        """Words that begin like no others, up to about so many characters."""
        words = [f"{self._chance.getrandbits(32):08x}"]
        size = len(words[0])
        while size < characters:
            words.append(self._chance.choice(_WORDS))
            size += 1 + len(words[-1])
        return " ".join(words)

    def tokens(self, text: str) -> int:
        """How many tokens a text has with the chat's form, as reckoned."""
        return round(self._form + len(text) * self._per_character)

    def most_tokens(self, text: str) -> int:
        """How many it has at most, for a budget that must hold: no tokenizer makes more tokens than bytes."""
        if not self.told:
            return TEMPLATE + len(text.encode())
        return TEMPLATE + int(1.25 * self.tokens(text))
