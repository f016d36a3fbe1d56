"""Keys and values of earlier prompts, kept by blocks of tokens and copied into later prompts that begin alike.

A block is known by a hash of its tokens and of all blocks before it, so that equal hashes mean equal prefixes. What
is stored is bounded in bytes; the block that was longest unused goes first, and a block never outlives the one before
it in use.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from llmtrace.reference.kv import KVSlots, Saved

__all__ = ["DEFAULT_BLOCK", "DEFAULT_BYTES", "CacheCounters", "PrefixCache"]

DEFAULT_BLOCK = 16
"""Tokens per block."""
DEFAULT_BYTES = 512 * 1024 * 1024


@dataclass
class CacheCounters:
    """Since the start. Tokens, except where it says otherwise."""

    queries: int = 0
    """Prompt tokens that were looked up."""
    hits: int = 0
    """Prompt tokens that were served from the cache."""
    evictions: int = 0
    """Blocks that were dropped to make room."""
    blocks: int = 0
    """Blocks held now."""
    nbytes: int = 0
    """Bytes held now."""

    @property
    def misses(self) -> int:
        """Prompt tokens that had to be computed."""
        return self.queries - self.hits


class PrefixCache:
    """Not thread-safe: the thread that owns the model owns it. The counters may be read from anywhere."""

    def __init__(self, *, block: int = DEFAULT_BLOCK, max_bytes: int = DEFAULT_BYTES) -> None:
        if block < 1:
            raise ValueError("block must be at least 1 token")
        self.block = block
        self.max_bytes = max_bytes
        self.counters = CacheCounters()
        self._blocks: OrderedDict[bytes, Saved] = OrderedDict()

    def lookup(self, tokens: Sequence[int]) -> list[Saved]:
        """The longest stored prefix, in blocks. At least the last token is left to compute: its logits are needed."""
        found: list[Saved] = []
        keys = self._keys(tokens, (len(tokens) - 1) // self.block)
        for key in keys:
            saved = self._blocks.get(key)
            if saved is None:
                break
            found.append(saved)
        self._touch(keys[: len(found)])
        self.counters.queries += len(tokens)
        self.counters.hits += len(found) * self.block
        return found

    def store(self, tokens: Sequence[int], slots: KVSlots) -> None:
        """Keep the whole blocks of this sequence that are not stored yet."""
        count = min(len(tokens), slots.tokens) // self.block
        keys = self._keys(tokens, count)
        missing = [index for index, key in enumerate(keys) if key not in self._blocks]
        saved = slots.save(count * self.block) if missing else None
        if saved is not None:
            for index in missing:
                block = saved.cut(index * self.block, (index + 1) * self.block)
                self._blocks[keys[index]] = block
                self.counters.nbytes += block.nbytes
        self._touch([key for key in keys if key in self._blocks])
        while self.counters.nbytes > self.max_bytes and self._blocks:
            _, oldest = self._blocks.popitem(last=False)
            self.counters.nbytes -= oldest.nbytes
            self.counters.evictions += 1
        self.counters.blocks = len(self._blocks)

    def clear(self) -> None:
        """Drop everything; the counters of hits and misses stay."""
        self._blocks.clear()
        self.counters.blocks = self.counters.nbytes = 0

    def _touch(self, keys: Sequence[bytes]) -> None:
        # Last block first: the ends of prefixes grow old before their beginnings, so no block is left without its
        # start.
        for key in reversed(keys):
            self._blocks.move_to_end(key)

    def _keys(self, tokens: Sequence[int], count: int) -> list[bytes]:
        keys: list[bytes] = []
        parent = b""
        for index in range(count):
            part = array("q", tokens[index * self.block : (index + 1) * self.block]).tobytes()
            parent = hashlib.blake2b(parent + part, digest_size=16).digest()
            keys.append(parent)
        return keys
