"""The prefix cache: which of the engine's blocks stay after their request has ended, how long, and what that brought.

The engine keeps the blocks of ended requests in its pool and shares them with prompts that begin alike; under pressure
it forgets all of them at once. `blocks.py` lets the longest unused go first, the end of a prefix before its beginning,
within a bound in bytes and, where asked, a time to live.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llmtrace.observe.clock import now

__all__ = ["DEFAULT_BLOCK", "DEFAULT_BYTES", "CacheCounters", "PrefixCache"]

DEFAULT_BLOCK = 128
"""Tokens per block."""
DEFAULT_BYTES = 512 * 1024 * 1024
LEAST_BLOCK = 4
"""The smallest block in tokens that the engine takes."""


@dataclass
class CacheCounters:
    """Counters since the start, in tokens unless said otherwise."""

    queries: int = 0
    """Prompt tokens that were looked up."""
    hits: int = 0
    """Prompt tokens that were served from the cache."""
    evictions: int = 0
    """Blocks that were dropped to make room."""
    expired: int = 0
    """Blocks that were dropped because nobody had used them for too long."""
    blocks: int = 0
    """Blocks held now that no running request uses."""
    nbytes: int = 0
    """Bytes of these."""

    @property
    def misses(self) -> int:
        """Prompt tokens that had to be computed."""
        return self.queries - self.hits


class PrefixCache:
    """The settings and the counters. Any thread may read the counters."""

    def __init__(
        self,
        *,
        block: int = DEFAULT_BLOCK,
        max_bytes: int = DEFAULT_BYTES,
        ttl: float | None = None,
        clock: Callable[[], int] = now,
    ) -> None:
        """`block`: tokens per block. `max_bytes`: the most that ended requests' blocks may take.

        `ttl`: s after its last use at which a block is dropped (None: never). `clock`: monotonic ns, for tests.
        """
        if block < LEAST_BLOCK:
            raise ValueError(f"block must be at least {LEAST_BLOCK} tokens")
        if ttl is not None and ttl <= 0:
            raise ValueError("ttl must be more than 0 seconds, or None")
        self.block = block
        self.max_bytes = max_bytes
        self.ttl = ttl
        self.clock = clock
        self.counters = CacheCounters()
