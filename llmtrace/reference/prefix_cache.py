"""Keys and values of earlier prompts, kept by blocks of tokens and copied into later prompts that begin alike.

A block is known by a hash of its tokens and of all blocks before it, so that equal hashes mean equal prefixes. What
is stored is bounded in bytes; the block that was longest unused goes first, and a block never outlives the one before
it in use. With a time to live, a block that was not used for so long goes whether there is room or not.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmtrace.observe.clock import now
from llmtrace.reference.kv import Saved

__all__ = ["DEFAULT_BLOCK", "DEFAULT_BYTES", "CacheCounters", "PrefixCache"]

DEFAULT_BLOCK = 128
"""Tokens per block."""
DEFAULT_BYTES = 512 * 1024 * 1024


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
    """Blocks held now."""
    nbytes: int = 0
    """Bytes held now."""

    @property
    def misses(self) -> int:
        """Prompt tokens that had to be computed."""
        return self.queries - self.hits


@dataclass(slots=True)
class _Block:
    saved: Saved
    used: int
    """When the block was last used, in monotonic ns."""


class PrefixCache:
    """The blocks that are kept. Not thread-safe: the model's thread owns it. Any thread may read the counters."""

    def __init__(
        self,
        *,
        block: int = DEFAULT_BLOCK,
        max_bytes: int = DEFAULT_BYTES,
        ttl: float | None = None,
        clock: Callable[[], int] = now,
    ) -> None:
        """`ttl`: s after its last use at which a block is dropped (None: never). `clock`: monotonic ns, for tests."""
        if block < 1:
            raise ValueError("block must be at least 1 token")
        if ttl is not None and ttl <= 0:
            raise ValueError("ttl must be more than 0 seconds, or None")
        self.block = block
        self.max_bytes = max_bytes
        self.ttl = ttl
        self.counters = CacheCounters()
        self._clock = clock
        self._blocks: OrderedDict[bytes, _Block] = OrderedDict()

    def lookup(self, tokens: Sequence[int], *, counted: bool = True, owner: str | None = None) -> list[Saved]:
        """The longest stored prefix, in blocks. At least the last token is left to compute: its logits are needed.

        `counted` is whether the tokens go into the counters; not those that are looked up a second time. `owner` is
        the adapter that computed them (None: the base model): the same tokens have other keys and values with it.
        """
        self._expire()
        prefix: list[Saved] = []
        keys = self._keys(tokens, (len(tokens) - 1) // self.block, owner)
        for key in keys:
            block = self._blocks.get(key)
            if block is None:
                break
            prefix.append(block.saved)
        self._touch(keys[: len(prefix)])
        if counted:
            self.counters.queries += len(tokens)
            self.counters.hits += len(prefix) * self.block
        return prefix

    def store(self, tokens: Sequence[int], save: Callable[[int], Saved | None], *, owner: str | None = None) -> int:
        """Keep the whole blocks of this sequence that are not stored yet; returns how many these were.

        `save(end)` gives the keys and values of the first `end` tokens, or None where they cannot be had. `owner` as
        for `lookup`.
        """
        self._expire()
        count = min(len(tokens) // self.block, self._most_blocks())
        keys = self._keys(tokens, count, owner)
        missing = [index for index, key in enumerate(keys) if key not in self._blocks]
        saved = save(count * self.block) if missing else None
        stored = 0
        if saved is not None:
            for index in missing:
                block = saved.cut(index * self.block, (index + 1) * self.block)
                self._blocks[keys[index]] = _Block(block, 0)
                self.counters.nbytes += block.nbytes
                stored += 1
        self._touch([key for key in keys if key in self._blocks])
        while self.counters.nbytes > self.max_bytes and self._blocks:
            self._drop()
            self.counters.evictions += 1
        self.counters.blocks = len(self._blocks)
        return stored

    def clear(self) -> None:
        """Drop everything; the counters of hits and misses stay."""
        self._blocks.clear()
        self.counters.blocks = self.counters.nbytes = 0

    def _most_blocks(self) -> int:
        """The most blocks that can be held, so that no block is copied only to be dropped at once."""
        if not self._blocks:
            return 1 << 62
        some = next(iter(self._blocks.values()))
        return max(1, self.max_bytes // max(1, some.saved.nbytes))

    def _drop(self) -> None:
        _, oldest = self._blocks.popitem(last=False)
        self.counters.nbytes -= oldest.saved.nbytes

    def _expire(self) -> None:
        if self.ttl is None:
            return
        limit = self._clock() - round(self.ttl * 1e9)
        while self._blocks and next(iter(self._blocks.values())).used < limit:
            self._drop()
            self.counters.expired += 1
        self.counters.blocks = len(self._blocks)

    def _touch(self, keys: Sequence[bytes]) -> None:
        # Last block first: the ends of prefixes grow old before their beginnings, so no block is left without its
        # start.
        moment = self._clock()
        for key in reversed(keys):
            self._blocks[key].used = moment
            self._blocks.move_to_end(key)

    def _keys(self, tokens: Sequence[int], count: int, owner: str | None) -> list[bytes]:
        keys: list[bytes] = []
        parent = b"" if owner is None else hashlib.blake2b(owner.encode(), digest_size=16).digest()
        for index in range(count):
            part = array("q", tokens[index * self.block : (index + 1) * self.block]).tobytes()
            parent = hashlib.blake2b(parent + part, digest_size=16).digest()
            keys.append(parent)
        return keys
