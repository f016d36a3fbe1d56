"""Starts that fall below the microsecond, and what Jaeger makes of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmtrace.phases import stagger
from llmtrace.phases.model import CLIENT, Part, Phase
from llmtrace.phases.stagger import call_start, falling, stagger_phases, stagger_spans
from tests.support.effort import examples
from tests.support.jaeger import bar, critical_path

Span = tuple[int, int]


def off_the_path(parent: Span, children: Sequence[Span]) -> list[int]:
    """The children, by number, that Jaeger's critical path misses."""
    trace = [bar("parent", None, *parent), *(bar(number, "parent", *child) for number, child in enumerate(children))]
    return sorted(set(range(len(children))) - critical_path(trace))


# --- the starts -----------------------------------------------------------------------------------------------------
moments = st.integers(0, 5_000) | st.integers(0, 10**7)


@st.composite
def boundaries(draw: st.DrawFn) -> tuple[int, list[int], int]:
    """A start, moments in order, an end: crowded or far apart."""
    inside = sorted(draw(st.lists(moments, max_size=8)))
    start = draw(st.integers(-3_000, 0)) + (inside[0] if inside else 0)
    end = (inside[-1] if inside else start) + draw(st.integers(0, 3_000))
    return start, inside, max(start, end)


def falls(times: Sequence[int]) -> bool:
    return all(before % 1000 > after % 1000 for before, after in itertools.pairwise(times))


@settings(max_examples=examples(200), deadline=None)
@given(boundaries())
def test_order_lengths_and_shifts(given_times: tuple[int, list[int], int]) -> None:
    start, inside, end = given_times
    moved = falling(start, inside, end)
    assert len(moved) == len(inside)
    assert all(abs(after - before) < 1000 for before, after in zip(inside, moved, strict=True))
    for was, now in zip(
        itertools.pairwise([start, *inside, end]), itertools.pairwise([start, *moved, end]), strict=True
    ):
        assert (now[1] - now[0] > 0) == (was[1] - was[0] > 0), "no length stays none, some stays some"
        assert now[1] >= now[0]


@settings(max_examples=examples(75), deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(2_000, 10**8), min_size=1, max_size=12))
def test_with_two_microseconds_each_all_of_them_fall(start: int, lengths: list[int]) -> None:
    start = call_start(start)
    times = [start, *itertools.accumulate(lengths, initial=start)][1:]
    moved = falling(start, times[1:-1], times[-1])
    assert falls([start, *moved])


def possible(start: int, inside: Sequence[int], end: int) -> bool:
    """Whether any shifts of less than a step let the starts fall: all of them tried, with a step of ten for speed."""
    if not inside:
        return True
    for moved in range(max(inside[0] - 9, start + 1), min(inside[0] + 9, end - 1) + 1):
        if moved % 10 < start % 10 and possible(moved, inside[1:], end):
            return True
    return False


@settings(max_examples=examples(150), deadline=None)
@given(st.integers(0, 9), st.lists(st.integers(1, 12), min_size=1, max_size=4), st.integers(1, 12))
def test_they_fall_wherever_shifts_of_less_than_a_microsecond_let_them(
    start: int, lengths: list[int], last: int
) -> None:
    """Against every possibility there is. Times in tenths of a microsecond, so that they can all be tried."""
    inside = [*itertools.accumulate(lengths, initial=start)][1:]
    end = inside[-1] + last
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stagger, "_MICROSECOND", 10)
        patch.setattr(stagger, "_MOST_SHIFT", 9)
        moved = falling(start, inside, end)
    fell = all(before % 10 > after % 10 for before, after in itertools.pairwise([start, *moved]))
    assert fell == possible(start, inside, end)


def test_after_a_start_that_leaves_no_room_the_rest_falls() -> None:
    """A span of another instrumentation may start anywhere: only the first pair is lost."""
    moved = falling(5_000_000, [6_000_000, 7_000_000, 8_000_000], 9_000_000)
    assert falls(moved)
    assert moved[0] % 1000 == 999


def test_a_call_starts_at_the_top_of_a_microsecond_at_most_999_ns_early() -> None:
    for moment in (*range(0, 3_000, 7), 999, 1_000, 1_998, 1_999):
        start = call_start(moment)
        assert start % 1000 == 999
        assert 0 <= moment - start <= 999


# --- phases and attempts --------------------------------------------------------------------------------------------
@settings(max_examples=examples(75), deadline=None)
@given(st.integers(0, 10**7), st.lists(st.just(0) | st.integers(2_000, 10**9), min_size=1, max_size=8))
def test_all_phases_that_last_are_on_jaegers_critical_path(start: int, lengths: list[int]) -> None:
    start = call_start(start)
    times = [*itertools.accumulate(lengths, initial=start)]
    phases = [Phase("decode", begin, end, CLIENT) for begin, end in itertools.pairwise(times)]
    stagger_phases(phases)
    spans = [(phase.start, phase.end) for phase in phases]
    assert spans[0][0] == start
    assert spans[-1][1] == times[-1]
    assert all(before[1] == after[0] for before, after in itertools.pairwise(spans))
    lasting = [span for span in spans if span[1] > span[0]]
    assert off_the_path((start, times[-1]), lasting) == []
    off = off_the_path((start, times[-1]), spans)
    assert all(spans[n][0] == spans[n][1] for n in off), "only what took no time may be off the path"


def test_without_it_phases_are_off_the_path() -> None:
    """What Jaeger makes of phases as they were: it depends on the parts below a microsecond."""
    phases = [(0, 2_000_500), (2_000_500, 5_000_700), (5_000_700, 9_000_000)]
    assert off_the_path((0, 9_000_000), phases) == [1]


def test_parts_of_a_phase_move_with_it() -> None:
    decode = Phase("decode", 2_000_000, 9_000_000, CLIENT)
    decode.parts = (Part("reasoning", 2_000_000, 5_000_000), Part("output", 5_000_000, 9_000_000))
    phases = [Phase("network", 999, 2_000_000, CLIENT), decode]
    stagger_phases(phases)
    reasoning, output = decode.parts
    assert (reasoning.start, output.end) == (decode.start, decode.end)
    assert reasoning.end == output.start
    assert 999 > decode.start % 1000 > output.start % 1000
    spans = [(part.start, part.end) for part in decode.parts]
    assert off_the_path((decode.start, decode.end), spans) == []


attempts = st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**7)), min_size=2, max_size=6)


@settings(max_examples=examples(75), deadline=None)
@given(st.integers(0, 10**7), st.integers(-(10**6), 10**9), attempts)
def test_attempts_stay_inside_and_in_order(start: int, length: int, given_attempts: list[Span]) -> None:
    """Whatever the attempts' times are, contradictions included."""
    end = start + max(0, length)
    moved = stagger_spans(start, given_attempts, end)
    assert len(moved) == len(given_attempts)
    at = start
    for begin, stop in moved:
        assert at <= begin <= stop
        at = stop
    assert at <= end


@settings(max_examples=examples(75), deadline=None)
@given(
    st.integers(0, 10**7),
    st.lists(st.tuples(st.just(0) | st.integers(0, 10**6), st.integers(5_000, 10**8)), min_size=2, max_size=8),
)
def test_attempts_are_on_the_path_also_without_a_pause(start: int, pauses: list[Span]) -> None:
    start = call_start(start)
    at, times = start + 2_000, list[Span]()
    for pause, length in pauses:
        times.append((at + pause, at + pause + length))
        at = times[-1][1]
    moved = stagger_spans(start, times, at)
    assert falls([start, *(begin for begin, _ in moved)])
    assert off_the_path((start, at), moved) == []
    for was, now in zip(times, moved, strict=True):
        assert abs(was[0] - now[0]) < 1000
        assert abs(was[1] - now[1]) < 1000


def test_no_spans_are_no_spans() -> None:
    assert stagger_spans(5, [], 10) == []
