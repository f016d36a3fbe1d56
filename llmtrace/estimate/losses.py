"""Why prompt tokens that might have come from the provider's cache did not, by this client's own history of texts.

Beside the marks of ``prefixes``, which say how much of a prompt's beginning was sent before, two hashes are kept of
each text (a message's content, say): that of all texts up to its end, and its own. So a prompt whose beginning changed
is told from one that is new: the texts behind the change were sent before, behind another beginning.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from llmtrace.estimate.prefixes import Expected

PREFIX_CHANGED: Final = "prefix_changed"
TOOLS_CHANGED: Final = "tools_changed"
IDLE: Final = "idle"
EVICTED: Final = "evicted"
ROUTE_CHANGED: Final = "route_changed"
BELOW_MINIMUM: Final = "below_minimum"
REASONS: Final = (PREFIX_CHANGED, TOOLS_CHANGED, IDLE, EVICTED, ROUTE_CHANGED, BELOW_MINIMUM)

WORDS: Final = {
    PREFIX_CHANGED: "the prompt's beginning changed",
    TOOLS_CHANGED: "the tools changed",
    IDLE: "idle for longer than the cache keeps",
    EVICTED: "evicted early, or sent elsewhere",
    ROUTE_CHANGED: "another route or model version",
    BELOW_MINIMUM: "below the least that is cached",
}
"""The reasons in words."""

LEAST_TOKENS: Final = 32
"""A smaller loss is not told: counts go in blocks, and characters are no tokens."""
TEXTS: Final = 8192
"""Texts remembered in all, of all routes; the least recently used one goes first."""
_MOST: Final = 256
"""Texts of one prompt that are looked at."""
_SHORT: Final = 16
"""A text of fewer characters, such as a role, may turn up anywhere."""


_CHAIN_KEY = os.urandom(32)


def chain(beginning: Hashable, texts: Iterable[str]) -> list[int]:
    """The hash of all texts so far, after each one: two prompts with the same hash began with the same texts."""
    state = hash((_CHAIN_KEY, beginning))
    hashes: list[int] = []
    for text in texts:
        state = hash((state, text))  # a string keeps its own hash, so that a long history is not read anew
        hashes.append(state)
    return hashes


Who = tuple[str | None, ...]
"""Who answered: the model's version, its fingerprint, a gateway's upstream; None where that was not told."""


class Sent(NamedTuple):
    """To whom a beginning was sent last."""

    route: int
    who: Who


@dataclass(slots=True, eq=False, repr=False)
class Lineage:
    """What a prompt's texts have in common with earlier ones."""

    route: int
    ends: list[int]
    """The hash of all texts so far, after each one."""
    own: list[int]
    """Each text's own hash."""
    begun: int = 0
    """Characters of the leading texts that were sent before in the same order, to whatever route."""
    last: Sent | None = None
    """To whom."""
    changed: int = 0
    """The number of the first text that was not."""
    again: int = 0
    """Characters of the texts from there on that this model was sent before, behind another beginning."""


class Loss(NamedTuple):
    """Prompt tokens that were computed though they need not have been."""

    reason: str
    tokens: int
    text: int | None = None
    """``PREFIX_CHANGED``: the number of the text that changed."""
    near: int = 0
    """``PREFIX_CHANGED``: tokens in front of it."""


class Texts:
    """The texts of all routes. Not safe between threads: ``Prefixes`` locks."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: OrderedDict[int, Sent | None] = OrderedDict()

    def look(self, route: Hashable, texts: Sequence[str], model: Hashable = None) -> Lineage:
        """What a prompt that is about to be sent has in common with earlier ones.

        ``model``: what several routes may share, so that with other tools they are known to have been sent the same.
        """
        seen, looked_at = self._seen, texts[:_MOST]
        shared = hash((_CHAIN_KEY, model))
        own = [hash((shared, text)) for text in looked_at]
        lineage = Lineage(hash((_CHAIN_KEY, route)), chain("texts", looked_at), own)
        known, at = True, 0
        for count, text in enumerate(looked_at):
            size = len(text) + 1
            if known and (last := seen.get(lineage.ends[count])) is not None:
                at += size
                lineage.begun, lineage.last, lineage.changed = at, last, count + 1
                continue
            known = False
            if size > _SHORT and own[count] in seen:
                lineage.again += size
        return lineage

    def computed(self, lineage: Lineage, who: Who) -> None:
        """The prompt was computed, by ``who``."""
        seen, sent = self._seen, Sent(lineage.route, who)
        for end, own in zip(lineage.ends, lineage.own, strict=True):
            seen[end], seen[own] = sent, None
            seen.move_to_end(end)
            seen.move_to_end(own)
        while len(seen) > 2 * TEXTS:
            seen.popitem(last=False)


def loss(
    lineage: Lineage, size: int, expected: Expected, who: Who, input_tokens: int, cached: int, least: int
) -> Loss | None:
    """The largest loss of a call whose provider counted ``cached`` of ``input_tokens``; None where there is none.

    ``size``: characters of the prompt; ``least``: the fewest tokens that the provider caches. The tokens of a text are
    the characters' share of the prompt's.
    """
    per_character = input_tokens / max(1, size)
    begun = min(int(lineage.begun * per_character), input_tokens - 1) // expected.block * expected.block
    losses: list[Loss] = []
    last = lineage.last
    if last is not None:
        missing = max(begun, expected.possible) - cached
        if expected.possible and last.route == lineage.route and not _differ(last.who, who):
            losses.append(Loss(EVICTED if expected.tokens else IDLE, missing))
        elif last.route != lineage.route or _differ(last.who, who):
            losses.append(Loss(ROUTE_CHANGED, missing))
        elif begun < least:
            losses.append(Loss(BELOW_MINIMUM, missing))
    again = int(lineage.again * per_character)
    if begun + again >= least:
        unchanged = min(again, input_tokens - cached - 1)
        losses.append(Loss(PREFIX_CHANGED, unchanged, lineage.changed, begun))
    worst = max(losses, key=lambda each: each.tokens, default=None)
    return worst if worst is not None and worst.tokens >= LEAST_TOKENS else None


def _differ(one: Who, other: Who) -> bool:
    return any(a is not None and b is not None and a != b for a, b in zip(one, other, strict=False))
