"""What is played on real servers: routes, and what is to happen on each, one thing after the other."""

from __future__ import annotations

import random
from dataclasses import dataclass

from llmtrace.diagnosis import verdict as causes

FIRST, SECOND, VLLM = "first", "second", "vllm"
"""The reference server, a second one with another model and a small prefix cache, and vLLM on the CPU."""
TITLES = {FIRST: "reference server", SECOND: "reference server, small cache", VLLM: "vLLM on the CPU"}
WARM = 44
"""Calls of a route before its first episode; of whole answers more, since less shows of them."""
WARM_WHOLE = 64
BETWEEN = 8
"""Calm calls after each episode."""
LASTS = 8
"""Calls of an episode with an effect of some size ..."""
LASTS_PLAIN = 5
"""... and of one in which each call shows by itself what was wrong."""
CALM = 24
"""Calls of an episode in which nothing happens."""
SMALL = (1.15, 1.3, 1.5)
"""Of the small effects: by how many times the usual time to the first token, or per token, gets longer."""
SMALL_PACE = (1.3, 1.5, 2.0)
"""Tokens that come less than a fifth slower are named nothing."""
FAR_S = 0.06
"""What the relay adds to every call of a far route, as a provider's distance does."""
NOTHING = "nothing"
_PLAIN = (causes.SLOW_CONSUMER, causes.RETRY_STORM, causes.REPETITION_LOOP, causes.BUFFERED_STREAM)
_STREAMED = (causes.PREFILL_SURGE, causes.QUEUEING, causes.NOISY_NEIGHBOR, causes.NETWORK, *_PLAIN)
_ONLY_REFERENCE = (causes.RETRY_STORM, causes.REPETITION_LOOP)
"""Faults and grammars that vLLM has none of."""


@dataclass(frozen=True)
class Episode:
    """What is to happen to some calls of a route."""

    cause: str
    size: float = 0.0
    """0: as large as the cause makes it."""

    @property
    def calls(self) -> int:
        """How many."""
        return CALM if self.cause == NOTHING else LASTS_PLAIN if self.cause in _PLAIN else LASTS


@dataclass(frozen=True)
class Session:
    """One route: calm calls, then its episodes with calm calls in between."""

    number: int
    server: str
    episodes: tuple[Episode, ...]
    whole: bool = False
    far: float = 0.0
    """What the relay adds to every call, s."""

    @property
    def where(self) -> str:
        """In words."""
        kind = ", whole answers" if self.whole else ", far away" if self.far else ""
        return TITLES[self.server] + kind

    @property
    def warm(self) -> int:
        """Calm calls before the first episode."""
        return WARM_WHOLE if self.whole else WARM

    def calls(self, done: int = 0) -> int:
        """All of its calls, where the first ``done`` episodes have been played before."""
        left = self.episodes[done:]
        return self.warm + sum(episode.calls + BETWEEN for episode in left) - BETWEEN if left else 0


def calm_sessions(calls: int, *, vllm: bool) -> list[Session]:
    """Routes on which nothing happens, so many calls on each: streams and whole answers, near and far."""
    engines = (VLLM, FIRST) if vllm else (FIRST,)
    kinds = [(server, False, far) for far in (0.0, FAR_S) for server in engines]
    kinds += [(server, True, 0.0) for server in engines]
    # In parts, each of which is kept as it ends.
    parts = (Episode(NOTHING),) * max(1, calls // (CALM + BETWEEN))
    return [Session(number, server, parts, whole, far) for number, (server, whole, far) in enumerate(kinds)]


def sessions(draw: random.Random, rounds: int, *, vllm: bool) -> list[Session]:
    """Each round: a route of streams to the reference server and one to vLLM with each cause that can come and go, calm
    stretches and small effects among them and a change that stays at the end, and a far one with small effects alone.
    Besides one route for a cache that loses its entries, and some of whole answers."""
    made: list[tuple[str, list[Episode], bool, float]] = []
    for number in range(rounds):
        stays = (causes.ROUTE_CHANGE, causes.MODEL_SWAP)
        for place, server in enumerate((FIRST, VLLM) if vllm else (FIRST,)):
            there = [Episode(cause) for cause in _STREAMED if server == FIRST or cause not in _ONLY_REFERENCE]
            there += [Episode(causes.COLD_KV_CACHE)] if server == VLLM else []
            there += [Episode(NOTHING), Episode(causes.NOISY_NEIGHBOR, draw.choice(SMALL_PACE))]
            there += [Episode(cause, draw.choice(SMALL[1:])) for cause in (causes.QUEUEING, causes.NETWORK)]
            draw.shuffle(there)
            made.append((server, [*there, Episode(stays[(number + place) % 2])], False, 0.0))
        far = [Episode(cause, size) for cause in (causes.QUEUEING, causes.NETWORK) for size in SMALL]
        far += [Episode(causes.NOISY_NEIGHBOR, draw.choice(SMALL_PACE)), Episode(NOTHING)]
        draw.shuffle(far)
        made.append(((VLLM, FIRST)[number % 2] if vllm else FIRST, far, False, FAR_S))
    made.append((SECOND, [Episode(causes.COLD_KV_CACHE)] * 2, False, 0.0))
    whole = [Episode(causes.QUEUEING), Episode(causes.QUEUEING, 1.5), Episode(causes.RETRY_STORM), Episode(NOTHING)]
    made.append((FIRST, whole, True, 0.0))
    if vllm:
        made.append((VLLM, [Episode(causes.QUEUEING), Episode(causes.QUEUEING, 2.0)], True, 0.0))
    draw.shuffle(made)
    return [
        Session(number, server, tuple(there), whole, far) for number, (server, there, whole, far) in enumerate(made)
    ]
