"""The lower envelope: silent without evidence, close to the truth with it, bounded."""

from __future__ import annotations

import math
import random

import pytest

from llmtrace.phases.baseline import ROUTES, WINDOW, Baselines, Route, lower_line


def calls(number: int, queued: float, seed: int) -> list[tuple[int, float, float]]:
    """(uncached tokens, wait, true queue): a = 20 ms, b = 0.1 ms a token, 2 ms of scatter, some queued."""
    draw = random.Random(seed)
    made: list[tuple[int, float, float]] = []
    for _ in range(number):
        tokens = int(math.exp(draw.uniform(3.4, 7.6)))
        queue = draw.expovariate(10) if draw.random() < queued else 0.0
        made.append((tokens, 0.02 + 1e-4 * tokens + queue + abs(draw.gauss(0, 0.002)), queue))
    return made


@pytest.mark.parametrize("queued", [0.0, 0.4, 0.7])
@pytest.mark.parametrize("seed", range(3))
def test_the_line_runs_below_the_queues(queued: float, seed: int) -> None:
    fixed, slope = lower_line([(float(t), w) for t, w, _ in calls(WINDOW, queued, seed)])
    assert fixed == pytest.approx(0.02, abs=0.01)
    assert slope == pytest.approx(1e-4, rel=0.2)


def test_too_few_calls_or_too_little_spread_say_nothing() -> None:
    route = Route()
    for tokens, wait, _ in calls(29, 0.2, 1):
        route.learn(tokens, wait)
    assert route.estimate(500) is None
    same = Route()
    for _ in range(200):
        same.learn(500, 0.07)
    assert same.estimate(500) is None


def test_queue_and_prefill_are_told_apart() -> None:
    route = Route()
    for tokens, wait, _ in calls(WINDOW, 0.4, 5):
        route.learn(tokens, wait)
    estimate = route.estimate(1000)
    assert estimate is not None
    assert estimate.prefill == pytest.approx(0.12, rel=0.15)
    assert estimate.noise < 0.05


def test_routes_and_points_are_bounded() -> None:
    known = Baselines()
    for route in range(ROUTES + 50):
        known.learn(("p", route), 100, 0.1)
    assert len(known._routes) == ROUTES
    for _ in range(WINDOW * 3):
        known.learn(("p", ROUTES), 100, 0.1)
    assert len(known._routes["p", ROUTES].points) == WINDOW
