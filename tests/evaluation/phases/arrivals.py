"""What is asked, and when: open-loop arrivals, prompts of log-uniform length, conversations that grow."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.evaluation.common.words import WORDS

SHORTEST, LONGEST = 32, 1_400
"""Prompt tokens."""
ANSWERS = (8, 16, 32, 64)
"""Output tokens."""
_BURST = 4
"""Mean calls of a burst."""
_WITHIN = 0.02
"""Mean seconds between two calls of a burst."""
_PREFIXES = 4
_CONVERSATIONS, _TURNS = 6, 8
_TURN = (20, 160)
"""Tokens of a turn."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One call to make."""

    messages: tuple[dict[str, Any], ...]
    max_tokens: int

    @property
    def text(self) -> str:
        """All that is asked, in one."""
        return " ".join(str(message["content"]) for message in self.messages)


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

    def one(self, tokens: int | None = None, *, share: bool = False) -> Ask:
        """A call of so many prompt tokens (default: log-uniform); ``share``: it begins as some others do."""
        if tokens is None:
            tokens = round(math.exp(self.draw.uniform(math.log(SHORTEST), math.log(self.longest))))
        words = self.words(tokens)
        if share:
            base, most = self.draw.choice(self._bases), len(words)
            known = round(most * self.draw.uniform(0.3, 0.9))
            words[:known] = base[:known]
        return Ask(({"role": "user", "content": " ".join(words)},), self.draw.choice(ANSWERS))

    def mixed(self) -> Iterator[Ask]:
        """Calls of their own without end; every second one begins as some others do."""
        while True:
            yield self.one(share=self.draw.random() < 0.5)

    def unlike(self) -> Iterator[Ask]:
        """Calls of their own without end, none like another."""
        while True:
            yield self.one()

    def conversations(self) -> Iterator[Ask]:
        """Turns of six conversations in turn; each sends all before it again. The answers in them are made up, so that
        a turn need not wait for the one before."""
        talks: list[tuple[dict[str, Any], ...]] = [()] * _CONVERSATIONS
        while True:
            for number in range(_CONVERSATIONS):
                turn = " ".join(self.words(round(self.draw.uniform(*_TURN))))
                messages = (*talks[number], {"role": "user", "content": turn})
                made = self.draw.choice(ANSWERS)
                answer = {"role": "assistant", "content": " ".join(self.words(made))}
                talks[number] = () if len(messages) >= 2 * _TURNS else (*messages, answer)
                yield Ask(messages, made)

    def of(self, traffic: str) -> Iterator[Ask]:
        """Calls of this kind of traffic without end."""
        if traffic.startswith("chat"):
            return self.conversations()
        return self.mixed() if traffic == "burst" else self.unlike()


def poisson(draw: random.Random, rate: float, count: int) -> list[float]:
    """Moments of ``count`` calls, s, at ``rate`` calls/s."""
    at, moments = 0.0, list[float]()
    for _ in range(count):
        at += draw.expovariate(rate)
        moments.append(at)
    return moments


def bursty(draw: random.Random, rate: float, count: int) -> list[float]:
    """The same rate in bursts: their beginnings are Poisson, their sizes geometric."""
    at, moments = 0.0, list[float]()
    while len(moments) < count:
        at += draw.expovariate(rate / _BURST)
        moment = at
        while len(moments) < count:
            moments.append(moment)
            if draw.random() < 1 / _BURST:
                break
            moment += draw.expovariate(1 / _WITHIN)
    return sorted(moments)


ARRIVALS = {"Poisson": poisson, "bursty": bursty}
