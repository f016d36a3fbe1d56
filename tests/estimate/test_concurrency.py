"""What a route's traffic says around one call, against the plain count over all its calls."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from llmtrace.estimate.concurrency import KEPT, InFlight, Traffic

STEP = 20


@dataclass
class Times:
    start: int
    first: int
    end: int
    tokens: int


@st.composite
def several(draw: st.DrawFn) -> list[Times]:
    """Calls whose moments all differ: what two calls of one nanosecond are to each other, nobody minds."""
    count = draw(st.integers(2, 24))
    moments = draw(st.lists(st.integers(1, 2000), min_size=3 * count, max_size=3 * count, unique=True))
    calls = [Times(*sorted(moments[3 * i : 3 * i + 3]), tokens=draw(st.integers(1, 100))) for i in range(count)]
    return sorted(calls, key=lambda call: call.start)


def play(calls: list[Times]) -> None:
    """Play the calls in order of time and compare each one's surroundings, at its end, with a count over all."""
    traffic, flying = Traffic(), dict[int, InFlight]()
    moments = sorted(
        (at, what, i)
        for i, call in enumerate(calls)
        for what, at in (("begin", call.start), ("first", call.first), ("end", call.end))
    )
    for now, what, i in moments:
        call = calls[i]
        if what == "begin":
            flying[i] = traffic.begin(now, 4 * call.tokens)
        elif what == "first":
            flying[i].first_token_came(now)
        else:
            ready = call.start + (call.first - call.start) // 3
            around = traffic.around(flying[i], call.start, ready, call.first, STEP, 0.25)
            others = [other for number, other in enumerate(calls) if number != i]
            over = [other for other in others if other.end <= now]
            assert around.whole
            assert around.ahead == sum(o.start < call.start and o.end > ready for o in others)
            assert around.decoding == sum(o.first <= ready < o.end for o in others)
            assert around.ends == sorted(o.end for o in over if o.start < call.start and ready < o.end < call.first)
            seen = sorted((o.first, o.tokens) for o in others if ready < o.first <= min(now, call.first + STEP))
            beside, edge = 0, call.first
            while seen and edge - seen[-1][0] <= STEP:
                came, tokens = seen.pop()
                edge, beside = min(edge, came), beside + tokens
            assert around.beside == beside
            assert list(around.firsts) == [came for came, _ in seen]
            traffic.end(flying[i], call.first, now, call.tokens)
    assert traffic.open == 0


@given(several())
def test_it_is_the_plain_count_over_all_calls(calls: list[Times]) -> None:
    play(calls)


def test_first_tokens_read_one_after_the_other_came_in_one_step() -> None:
    traffic, moment = Traffic(), 10**9
    for number, (first, tokens) in enumerate([(9_000_000, 1), (3_500_000, 10), (1_800_000, 100)]):
        other = traffic.begin(number, 0)
        traffic.end(other, moment - first, moment + 10**9, tokens)
    around = traffic.around(traffic.begin(5, 0), 5, 10, moment, 2_000_000, 0.25)
    assert around.beside == 110, "each within 2 ms of the next"
    assert list(around.firsts) == [moment - 9_000_000]
    assert around.ahead == 3


def test_it_says_when_something_may_have_been_forgotten() -> None:
    traffic = Traffic()
    early = traffic.begin(0, 0)
    for number in range(1, 3 * KEPT):
        other = traffic.begin(10 * number, 0)
        other.first_token_came(10 * number + 2)
        traffic.end(other, 10 * number + 2, 10 * number + 5, 1)
    assert not traffic.around(early, 0, 1, 10**6, 1, 0.25).whole
    late = traffic.begin(10**6, 0)
    around = traffic.around(late, 10**6, 10**6 + 1, 10**6 + 2, 1, 0.25)
    assert (around.whole, around.ahead, around.decoding) == (True, 1, 0)
    assert len(traffic._ends) <= 2 * KEPT


def test_a_first_token_that_really_came_earlier_is_moved() -> None:
    traffic = Traffic()
    other, me = traffic.begin(0, 400), traffic.begin(10, 400)
    other.first_token_came(500)  # the application read it late
    traffic.end(other, 300, 900, 77)
    assert list(traffic.around(me, 10, 20, 800, 1, 0.25).firsts) == [300]


def test_a_dropped_call_counts_for_nothing_and_one_from_before_a_fork_is_let_go() -> None:
    traffic = Traffic()
    dropped, me = traffic.begin(0, 0), traffic.begin(10, 0)
    dropped.first_token_came(15)
    traffic.drop(dropped)
    around = traffic.around(me, 10, 20, 100, 1, 0.25)
    assert (around.ahead, around.decoding, around.ends) == (0, 0, [])
    traffic.forget()
    traffic.end(me, 30, 40, 5)
    assert traffic.open == 0


@given(calls=several(), moment=st.integers(0, 2000), start=st.integers(0, 2000))
def test_what_went_on_since_a_moment_is_what_a_count_over_all_says(calls: list[Times], moment: int, start: int) -> None:
    traffic = Traffic()
    flying = [traffic.begin(call.start, 0) for call in calls]
    for call, in_flight in zip(calls, flying, strict=True):
        traffic.end(in_flight, call.first, call.end, call.tokens)
    later = [call for call in calls if call.end > moment]
    assert traffic.since(moment, start) == (
        sum(call.tokens for call in later if call.start > start),
        sum(1 for call in later if call.start <= start),
    )
