"""Another engine is noticed within some calls; a busy hour, or a queue that stands, is none."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from llmtrace.estimate.change import look, scaled
from llmtrace.estimate.curve import Curve
from llmtrace.estimate.doubt import least_factor
from llmtrace.estimate.expectation import Model
from llmtrace.estimate.rows import COLUMNS, M1, MOMENTS, S, U
from tests.estimate.test_shared_engines import Seen, follow, grade
from tests.support.effort import seeds
from tests.support.engine_sim import Engine, poisson

MODEL = Model(Curve(0.008, 6e-5, 0.0, 0.0, 0.1, 0.2), noise=0.1, floor=0.001)
_GAP = 900.0


def rows(seed: int, count: int, seconds: Callable[[random.Random, float], float]) -> list[tuple[float, ...]]:
    """Calls without traffic of this client's; ``seconds`` says how long each took, from what its prompt costs."""
    draw = random.Random(seed)
    made: list[tuple[float, ...]] = []
    for _ in range(count):
        tokens = round(math.exp(draw.uniform(math.log(32), math.log(2048))))
        row = [0.0] * COLUMNS
        row[M1 : M1 + MOMENTS] = [-1.0] * MOMENTS
        row[U], row[S] = tokens, seconds(draw, MODEL.curve.cost(tokens))
        made.append(tuple(row))
    return made


@pytest.mark.parametrize("seed", seeds(5))
def test_a_slower_engine_is_told_from_one_that_is_the_same(seed: int) -> None:
    same = rows(seed, 12, lambda draw, work: work * draw.gauss(1, 0.1))
    slower = rows(seed, 12, lambda draw, work: 2 * work * draw.gauss(1, 0.1))
    faster = rows(seed, 12, lambda draw, work: 0.5 * work * draw.gauss(1, 0.1))
    assert look(same, MODEL, 0.0).factor == 1.0
    assert 1.4 < look(slower, MODEL, 0.0).factor < 2.8
    assert 0.3 < look(faster, MODEL, 0.0).factor < 0.7


@pytest.mark.parametrize("seed", seeds(5))
def test_calls_that_wait_are_no_slower_engine(seed: int) -> None:
    busy = rows(seed, 12, lambda draw, work: work * draw.gauss(1, 0.1) + draw.expovariate(1 / 0.3))
    standing = rows(seed, 12, lambda draw, work: work * draw.gauss(1, 0.1) + draw.gauss(3.0, 0.2))
    assert look(busy, MODEL, 0.0).factor == 1.0
    assert look(standing, MODEL, 0.0).factor == 1.0


def test_one_odd_call_is_no_change_and_a_few_that_may_be_one_widen_what_is_believed() -> None:
    calm = rows(1, 11, lambda draw, work: work * draw.gauss(1, 0.1))
    odd = rows(2, 1, lambda draw, work: 0.1 * work)
    assert look([*calm, *odd], MODEL, 0.0).factor == 1.0
    slower = rows(3, 5, lambda draw, work: 2 * work)
    change = look([*calm[:7], *slower], MODEL, 0.0)
    assert change.factor == 1.0
    assert change.most > 1.4


def test_what_is_scaled_costs_as_much_more() -> None:
    slower = look(rows(1, 12, lambda draw, work: 2 * work), MODEL, 0.0)
    assert scaled(MODEL, slower).curve.cost(1000) == pytest.approx(slower.factor * MODEL.curve.cost(1000), rel=0.1)


@pytest.mark.parametrize("budget", [256, 1 << 20])
@pytest.mark.parametrize("seed", seeds(2))
def test_after_a_change_of_engine_the_intervals_hold(budget: int, seed: int) -> None:
    before, after = Engine(slots=4, budget=budget), Engine(slots=4, budget=budget, per_token=1.2e-4)
    calls: list[Seen] = []
    for engine, count, begin in ((before, 110, 0.0), (after, 30, _GAP)):
        some = poisson(10 * seed + count, count, 8)
        engine.run(some, seed)
        calls += [
            replace(
                Seen(c.sent, c.headers, c.first, c.end, c.uncached, 0, c.output, c.scheduled - c.arrived, c.prefill),
                sent=begin + c.sent, headers=begin + c.headers, first=begin + c.first, end=begin + c.end,
            )
            for c in some
        ]  # fmt: skip
    estimates = follow(calls)
    graded = grade(calls[-30:], estimates[-30:])
    assert graded.split >= 0.7
    assert graded.covered >= 0.75


def test_a_curve_that_every_long_prompt_waited_under_is_doubted() -> None:
    steep = replace(MODEL, curve=replace(MODEL.curve, per_token=3 * MODEL.curve.per_token))
    waited = rows(4, 40, lambda draw, work: work * draw.gauss(1, 0.1) + draw.expovariate(1 / 0.5))
    calm = rows(5, 40, lambda draw, work: work * draw.gauss(1, 0.1))
    assert least_factor(waited, steep, 0.0) <= 0.5
    assert least_factor(calm, MODEL, 0.0) >= 0.8
