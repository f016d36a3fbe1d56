"""The posterior of one call's wait: a distribution, whatever the numbers; right where the truth is drawn from it."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmtrace.estimate.mixture import Habits, Shape, cut_normal, emg, posterior, weights

seconds = st.floats(1e-4, 1e3)


@given(
    rest=st.floats(-1e3, 1e3),
    work=seconds,
    noise=seconds,
    scale=st.floats(1e-3, 1e3),
    moments=st.lists(st.floats(0, 1e3), max_size=3),
    step=st.floats(0, 10),
)
@example(rest=-999.5, work=544.75, noise=136.0, scale=1.0, moments=[], step=0.0)
@example(rest=999.0, work=134.75, noise=544.75, scale=1.0, moments=[], step=0.0)
def test_whatever_the_numbers_it_is_a_distribution(
    rest: float, work: float, noise: float, scale: float, moments: list[float], step: float
) -> None:
    habits, shape = Habits(scale=scale), Shape()
    none, brief, long, stretched, until = weights(rest, work, noise, moments, habits, shape)
    assert min(none, brief, long, stretched, *until, 0.0) >= 0.0
    assert none + brief + long + stretched + sum(until) == pytest.approx(1.0)
    wait = posterior(rest, work, noise, moments, habits, shape, step)
    assert 0.0 <= wait.low <= wait.median <= wait.high
    assert wait.mean >= 0.0
    assert 0.0 <= wait.step <= wait.mean
    assert 0.0 <= wait.waited <= 1.0 + 1e-9


@given(mean=st.floats(-1e3, 1e3), sd=st.floats(1e-3, 10))
def test_what_is_cut_at_zero_is_positive(mean: float, sd: float) -> None:
    middle, variance = cut_normal(mean, sd)
    assert middle >= max(0.0, mean) - 1e-9
    assert 0.0 <= variance <= sd * sd + 1e-9


def test_the_density_of_noise_and_wait_adds_up_to_one() -> None:
    total = sum(emg(at / 1000, 0.02, 0.1) for at in range(-300, 3000)) / 1000
    assert total == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_intervals_hold_where_calls_are_drawn_from_the_model(seed: int) -> None:
    """Work of 0.1 s with 10 % noise; half the calls wait for 0.2 s on average, some of them for a moment that was
    seen."""
    draw = random.Random(seed)
    habits = Habits(none=0.5, own=0.2, brief=1e-6, long=0.3, stretched=1e-6, scale=0.2)
    inside, off = 0, 0.0
    for _ in range(1500):
        chance, moment = draw.random(), draw.uniform(0, 0.5)
        truth = 0.0 if chance < 0.5 else moment if chance < 0.7 else draw.expovariate(5)
        rest = truth + draw.gauss(0, 0.01)
        wait = posterior(rest, 0.1, 0.01, [moment], habits, Shape(blur=1e-3), 0.0)
        inside += wait.low - 1e-9 <= truth <= wait.high + 1e-9
        off += abs(wait.mean - truth)
    assert 0.86 <= inside / 1500 <= 0.99
    assert off / 1500 < 0.01, "no further off than the noise"


def test_a_call_below_the_curve_has_not_waited() -> None:
    wait = posterior(-0.05, 0.1, 0.01, [], Habits(), Shape(), 0.0)
    assert (wait.mean, wait.high) == (pytest.approx(0.0, abs=0.002), pytest.approx(0.0, abs=0.01))
    assert wait.waited < 0.1
