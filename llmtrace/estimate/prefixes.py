"""What of a prompt should still lie in the provider's cache: this client's own history of prompts, as hashes.

A prompt's text is hashed from its beginning; every ``PIECE`` characters the hash so far is a mark. Two prompts with the
same mark began alike. No text is kept. The hash is Python's own of strings (SipHash with a key of the process's, the
fastest there is), chained from a random beginning: the marks mean nothing outside the process, and never leave it.
"""

from __future__ import annotations

import os
from array import array
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from math import gcd, log2
from typing import NamedTuple

from llmtrace.estimate.losses import Lineage, Texts, Who
from llmtrace.observe.process import Lock

PIECE = 256
"""Characters between two marks at a prompt's beginning (about 64 tokens)."""
_FINE = 16
"""Marks that close together; the pieces after them are eight times as long."""
_MOST_MARKS = 48
"""What lies beyond (about 70,000 characters) is not looked at."""
MARKS = 16384
"""Marks remembered in all, of all routes; the least recently used one goes first."""
_CALM_S = 300.0
"""Idle time that a cached prefix survives where nothing has been learned yet: five minutes, as providers document."""
_GAPS = 16
COUNTS = 2 * _GAPS
"""Numbers of a route's survival in a file."""
_SURVIVES = 0.5
_OLD = 0.98

RULES: dict[str, tuple[int, int]] = {
    # Least prompt tokens that are cached, and the step in which hits are counted, as the providers document them.
    "openai": (1024, 128),
    "azure.ai.openai": (1024, 128),
    "anthropic": (1024, 1),
    "deepseek": (64, 64),
}
CACHE_IF_ASKED = frozenset({"anthropic"})
"""Providers that cache only what a request asks them to."""
_ELSEWHERE = (16, 16)
"""vLLM's block on a GPU; larger blocks show in the counts that the provider reports."""


@dataclass(slots=True, eq=False, repr=False)
class Prompt:
    """A prompt on its way, as marks."""

    marks: list[int]
    size: int
    """Characters in all."""
    aside: int = 0
    """Of these, what is no text: images and the like."""
    known: int = 0
    """Characters of its beginning that an earlier call of the route had too."""
    gap: float = 0.0
    """Seconds since that beginning was last used."""
    explicit: bool = False
    """The request asks for caching itself; looked at only for those that cache nothing else."""
    lineage: Lineage | None = None
    """What its texts have in common with earlier ones."""
    prefix: int | None = None
    """The mark that names the beginning that an earlier call of the route had too (of a long one, its first 4,096
    characters); None where no call began alike."""

    @property
    def text_size(self) -> int:
        """Characters of its text."""
        return max(0, self.size - self.aside)


class Expected(NamedTuple):
    """What the history says of one call's cached tokens."""

    tokens: int
    """Tokens that should come from the cache: 0 where the prefix is too short, unknown, or probably gone."""
    survival: float
    """Probability that a prefix idle for so long is still cached."""
    possible: int = 0
    """Tokens that would come from the cache if the prefix were still there for certain."""
    block: int = 1
    """The step in which hits are counted."""


_NOTHING = Expected(0, 0.0)


class Survival:
    """How long a route's cached prefixes live when they are not used: hits and misses by idle time."""

    __slots__ = ("_hits", "_saved", "_tries", "block")

    def __init__(self) -> None:
        self._hits = array("f", bytes(4 * _GAPS))
        self._tries = array("f", bytes(4 * _GAPS))
        self._saved = array("f", bytes(4 * COUNTS))
        self.block = 0
        """Greatest common divisor of the cached counts seen, 0 before one was."""

    def learn(self, gap: float, hit: bool, cached: int) -> None:
        """A prefix that was idle for ``gap`` s was there, or was not; ``cached``: tokens that came from the cache."""
        at = _bucket(gap)
        self._hits[at] = self._hits[at] * _OLD + hit
        self._tries[at] = self._tries[at] * _OLD + 1
        if cached:
            self.block = gcd(self.block, cached)

    def news(self) -> list[float]:
        """What the counts (hits by idle time, then tries) have gained since they were last saved; counts as saved."""
        now = self._hits + self._tries
        gained = [after - before for after, before in zip(now, self._saved, strict=True)]
        self._saved = now
        return gained if any(gained) else []

    def unsave(self, gained: Sequence[float]) -> None:
        """What ``news`` told could not be saved."""
        for at, more in enumerate(gained):
            self._saved[at] -= more

    def recall(self, counts: Sequence[float], block: int) -> None:
        """Begin with the counts that a file holds."""
        self._hits, self._tries = array("f", counts[:_GAPS]), array("f", counts[_GAPS:])
        self._saved = self._hits + self._tries
        self.block = block

    def at(self, gap: float) -> float:
        """Probability of survival. A longer gap cannot be survived more often than a shorter one."""
        mine = _bucket(gap)
        prior = 0.9 if gap <= _CALM_S else 0.3
        # Hits after longer gaps speak for it, misses after shorter ones against it.
        hits = self._hits[mine] + sum(self._hits[mine + 1 :])
        misses = sum(tried - hit for tried, hit in zip(self._tries[: mine + 1], self._hits[: mine + 1], strict=True))
        near = self._tries[mine]
        if near < 1 and hits + misses < 1:
            return prior
        own = self._hits[mine]
        probability = (own + 2 * prior + 0.5 * (hits - own)) / (
            near + 2 + 0.5 * (hits - own) + 0.5 * max(0.0, misses - (near - own))
        )
        return max(0.0, min(1.0, probability))


def _bucket(gap: float) -> int:
    """Powers of two from under a second to over four hours."""
    return min(_GAPS - 1, int(log2(gap)) + 1 if gap >= 1 else 0)


class Prefixes:
    """The marks of all routes. Safe to call from several threads."""

    def __init__(self) -> None:
        self._key = os.urandom(32)
        self._seen: OrderedDict[int, float] = OrderedDict()
        self._texts = Texts()
        self._lock = Lock()

    def look(
        self, route: Hashable, texts: Sequence[str], now: float, explicit: bool = False, model: Hashable = None
    ) -> Prompt:
        """Mark a prompt that is about to be sent, and find how much of its beginning was sent before.

        ``texts``: its pieces in the order in which the model reads them; ``now``: monotonic s; ``explicit``: the
        request itself says what to cache; ``model``: what routes to the same model share.
        """
        marks, size = self._marks(route, texts)
        prompt = Prompt(marks, size, explicit=explicit)
        with self._lock:
            seen = self._seen
            prompt.lineage = self._texts.look(route, texts, model)
            for count, mark in enumerate(marks, 1):
                used = seen.get(mark)
                if used is None:
                    break
                if count <= _FINE:
                    prompt.prefix = mark
                prompt.known, prompt.gap = _characters(count), max(0.0, now - used)
        return prompt

    def computed(self, prompt: Prompt, now: float, who: Who = ()) -> None:
        """``who`` computed the prompt, at ``now`` (monotonic s): from here on its beginning can be in the cache."""
        with self._lock:
            seen = self._seen
            if prompt.lineage is not None:
                self._texts.computed(prompt.lineage, who)
            for mark in prompt.marks:
                seen[mark] = now
                seen.move_to_end(mark)
            while len(seen) > MARKS:
                seen.popitem(last=False)

    def _marks(self, route: Hashable, texts: Iterable[str]) -> tuple[list[int], int]:
        state = hash((self._key, route))
        marks: list[int] = []
        size, left = 0, PIECE
        for text in texts:
            length = len(text)
            size += length + 1
            if len(marks) >= _MOST_MARKS:
                continue
            at = 0
            while length - at >= left:
                state = hash((state, text[at : at + left]))
                marks.append(state)
                if len(marks) >= _MOST_MARKS:
                    break
                at += left
                left = _length(len(marks))
            else:
                # A text's end counts as a character, so that "ab" + "c" is not "a" + "bc".
                state = hash((state, text[at:], True))
                left = max(1, left - (length - at) - 1)
        return marks, size


def _length(marks: int) -> int:
    """Characters of the piece after so many marks."""
    return PIECE if marks < _FINE else 8 * PIECE


def _characters(marks: int) -> int:
    return PIECE * (marks + 7 * max(0, marks - _FINE))


def least_cached(provider: str) -> int:
    """The fewest prompt tokens that a provider caches, as far as its documentation says."""
    return RULES.get(provider, _ELSEWHERE)[0]


def expected(prompt: Prompt, survival: Survival, provider: str, input_tokens: int) -> Expected:
    """The tokens of a prompt that should come from the cache.

    ``input_tokens``: what the prompt had in all; the known characters' share of it is the known part (a mark before
    the beginning's true end is all that is certain: this may be up to one piece too few).
    """
    if not prompt.known or not prompt.size:
        return _NOTHING
    least, block = RULES.get(provider, _ELSEWHERE)
    block = max(block, survival.block) if survival.block and provider not in RULES else block
    tokens = min(prompt.known * input_tokens // prompt.size, input_tokens - 1)
    tokens = max(0, tokens // block * block)
    if tokens < least or (provider in CACHE_IF_ASKED and not prompt.explicit):
        tokens = 0
    lives = survival.at(prompt.gap)
    return Expected(tokens if lives >= _SURVIVES else 0, lives, tokens, block)
