"""Cache hits from timing: claimed where repeats run faster, never where they do not; bad times change nothing."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmtrace.phases.hits import LEAST, ROUTES, SAMPLE, Hits, RouteHits


def taught(fresh: float, repeated: float, *, hit_share: float = 1.0, calls: int = 200, seed: int = 1) -> Hits:
    """A route that has seen ``calls`` of each kind with lognormal scatter of 15 %; times in seconds."""
    draw = random.Random(seed)
    hits = Hits()
    for _ in range(calls):
        hits.learn(fresh * draw.lognormvariate(0, 0.15), False)
        mine = repeated if draw.random() < hit_share else fresh
        hits.learn(mine * draw.lognormvariate(0, 0.15), True)
    return hits


def test_faster_repeats_are_hits() -> None:
    hits = taught(0.3, 0.15)
    for pace, hit in ((0.15, True), (0.3, False), (0.01, True), (5.0, False)):
        verdict = hits.verdict([pace])
        assert verdict is not None
        assert verdict.hit is hit, (pace, verdict)


def test_the_fastest_of_several_decides() -> None:
    """One slow call among three is a queue, not a miss; and three calls are surer than one."""
    hits = taught(0.3, 0.2)
    alone, three = hits.verdict([0.19]), hits.verdict([0.19, 0.9, 0.5])
    assert alone is not None
    assert three is not None
    assert three.hit
    assert three.calls == 3
    among = hits.verdict([0.26] * 3)
    single = hits.verdict([0.26])
    assert among is not None
    assert single is not None
    assert among.probability < single.probability, "three hits would not all have been this slow"


def test_the_share_of_hits_is_found() -> None:
    verdict = taught(0.4, 0.1, hit_share=0.6).verdict([0.1])
    assert verdict is not None
    assert verdict.prior == pytest.approx(0.6, abs=0.12)


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_claimed_without_a_difference(seed: int) -> None:
    hits = taught(0.3, 0.3, seed=seed)
    assert all(hits.verdict([pace]) is None for pace in (0.01, 0.2, 0.3, 1.0))


def test_slower_repeats_are_no_hits() -> None:
    assert taught(0.2, 0.4).verdict([0.1]) is None


def test_nothing_is_said_before_there_is_evidence() -> None:
    hits = taught(0.3, 0.1, calls=LEAST - 1)
    assert hits.verdict([0.1]) is None


def test_it_forgets() -> None:
    """A provider that stops caching is not accused of it for long."""
    draw = random.Random(3)
    hits = taught(0.3, 0.1)
    for _ in range(SAMPLE + 20):
        hits.learn(0.3 * draw.lognormvariate(0, 0.1), True)
    assert hits.verdict([0.3]) is None


def test_memory_is_bounded() -> None:
    hits = taught(0.3, 0.1, calls=5 * SAMPLE)
    assert len(hits._fresh.values) == len(hits._repeated.values) == SAMPLE


@settings(max_examples=60, deadline=None)
@given(
    learnt=st.lists(st.tuples(st.floats(), st.booleans()), min_size=60, max_size=120),
    asked=st.lists(st.floats(), max_size=4),
)
def test_whatever_the_times(learnt: list[tuple[float, bool]], asked: list[float]) -> None:
    """NaN, negative, infinite, tiny, huge: a probability between 0 and 1, or nothing."""
    hits = Hits()
    for pace, sent_before in learnt:
        hits.learn(pace, sent_before)
    verdict = hits.verdict(asked)
    assert verdict is None or 0.0 <= verdict.probability <= 1.0


def test_routes_are_apart_and_bounded() -> None:
    routes = RouteHits()
    draw = random.Random(2)
    said: list[float | None] = []
    for _ in range(100):
        assert routes.judge("caches", 0.3 * draw.lognormvariate(0, 0.1), False) is None, "a fresh prompt cannot hit"
        said.append(routes.judge("caches", 0.1 * draw.lognormvariate(0, 0.1), True))
        assert routes.judge("does not", 0.3 * draw.lognormvariate(0, 0.1), True) is None
        routes.judge("does not", 0.3 * draw.lognormvariate(0, 0.1), False)
    assert said[0] is None
    assert said[-1] is not None
    assert said[-1] > 0.9
    for number in range(ROUTES):
        routes.judge(number, 1.0, True)
    assert routes.judge("caches", 0.1, True) is None, "the least recently used route is forgotten"
