"""What outlives its request: which blocks hit, which go first, and how long they stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llmtrace.observe.clock import now
from llmtrace.reference import LoadedModel
from llmtrace.reference.prefix_cache import PrefixCache
from llmtrace.reference.runner import Request, Runner
from llmtrace.reference.sampling import Sampling
from llmtrace.reference.timings import Timings
from tests.support.late import Late

if TYPE_CHECKING:
    import torch
else:
    torch = Late("torch")

BLOCK_BYTES = 4 * 2 * 2 * 32 * 4
"""4 tokens, 2 layers, keys and values of one head of width 32, float32."""


def prompt_of(tokens: int, seed: int) -> list[int]:
    return torch.randint(5, 500, (tokens,), generator=torch.Generator().manual_seed(seed)).tolist()


def cached(runner: Runner, prompt: list[int]) -> int:
    """Ask for one token; how many of the prompt came from the cache."""
    timings = Timings(arrived=now())
    list(runner.generate(Request(prompt, 1, Sampling(0), ignore_eos=True), timings))
    return timings.cached_tokens


def test_only_a_common_beginning_hits_and_the_last_token_never(small: LoadedModel) -> None:
    cache = PrefixCache(block=4)
    runner = Runner(small, prefix_cache=cache)
    tokens = prompt_of(12, 0)
    assert cached(runner, tokens) == 0
    assert cached(runner, tokens) == 8, "of 12 tokens 8: the last block holds the last token"
    assert cached(runner, [*tokens, 1]) == 12
    assert cached(runner, [*tokens[:6], 0, 0, *tokens[8:]]) == 4
    assert cached(runner, [0, *tokens]) == 0, "the same blocks elsewhere are no prefix"
    assert cached(runner, tokens[:4]) == 0
    counters = cache.counters
    assert (counters.queries, counters.hits) == (12 + 12 + 13 + 12 + 13 + 4, 8 + 12 + 4)
    assert counters.misses == counters.queries - counters.hits


def test_bytes_are_bounded_and_the_longest_unused_goes_first(small: LoadedModel) -> None:
    cache = PrefixCache(block=4, max_bytes=4 * BLOCK_BYTES)
    runner = Runner(small, prefix_cache=cache)
    old, new = prompt_of(8, 1), prompt_of(8, 2)
    cached(runner, old)
    cached(runner, new)
    assert cache.counters.nbytes == 4 * BLOCK_BYTES
    assert cached(runner, [*old, 1]) == 8, "and now it is the newest"
    cached(runner, prompt_of(4, 3))
    assert cache.counters.evictions == 1
    assert cache.counters.nbytes == 4 * BLOCK_BYTES
    assert cached(runner, [*new, 1]) == 4, "the end of a prefix goes before its beginning"


def test_a_small_room_drops_the_oldest_and_not_everything(small: LoadedModel) -> None:
    cache = PrefixCache(block=4)
    runner = Runner(small, prefix_cache=cache, cache_tokens=80)
    prompts = [prompt_of(16, seed) for seed in range(8)]
    for prompt in prompts:
        cached(runner, prompt)
    assert cache.counters.evictions > 0
    assert cached(runner, prompts[-1]) == 12
    assert cached(runner, prompts[0]) == 0


def test_what_nobody_used_for_too_long_goes(small: LoadedModel) -> None:
    moment = [0]
    cache = PrefixCache(block=4, ttl=10.0, clock=lambda: moment[0])
    runner = Runner(small, prefix_cache=cache)
    old, kept = prompt_of(8, 1), prompt_of(8, 2)
    cached(runner, old)
    moment[0] = 6_000_000_000
    cached(runner, kept)
    moment[0] = 10_500_000_000
    assert cached(runner, [*kept, 1]) == 8
    assert cache.counters.expired == 2
    assert cache.counters.nbytes == 2 * BLOCK_BYTES
    assert cached(runner, [*old, 1]) == 0
    moment[0] = 20_000_000_000
    assert cached(runner, [*kept, 1]) == 8, "its use made it young again"
    moment[0] = 31_000_000_000
    assert cached(runner, [*kept, 1]) == 0
    assert cache.counters.evictions == 0


def test_without_a_cache_nothing_is_reused(small: LoadedModel) -> None:
    runner = Runner(small)
    prompt = prompt_of(300, 1)
    assert [cached(runner, prompt) for _ in range(2)] == [0, 0]
    assert runner.used_tokens == 0


def test_further_choices_are_not_counted_as_lookups(small: LoadedModel) -> None:
    cache = PrefixCache(block=4)
    runner = Runner(small, prefix_cache=cache)
    list(runner.generate(Request(prompt_of(13, 1), 2, Sampling(0), choices=3, ignore_eos=True)))
    assert (cache.counters.queries, cache.counters.hits) == (13, 0)


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match="at least 4"):
        PrefixCache(block=3)
    with pytest.raises(ValueError, match="more than 0 seconds"):
        PrefixCache(ttl=0)
