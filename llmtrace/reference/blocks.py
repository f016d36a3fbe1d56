"""The engine's paged keys and values, with prefixes that belong to an adapter, and that grow old one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from transformers.generation.continuous_batching import cache, requests

if TYPE_CHECKING:
    from llmtrace.reference.prefix_cache import PrefixCache

__all__ = ["Blocks"]


_Cache: Any = cache.PagedAttentionCache


class Blocks(_Cache):
    """The engine's cache; `keep` says what of it outlives its request."""

    def keep(self, settings: PrefixCache | None, vocabulary: int) -> None:
        """Keep ended requests' blocks by these settings (None: not at all)."""
        self.write_only = False
        """Whether our own attention reads the cache, so that the engine only writes to it."""
        self.owners: dict[str, int] = {}
        """Whose keys and values a request's are, by its id: 0 for the base model, 1 for the first adapter..."""
        self.matched: Callable[[str], None] | None = None
        """Called with a request's id when its prefix has been found."""
        self.page = int(next(iter(self.cache_allocators.values())).tokens_per_page)
        self._settings = settings
        self._vocabulary = vocabulary
        self._released: dict[tuple[int, int], int] = {}  # (allocator, block) -> when it was last used, ns

    def update(self, key_states: Any, value_states: Any, layer_idx: int, kwargs: dict[str, Any]) -> tuple[Any, Any]:
        if not self.write_only:
            return super().update(key_states, value_states, layer_idx, kwargs)
        allocator = self.layer_to_allocator[layer_idx]
        new = [states.squeeze(0).transpose(0, 1) for states in (key_states, value_states)]
        at = allocator.index
        allocator.update(*new, layer_idx, kwargs["read_index"][at], kwargs["write_index"][at])
        return key_states, value_states

    def search_prefix_match(self, request_id: str, prompt_ids: list[int]) -> int:
        if self._settings is None:
            return 0
        tokens = int(super().search_prefix_match(request_id, self._owned(request_id, prompt_ids)))
        if tokens and self.matched is not None:
            self.matched(request_id)
        return tokens

    def mark_complete_blocks(self, state: Any, complete_blocks: Any) -> None:
        # The engine forgets the blocks that a request completes in its very last step; they are as good as others.
        known = SimpleNamespace(
            request_id=state.request_id,
            initial_tokens=self._owned(state.request_id, state.initial_tokens),
            generated_tokens=self._owned(state.request_id, state.generated_tokens),
            status=requests.RequestStatus.DECODING,
        )
        super().mark_complete_blocks(known, complete_blocks)

    def free_blocks(self, request_id: str, no_cache: bool = False) -> None:
        tables = [(each, each.block_table.get(request_id, [])) for each in self.cache_allocators.values()]
        super().free_blocks(request_id, no_cache or self._settings is None)
        if self._settings is None:
            return
        moment = self._settings.clock()
        for allocator, table in tables:
            idle = allocator.ledger.cached_blocks
            # Last block first: the ends of prefixes grow old before their beginnings, without which they are lost.
            for block in reversed(table):
                if block in idle:
                    del idle[block]
                    idle[block] = None
                    self._released[allocator.index, block] = moment

    def evict_cached_blocks(self) -> bool:
        if self._settings is not None:
            self._settings.counters.evictions += self._idle_blocks
        evicted = bool(super().evict_cached_blocks())
        self._released.clear()
        self._count()
        return evicted

    def tidy(self) -> None:
        """Drop idle blocks that are too old or too many, and those that would make the engine drop them all."""
        settings = self._settings
        if settings is None:
            return
        for allocator in self.cache_allocators.values():
            idle = allocator.ledger.cached_blocks
            limit = None if settings.ttl is None else settings.clock() - round(settings.ttl * 1e9)
            for block in list(idle):
                if limit is not None and self._released.get((allocator.index, block), limit) < limit:
                    settings.counters.expired += 1
                elif self._idle_bytes > settings.max_bytes or self._short():
                    settings.counters.evictions += 1
                else:
                    break
                del idle[block]
                allocator.ledger.hash_to_block.pop(allocator.ledger.block_to_hash.pop(block))
                self.pool.free_blocks(allocator.index, [block])
                self._released.pop((allocator.index, block), None)
        self._count()

    def _short(self) -> bool:
        """Whether so little is free that the engine would drop every idle block before the next step."""
        return self.compute_free_capacity() < _MARGIN

    def _count(self) -> None:
        if self._settings is not None:
            self._settings.counters.blocks = self._idle_blocks
            self._settings.counters.nbytes = self._idle_bytes

    @property
    def idle_tokens(self) -> int:
        """The tokens in blocks that no running request uses."""
        return self._idle_blocks * self.page

    @property
    def _idle_blocks(self) -> int:
        return sum(len(each.ledger.cached_blocks) for each in self.cache_allocators.values())

    @property
    def _idle_bytes(self) -> int:
        return sum(len(each.ledger.cached_blocks) * each.bytes_per_block for each in self.cache_allocators.values())

    def _owned(self, request_id: str, tokens: Sequence[int]) -> list[int]:
        """The tokens as the engine is to hash them: with another adapter they have other keys and values."""
        owner = self.owners.get(request_id, 0)
        return list(tokens) if owner == 0 else [token + owner * self._vocabulary for token in tokens]


_MARGIN = 0.15
"""The free share of the room below which the engine's first come, first served drops all idle blocks."""
