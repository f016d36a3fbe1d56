"""Graded calls make a route's intervals as wide as they have to be."""

from __future__ import annotations

import random

import pytest

from llmtrace.estimate.baselines import Baselines
from llmtrace.estimate.calibration import Calibration


@pytest.mark.parametrize("truly", [0.7, 1.0, 2.5])
def test_an_interval_is_as_much_wider_as_its_errors_are(truly: float) -> None:
    draw, calibration = random.Random(1), Calibration()
    inside: list[bool] = []
    for number in range(400):
        side = 0.02 * draw.uniform(0.5, 2.0)  # what the estimate takes for the 95 % point of its error
        error = draw.gauss(0, truly * side / 1.645)
        low = high = calibration.factor * side
        if number >= 60:
            inside.append(-high <= error <= low)
        calibration.learn(error, low, high)
    assert sum(inside) / len(inside) == pytest.approx(0.9, abs=0.06)
    assert calibration.factor == pytest.approx(truly, rel=0.4)


def test_the_side_counts_on_which_the_truth_lay() -> None:
    calibration = Calibration()
    for _ in range(20):
        calibration.learn(error=0.03, low=0.01 * calibration.factor, high=0.5)
    assert calibration.factor == pytest.approx(3.0)


def test_until_there_are_some_graded_calls_an_interval_is_left_alone() -> None:
    calibration = Calibration()
    for _ in range(8):
        calibration.learn(error=0.5, low=0.01, high=0.01)
    assert calibration.factor == 1.0


def test_baselines_calibrate_the_route_that_was_graded() -> None:
    known = Baselines(background=False)
    for key in ("told", "blind"):
        known.drop(key, known.begin(key, 0))
    told, blind = known.route("told"), known.route("blind")
    assert told is not None
    assert blind is not None
    for _ in range(20):
        known.graded("told", -0.02, 0.01, 0.01 * told.calibration.factor)
    known.graded("forgotten", -0.02, 0.01, 0.01)
    assert told.calibration.factor == pytest.approx(2.0)
    assert blind.calibration.factor == 1.0
