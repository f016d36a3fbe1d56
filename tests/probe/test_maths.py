"""What the probe makes of numbers whose truth is known, because they were made up."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmtrace.probe import plan
from llmtrace.probe.maths import bursts, cache, chunks, fits
from llmtrace.probe.maths.bursts import Stream
from llmtrace.probe.maths.cache import Idle, Reuse
from llmtrace.probe.maths.chunks import Window

SEEDS = st.integers(0, 2**32)


def prompts(chance: random.Random, fixed: float, per_token: float, square: float, noise: float) -> list[fits.Point]:
    """Calls as ``curve`` sends them, each with noise and some with a wait."""
    points: list[fits.Point] = []
    for tokens in plan.sizes(3000) * plan.ROUNDS:
        seconds = fixed + per_token * tokens + square * tokens * tokens
        wait = chance.expovariate(5) if chance.random() < 0.1 else 0.0
        points.append((tokens, seconds * chance.lognormvariate(0, noise) + wait))
    return points


def test_the_interval_of_a_prompts_cost_holds_the_truth_nine_times_in_ten() -> None:
    held = 0
    for seed in range(8):
        cost = fits.prompt_cost(prompts(random.Random(seed), 0.05, 2e-4, 0.0, 0.1))
        assert cost is not None
        held += cost.thousand.low <= 0.25 <= cost.thousand.high
    assert held >= 5  # fewer come once in 200 times if it holds in 90 of 100


def test_a_cost_that_bends_is_seen_to_bend() -> None:
    cost = fits.prompt_cost(prompts(random.Random(1), 0.02, 1e-4, 1e-7, 0.03))
    assert cost is not None
    assert cost.per_square is not None
    assert cost.per_square.low <= 1e-7 <= cost.per_square.high


@given(st.lists(st.tuples(st.floats(1, 1e5), st.floats(0, 1e3)), max_size=8))
@settings(max_examples=8)
def test_any_numbers_give_an_ordered_interval_or_none(points: list[fits.Point]) -> None:
    cost = fits.prompt_cost(points)
    if cost is not None:
        for interval in (cost.fixed, cost.per_token, cost.thousand):
            assert 0 <= interval.low <= interval.value <= interval.high


@given(SEEDS, st.sampled_from((1, 16, 64, 128, 100)), st.floats(-0.03, 0.03))
def test_block_and_minimum_come_from_counts_alone(seed: int, size: int, off: float) -> None:
    chance = random.Random(seed)
    longest = 24 * size + 100
    shared = [round(longest * (i + 0.15 + 0.7 * chance.random()) / plan.BRANCHES) for i in range(plan.BRANCHES)]
    reuses = [Reuse(round(true * (1 + off)), true // size * size) for true in shared]
    found = cache.block(reuses)
    assert found is not None
    assert found % size == 0
    assert found == math.gcd(*(reuse.cached for reuse in reuses if reuse.cached))
    edges = cache.minimum(reuses)
    assert edges is not None
    assert edges[0] < edges[1] == min(reuse.cached for reuse in reuses if reuse.cached)


def test_blocks_are_right_in_nearly_all_draws() -> None:
    right = 0
    for seed in range(300):
        chance = random.Random(seed)
        shared = [2400 * (i + 0.15 + 0.7 * chance.random()) / plan.BRANCHES for i in range(plan.BRANCHES)]
        right += cache.block([Reuse(int(each), int(each) // 128 * 128) for each in shared]) == 128
    assert right >= 290


@given(SEEDS, st.floats(0.5, 100))
def test_the_life_of_a_prefix_is_between_what_was_kept_and_what_was_not(seed: int, life: float) -> None:
    chance = random.Random(seed)
    idles = [Idle(each := chance.uniform(0.1, 120), each <= life) for _ in range(12)]
    low, high = cache.life(idles)
    assert low <= life < high or (low <= life and math.isinf(high))


def test_a_prefix_that_was_lost_early_does_not_shorten_the_life() -> None:
    idles = [Idle(1, True), Idle(2, False), Idle(3, True), Idle(4, True), Idle(8, False), Idle(16, False)]
    assert cache.life(idles) == (4, 8)


def engine(slots: int, lengths: list[float], prefill: float, jitter: random.Random, lifo: bool = False) -> list[Stream]:
    """Calls sent 4 ms after one another to an engine with so many slots."""
    free = [0.0] * slots
    waiting = [(0.004 * i, length) for i, length in enumerate(lengths)]
    streams: list[Stream] = []
    while waiting:
        slot = min(range(slots), key=lambda i: free[i])
        there = [call for call in waiting if call[0] <= free[slot]] or waiting[:1]
        call = there[-1] if lifo else there[0]
        waiting.remove(call)
        begin = max(free[slot], call[0])
        first, end = begin + prefill, begin + prefill + call[1]
        free[slot] = end
        late = [jitter.expovariate(500) for _ in range(2)]
        streams.append(Stream(call[0], first + late[0], max(end, first + late[0]) + late[1]))
    return streams


@given(SEEDS, st.integers(1, 12))
def test_the_limit_on_calls_at_once_is_counted(seed: int, slots: int) -> None:
    chance = random.Random(seed)
    lengths = [2.0 * (0.75 + i / 32) for i in range(16)]
    chance.shuffle(lengths)
    assert bursts.level(engine(slots, lengths, 0.03, chance)) == slots


def test_no_limit_is_seen_where_all_began_before_one_ended() -> None:
    assert bursts.level(engine(16, [1.0] * 16, 0.01, random.Random(0))) is None


@pytest.mark.parametrize(("lifo", "order"), [(False, "fifo"), (True, "lifo")])
def test_the_order_of_those_that_wait(lifo: bool, order: str) -> None:
    chance = random.Random(0)
    lengths = [1.5 + chance.random() for _ in range(16)]
    named = bursts.discipline(engine(4, lengths, 0.01, chance, lifo))
    assert named is not None
    assert named[0] == order


def window(prompt: int, chunk: int, chance: random.Random, plain: float = 0.01, noise: float = 0.5) -> Window:
    """A stream's gaps while a prompt is computed beside it, on a machine that is busy with other things too."""
    parts = [min(chunk, prompt - at) for at in range(0, prompt, chunk)]
    slow = [plain + 3e-4 * part * chance.lognormvariate(0, noise) for part in parts]
    gaps = [plain * chance.lognormvariate(0, noise) for _ in range(3)] + slow
    return Window(prompt, gaps, plain, sum(gaps))


@pytest.mark.parametrize("size", [128, 256, 512, 511, 1024])
def test_the_chunk_is_counted_off_the_stalls(size: int) -> None:
    right = 0
    for seed in range(10):
        chance = random.Random(seed)
        windows = [window(round(share * 3000), size, chance) for share in plan.BESIDE_SIZES]
        found = chunks.chunk(windows)
        assert found is not None
        right += found.value == 2 ** round(math.log2(size)) and found.low <= size <= found.high
    assert right >= 9


def test_a_prompt_that_is_computed_whole_has_no_chunk() -> None:
    chance = random.Random(0)
    whole = chunks.chunk([window(round(share * 3000), 10_000, chance) for share in plan.BESIDE_SIZES])
    assert whole is not None
    assert whole.value is None
    assert whole.low == 3000


def test_a_stream_that_never_stalls_says_nothing_of_chunks() -> None:
    assert chunks.chunk([Window(2000, [0.01] * 50, 0.01, 0.5)] * 4) is None


@given(st.lists(st.builds(Window, st.integers(1, 5000), st.lists(st.floats(0, 10)), st.floats(0, 1), st.floats(0, 9))))
@settings(max_examples=25)
def test_any_gaps_give_a_chunk_in_its_interval_or_none(windows: list[Window]) -> None:
    found = chunks.chunk(windows)
    if found is not None and found.value is not None:
        assert found.low <= found.value <= found.high
