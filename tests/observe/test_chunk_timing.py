"""Pull times: exact sums, bounded memory, and whose pause a gap was."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from llmtrace.observe.chunk_timing import BLOCK, READY_NS, SAMPLE, ChunkTiming, ready_within
from tests.support.effort import examples

MS = 1_000_000


def feed(pulls: ChunkTiming, steps: list[tuple[int, int]], start: int = 10**15, handed_over: int | None = None) -> None:
    """ChunkTiming as (hold before asking, wait for the chunk), in ns."""
    at = start
    for hold, wait in steps:
        asked = at + hold
        at = asked + wait
        pulls.block += [asked, at]
        if len(pulls.block) >= 2 * BLOCK:
            pulls.fold(handed_over)
    pulls.fold(handed_over)


@settings(max_examples=examples(50), deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50_000), st.integers(300_000, 10**9)), min_size=1, max_size=700))
def test_count_sum_and_maximum_are_exact(steps: list[tuple[int, int]]) -> None:
    pulls = ChunkTiming()
    feed(pulls, steps)
    arrivals = [10**15]
    for hold, wait in steps:
        arrivals.append(arrivals[-1] + hold + wait)
    gaps = [after - before for before, after in pairwise(arrivals[1:])]
    assert pulls.total == len(steps)
    assert pulls.gap_count == len(gaps)
    assert pulls.gap_sum == sum(gaps)
    assert pulls.gap_max == max(gaps, default=0)
    assert pulls.last_arrival == arrivals[-1]


@settings(max_examples=examples(50), deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 4_000, 300_000, 3 * MS, 90 * MS]), st.sampled_from([1000, 400_000, 2 * MS, 20 * MS])
        ),
        min_size=1,
        max_size=700,
    )
)
def test_whose_pause_each_gap_was(steps: list[tuple[int, int]]) -> None:
    """A gap is the application's where it held the stream while the next chunk lay ready; however many chunks there
    were, and whether it held any of them or none."""
    pulls = ChunkTiming()
    feed(pulls, steps)
    own = [hold > READY_NS and wait < ready_within(hold) for hold, wait in steps[1:]]
    gaps = [hold + wait for (hold, wait), mine in zip(steps[1:], own, strict=True) if not mine]
    assert pulls.consumer_wait == sum(hold for (hold, _), mine in zip(steps[1:], own, strict=True) if mine)
    assert (pulls.gap_count, pulls.gap_sum, pulls.gap_max) == (len(gaps), sum(gaps), max(gaps, default=0))
    assert pulls.ordered() == sorted(pulls.gaps)


def test_memory_does_not_grow_with_the_stream() -> None:
    pulls = ChunkTiming()
    feed(pulls, [(1000, 10 * MS)] * 50_000)
    assert pulls.total == 50_000
    assert len(pulls.block) == 0
    assert len(pulls.gaps) <= SAMPLE
    assert pulls.gap_count == 49_999
    assert pulls.quantiles(0.5) == [0.010001]


def test_the_sample_keeps_the_shape_of_a_long_stream() -> None:
    pulls = ChunkTiming()
    feed(pulls, [(0, (i % 100 + 1) * MS) for i in range(20_000)])
    low, middle, high = pulls.quantiles(0.1, 0.5, 0.9) or (0, 0, 0)
    assert abs(low - 0.010) < 0.003
    assert abs(middle - 0.050) < 0.003
    assert abs(high - 0.090) < 0.003


def test_a_pause_of_the_application_is_not_the_models() -> None:
    pulls = ChunkTiming()
    feed(pulls, [(0, 10 * MS)] * 5 + [(300 * MS, 50_000)] * 3 + [(0, 10 * MS)] * 5)
    assert pulls.consumer_wait == 900 * MS
    assert pulls.gap_max == 10 * MS
    assert pulls.stalls() == (0, 0)


def test_a_pause_of_the_model_is_a_stall() -> None:
    pulls = ChunkTiming()
    feed(pulls, [(0, 10 * MS)] * 20 + [(0, 400 * MS)] + [(0, 10 * MS)] * 20)
    assert pulls.consumer_wait == 0
    assert pulls.stalls() == (1, 0.4)


def test_a_late_start_counts_what_lay_ready() -> None:
    pulls = ChunkTiming()
    handed_over = 10**15
    feed(pulls, [(300 * MS, 100_000), (0, 20_000), (0, 20_000), (0, 10 * MS)], handed_over=handed_over)
    assert pulls.buffered_head == 3
    assert pulls.consumer_wait == 300 * MS
