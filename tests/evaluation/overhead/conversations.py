"""What is asked in the concurrent traffic: prompts of 30 to 3,000 tokens, half of them in conversations that grow.

Constant prompts would keep llmtrace's estimator asleep: it learns from prompts of different lengths, and remembers
which beginnings were sent before.
"""

from __future__ import annotations

import math
import random
from typing import Any

from tests.evaluation.common.words import WORDS

SHORTEST, LONGEST = 30, 3000
"""Prompt tokens."""
CHARACTERS_PER_TOKEN = 4
_QUESTION = (30, 600)
"""Tokens that a turn of a conversation adds."""
_TEXTWORDS = 60_000

Messages = list[dict[str, Any]]


class Asker:
    """Draws prompts."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self._text = " ".join(self.draw.choices(WORDS, k=_TEXTWORDS))

    def words(self, tokens: int) -> str:
        """Text of so many tokens, from a random place of a long one: no two begin alike."""
        length = tokens * CHARACTERS_PER_TOKEN
        start = self.draw.randrange(len(self._text) - length)
        return self._text[start : start + length]

    def session(self, turns: int) -> list[Messages]:
        """The prompts of one caller, one after the other: a conversation that grows, or prompts of their own."""
        return self._conversation(turns) if self.draw.random() < 0.5 else [self._single() for _ in range(turns)]

    def _single(self) -> Messages:
        tokens = round(math.exp(self.draw.uniform(math.log(SHORTEST), math.log(LONGEST))))
        return [{"role": "user", "content": self.words(tokens)}]

    def _conversation(self, turns: int) -> list[Messages]:
        """Each turn asks something new after all that was said; past the longest prompt a new one begins."""
        prompts: list[Messages] = []
        said: Messages = []
        # Where a session has few turns it joins a conversation that has gone on for a while.
        for _ in range(self.draw.randrange(6)):
            said = self._asked(said)
        for _ in range(turns):
            said = self._asked(said)
            prompts.append(said[:-1])
        return prompts

    def _asked(self, said: Messages) -> Messages:
        question = {"role": "user", "content": self.words(self.draw.randint(*_QUESTION))}
        answer = {"role": "assistant", "content": "token " * 10}
        longer = [*said, question, answer]
        return longer if tokens_of(longer) <= LONGEST else [question, answer]


def tokens_of(messages: Messages) -> int:
    """About how many tokens a prompt has."""
    return sum(len(message["content"]) for message in messages) // CHARACTERS_PER_TOKEN
