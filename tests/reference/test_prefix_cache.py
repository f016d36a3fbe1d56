"""The prefix cache alone, over plain tensors."""

from __future__ import annotations

import pytest
import torch

from llmtrace.reference.kv import Saved, can_reuse
from llmtrace.reference.prefix_cache import PrefixCache

BLOCK_BYTES = 2 * 4 * 4  # keys and values of 4 tokens, one layer, one head, width 1, float32


class Slots:
    """Keys and values that tell which token they belong to."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = len(tokens)
        self._row = torch.tensor(tokens, dtype=torch.float32).reshape(1, 1, -1, 1)

    def save(self, end: int) -> Saved:
        return Saved(self._row[:, :, :end], -self._row[:, :, :end])


def store(cache: PrefixCache, tokens: list[int]) -> None:
    cache.store(tokens, Slots(tokens).save)


def found(cache: PrefixCache, tokens: list[int]) -> list[int]:
    return [int(value) for saved in cache.lookup(tokens) for value in saved.keys.flatten()]


def test_only_a_common_beginning_hits_and_the_last_token_never() -> None:
    cache = PrefixCache(block=4)
    tokens = list(range(100, 112))
    store(cache, tokens)
    assert found(cache, tokens) == tokens[:8], "of 12 stored tokens 8: the last block holds the last token"
    assert found(cache, [*tokens, 1]) == tokens
    assert found(cache, [*tokens[:6], 0, 0, *tokens[8:]]) == tokens[:4]
    assert found(cache, [0, *tokens]) == [], "the same blocks elsewhere are no prefix"
    assert found(cache, tokens[:4]) == []
    counters = cache.counters
    assert (counters.queries, counters.hits) == (12 + 13 + 12 + 13 + 4, 8 + 12 + 4)
    assert counters.misses == counters.queries - counters.hits


def test_bytes_are_bounded_and_the_longest_unused_goes_first() -> None:
    cache = PrefixCache(block=4, max_bytes=4 * BLOCK_BYTES)
    old, new = list(range(0, 8)), list(range(50, 58))
    store(cache, old)
    store(cache, new)
    assert cache.counters.nbytes == 4 * BLOCK_BYTES
    assert found(cache, [*old, 1]) == old, "and now it is the newest"
    store(cache, list(range(80, 84)))
    assert cache.counters.evictions == 1
    assert cache.counters.nbytes == 4 * BLOCK_BYTES
    assert found(cache, [*new, 1]) == new[:4], "the end of a prefix goes before its beginning"
    assert found(cache, [*old, 1]) == old


def test_what_does_not_fit_at_all_is_not_kept() -> None:
    cache = PrefixCache(block=4, max_bytes=BLOCK_BYTES // 2)
    store(cache, list(range(16)))
    assert cache.counters.nbytes == 0
    assert cache.counters.blocks == 0
    assert found(cache, list(range(16))) == []


def test_storing_twice_holds_once_and_copies_are_its_own() -> None:
    cache = PrefixCache(block=4)
    tokens = list(range(8))
    slots = Slots(tokens)
    assert cache.store(tokens, slots.save) == 2
    assert cache.store(tokens, slots.save) == 0
    slots._row.zero_()
    assert cache.counters.nbytes == 2 * BLOCK_BYTES
    assert found(cache, [*tokens, 9]) == tokens
    cache.clear()
    assert found(cache, [*tokens, 9]) == []


def test_what_nobody_used_for_too_long_goes() -> None:
    moment = [0]
    cache = PrefixCache(block=4, ttl=10.0, clock=lambda: moment[0])
    old, kept = list(range(8)), list(range(50, 58))
    store(cache, old)
    moment[0] = 6_000_000_000
    store(cache, kept)
    moment[0] = 10_500_000_000
    assert found(cache, [*kept, 1]) == kept
    assert cache.counters.expired == 2
    assert cache.counters.nbytes == 2 * BLOCK_BYTES
    assert found(cache, [*old, 1]) == []
    moment[0] = 20_000_000_000
    assert found(cache, [*kept, 1]) == kept, "its use made it young again"
    moment[0] = 31_000_000_000
    assert found(cache, [*kept, 1]) == []
    assert (cache.counters.blocks, cache.counters.nbytes, cache.counters.evictions) == (0, 0, 0)


def test_what_is_looked_up_again_is_not_counted_again() -> None:
    cache = PrefixCache(block=4)
    store(cache, list(range(8)))
    assert len(cache.lookup([*range(8), 9], counted=False)) == 2
    assert (cache.counters.queries, cache.counters.hits) == (0, 0)


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        PrefixCache(block=0)
    with pytest.raises(ValueError, match="more than 0 seconds"):
        PrefixCache(ttl=0)


def test_recurrent_models_run_without_reuse() -> None:
    class Config:
        model_type = "qwen3_next"
        layer_types = ["linear_attention", "full_attention"]

    class Mamba:
        model_type = "mamba2"

    class Plain:
        model_type = "llama"

    assert not can_reuse(Config())
    assert not can_reuse(Mamba())
    assert can_reuse(Plain())
