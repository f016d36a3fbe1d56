"""Cache hits from timing: claimed where repeats run faster, never where they do not; bad times change nothing."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmtrace.estimate.hits import LEAST, PREFIXES, SAMPLE, Hits, RouteHits, Told
from llmtrace.estimate.routes import ROUTES
from tests.support.effort import seeds


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


def test_several_calls_are_surer_than_one() -> None:
    """One slow call among three is a queue, not a miss; three slow ones are no hits."""
    hits = taught(0.3, 0.2, hit_share=0.8)
    fast, mixed, slow = (hits.verdict(paces) for paces in ([0.19] * 3, [0.19, 0.9, 0.5], [0.3, 0.31, 0.29]))
    assert fast is not None
    assert mixed is not None
    assert slow is not None
    assert fast.hit
    assert fast.calls == 3
    assert fast.probability > mixed.probability > slow.probability
    assert not slow.hit


def test_the_share_of_hits_is_found() -> None:
    verdict = taught(0.4, 0.1, hit_share=0.6).verdict([0.1])
    assert verdict is not None
    assert verdict.prior == pytest.approx(0.6, abs=0.12)


@pytest.mark.parametrize("seed", seeds(5))
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
    said: list[Told] = []
    for _ in range(100):
        assert routes.judge("caches", 0.3 * draw.lognormvariate(0, 0.1), None) == Told(), "a fresh prompt cannot hit"
        said.append(routes.judge("caches", 0.1 * draw.lognormvariate(0, 0.1), 7))
        assert routes.judge("does not", 0.3 * draw.lognormvariate(0, 0.1), 7) == Told()
        routes.judge("does not", 0.3 * draw.lognormvariate(0, 0.1), None)
    assert said[0] == Told()
    assert said[-1].hit is not None
    assert said[-1].hit > 0.9
    for number in range(ROUTES):
        routes.judge(number, 1.0, 7)
    assert routes.judge("caches", 0.1, 7) == Told(), "the least recently used route is forgotten"


def test_a_prefix_is_judged_by_its_own_last_calls() -> None:
    routes = RouteHits()
    draw = random.Random(4)
    for number in range(60):
        routes.judge("r", 0.3 * draw.lognormvariate(0, 0.1), None)
        routes.judge("r", 0.1 * draw.lognormvariate(0, 0.1), number % 4)
    assert routes.judge("r", 0.1, 50).prefix is None, "of this one there is one call"
    gone = [routes.judge("r", 0.3, 51) for _ in range(3)]
    kept = routes.judge("r", 0.1, 1)
    assert gone[-1].prefix is not None
    assert kept.prefix is not None
    assert gone[-1].prefix < 0.5
    assert kept.prefix > 0.9
    for number in range(3 * PREFIXES):
        routes.judge("r", 0.1, 100 + number)
    assert routes.judge("r", 0.1, 1).prefix is None, "the least recently used prefix is forgotten"
