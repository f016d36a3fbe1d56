"""The prefix cache alone, over plain tensors."""

from __future__ import annotations

from typing import Any

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
    slots: Any = Slots(tokens)
    cache.store(tokens, slots)


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
    slots: Any = Slots(tokens)
    cache.store(tokens, slots)
    cache.store(tokens, slots)
    slots._row.zero_()
    assert cache.counters.nbytes == 2 * BLOCK_BYTES
    assert found(cache, [*tokens, 9]) == tokens
    cache.clear()
    assert found(cache, [*tokens, 9]) == []


def test_a_block_has_at_least_one_token() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        PrefixCache(block=0)


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
