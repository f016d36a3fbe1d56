"""What is asked, and when: open-loop arrivals, prompts of log-uniform length, half of them with a shared beginning."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from tests.evaluation.common.words import WORDS

SHORTEST, LONGEST = 32, 2048
"""Prompt tokens."""
ANSWERS = (8, 16, 24, 32)
"""Output tokens."""
_BURST = 4
"""Mean calls of a burst."""
_WITHIN = 0.02
"""Mean seconds between two calls of a burst."""
_PREFIXES = 4


@dataclass(frozen=True, slots=True)
class Ask:
    """One call to make."""

    text: str
    max_tokens: int


class Prompts:
    """Draws calls. ``words_per_token`` is the server's own tokenizer, measured."""

    def __init__(self, draw: random.Random, words_per_token: float = 1.0, *, longest: int = LONGEST) -> None:
        self.draw = draw
        self.words_per_token = words_per_token
        self.longest = longest
        self._bases = [self.words(longest) for _ in range(_PREFIXES)]

    def words(self, tokens: int) -> list[str]:
        """Random words of about so many tokens."""
        return [self.draw.choice(WORDS) for _ in range(max(1, round(tokens * self.words_per_token)))]

    def one(self, tokens: int | None = None, share: bool | None = None) -> Ask:
        """A call of so many prompt tokens (default: log-uniform); ``share``: with one of the known beginnings
        (default: every second one)."""
        if tokens is None:
            tokens = round(math.exp(self.draw.uniform(math.log(SHORTEST), math.log(self.longest))))
        if share is None:
            share = self.draw.random() < 0.5
        words = self.words(tokens)
        if share:
            base, most = self.draw.choice(self._bases), len(words)
            known = round(most * self.draw.uniform(0.3, 0.9))
            words[:known] = base[:known]
        return Ask(" ".join(words), self.draw.choice(ANSWERS))


def poisson(draw: random.Random, rate: float, count: int) -> list[float]:
    """Moments of ``count`` calls, s, at ``rate`` calls/s."""
    at, found = 0.0, list[float]()
    for _ in range(count):
        at += draw.expovariate(rate)
        found.append(at)
    return found


def bursty(draw: random.Random, rate: float, count: int) -> list[float]:
    """The same rate in bursts: their beginnings are Poisson, their sizes geometric."""
    at, found = 0.0, list[float]()
    while len(found) < count:
        at += draw.expovariate(rate / _BURST)
        moment = at
        while len(found) < count:
            found.append(moment)
            if draw.random() < 1 / _BURST:
                break
            moment += draw.expovariate(1 / _WITHIN)
    return sorted(found)


ARRIVALS = {"Poisson": poisson, "bursty": bursty}
