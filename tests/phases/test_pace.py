"""Times between tokens from times between chunks, and what tells a rhythm from another."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmtrace.observe.chunk_timing import BLOCK, LAST, ChunkTiming
from llmtrace.phases.pace import CHUNKS, COALESCED, LOGPROBS, SPECULATIVE, TOKENIZER, USAGE, Pace, Piece, pace

MS = 1_000_000
READY = 60_000


def judged(
    waits: Sequence[int], weights: Sequence[float], tokens: int | None, counted: str | None = None, hold: int = 0
) -> Pace:
    """The pace of a stream whose first token is its first chunk; ``waits`` in ns."""
    pulls = ChunkTiming()
    pulls.begun = 1
    at = 10**15
    for wait in waits:
        asked = at + hold
        at = asked + wait
        pulls.block += [asked, at]
        if len(pulls.block) >= 2 * BLOCK:
            pulls.fold()
    pulls.fold()
    shown = list(weights)[-LAST:]
    last = [Piece(gap, weight) for gap, weight in zip(pulls.last(len(shown)), shown, strict=True)]
    return pace(pulls, last, len(waits), tokens, counted)


def letters(rng: random.Random, tokens: int) -> float:
    return sum(rng.choice((1, 2, 3, 4, 5, 6, 8)) for _ in range(tokens))


def test_one_token_a_chunk_by_usage() -> None:
    found = judged([20 * MS] * 100, [4.0] * 98 + [0.0] * 2, 99)
    assert (found.per_chunk, found.basis) == (1.0, CHUNKS)
    assert (found.p50, found.p99, found.longest) == (0.02, 0.02, 0.02)
    assert found.pattern is None


def test_tokens_of_a_chunk_share_its_time() -> None:
    found = judged([40 * MS] * 100, [16.0] * 100, 400)
    assert (found.per_chunk, found.basis) == (4.0, USAGE)
    assert found.p50 == pytest.approx(0.01)
    assert found.pattern is None, "always as many: a server that sends every fourth token does that too"


def test_characters_share_out_usage_in_a_short_stream() -> None:
    found = judged([0, 10 * MS, 30 * MS, 10 * MS], [4, 4, 12, 4], 6)
    assert found.basis == USAGE
    assert found.p50 == found.p99 == found.longest == pytest.approx(0.01)


def test_log_probabilities_count_exactly() -> None:
    found = judged([0, 10 * MS, 30 * MS, 20 * MS], [1, 1, 3, 2], None, LOGPROBS)
    assert found.basis == LOGPROBS
    assert found.per_chunk == pytest.approx(7 / 4)
    assert found.p99 == pytest.approx(0.01)


def test_a_tokenizer_serves_without_usage() -> None:
    found = judged([40 * MS] * 60, [2.0] * 60, None, TOKENIZER)
    assert (found.per_chunk, found.basis) == (2.0, TOKENIZER)
    assert found.p50 == pytest.approx(0.02)


def test_nothing_told_nothing_said() -> None:
    assert judged([20 * MS] * 100, [4.0] * 100, None) == Pace()


def test_fewer_tokens_than_chunks_are_not_explained() -> None:
    found = judged([20 * MS] * 100, [1.0] * 100, 60)
    assert found.per_chunk == pytest.approx(0.6)
    assert (found.p50, found.basis) == (None, None)


def test_an_unsteady_stream_of_several_tokens_has_a_median_only() -> None:
    rng = random.Random(3)
    sizes = [rng.randint(1, 6) for _ in range(200)]
    found = judged([size * 10 * MS for size in sizes], sizes, sum(sizes), TOKENIZER)
    assert found.p50 == pytest.approx(0.01, rel=0.1)
    assert (found.p99, found.longest) == (None, None)


@pytest.mark.parametrize("counted", [TOKENIZER, None])
def test_speculation_varies_at_a_steady_pace(counted: str | None) -> None:
    rng = random.Random(5)
    sizes = [rng.choice((1, 1, 2, 3, 5)) for _ in range(200)]
    weights = sizes if counted else [letters(rng, size) for size in sizes]
    found = judged([int(30 * MS * rng.uniform(0.95, 1.05)) for _ in sizes], weights, sum(sizes), counted)
    assert found.pattern == SPECULATIVE


def test_speculation_of_a_server_that_sends_each_token_alone() -> None:
    rng = random.Random(6)
    waits: list[int] = []
    for _ in range(80):
        waits += [30 * MS, *[READY] * rng.choice((0, 0, 1, 2, 4))]
    assert judged(waits, [4.0] * len(waits), len(waits)).pattern == SPECULATIVE


def test_what_a_network_held_back_is_made_up_for() -> None:
    waits: list[int] = []
    for _ in range(6):
        waits += [20 * MS] * 12 + [160 * MS, *[READY] * 7]
    found = judged(waits, [4.0] * len(waits), len(waits))
    assert found.pattern == COALESCED
    assert found.made_up == 6


def test_a_pause_of_the_model_is_neither() -> None:
    found = judged(([20 * MS] * 20 + [400 * MS]) * 4, [4.0] * 84, 84)
    assert found.pattern is None
    assert found.made_up == 0


def test_always_as_many_at_once_is_not_told_apart() -> None:
    waits = [80 * MS, READY, READY, READY] * 30
    assert judged(waits, [4.0] * len(waits), len(waits)).pattern is None


def test_an_engine_too_fast_to_tell_by() -> None:
    waits = [300_000, 50_000, 50_000, 300_000] * 50
    assert judged(waits, [4.0] * len(waits), len(waits)).pattern is None


def test_the_last_gaps_outlive_the_blocks() -> None:
    for count in (1, 5, LAST, LAST + 1, BLOCK - 1, BLOCK, BLOCK + 3, 3 * BLOCK):
        pulls = ChunkTiming()
        for i in range(count):
            pulls.block += [i * MS + 1000, (i + 1) * MS]
            if len(pulls.block) >= 2 * BLOCK:
                pulls.fold()
        pulls.fold()
        told = pulls.last(LAST)
        assert len(told) == min(count, LAST)
        assert told == [None] * (count <= LAST) + [MS] * (len(told) - (count <= LAST))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 40)), min_size=2, max_size=60),
    st.none() | st.integers(0, 500),
    st.sampled_from([None, LOGPROBS, TOKENIZER]),
    st.integers(0, 5 * MS),
)
def test_whatever_the_stream_was(
    chunks: list[tuple[int, int]], tokens: int | None, counted: str | None, hold: int
) -> None:
    found = judged([wait for wait, _ in chunks], [float(size) for _, size in chunks], tokens, counted, hold)
    times = [time for time in (found.p50, found.p99, found.longest) if time is not None]
    assert times == sorted(times)
    assert all(time >= 0 for time in times)
    assert (found.basis is None) == (found.p50 is None)
