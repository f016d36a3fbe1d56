"""The tools that measure the diagnosis: effects are as large as they say, and confidence is fitted to what happened."""

from __future__ import annotations

import random

import pytest

from llmtrace.diagnosis.verdict import NETWORK, NOISY_NEIGHBOR, PREFILL_SURGE, QUEUEING
from tests.evaluation.diagnosis.effects import per_token, scaled, slowed, usual
from tests.evaluation.diagnosis.population import Row, fit, population
from tests.evaluation.diagnosis.settings import play
from tests.evaluation.phases import simulated
from tests.evaluation.phases.replay import Place, Trip


@pytest.fixture(scope="module")
def trips() -> list[Trip]:
    """Calls of a client that is alone."""
    cell = next(cell for cell in simulated.cells() if cell.traffic == "alone")
    return scaled(simulated.trips(cell, 1), 2.0)[:60]


def test_an_effect_is_as_large_as_it_says(trips: list[Trip]) -> None:
    trip, base, rate = trips[0], usual(trips), per_token(trips)
    assert trip.headers is not None
    assert trip.first is not None
    queued, far = slowed(trip, QUEUEING, 1.5, base, rate), slowed(trip, NETWORK, 1.5, base, rate)
    assert (queued.headers, queued.first) == (trip.headers, pytest.approx(trip.first + base / 2))
    assert far.headers == pytest.approx(trip.headers + base / 2)
    slow = slowed(trip, NOISY_NEIGHBOR, 3.0, base, rate)
    assert slow.first == trip.first
    assert slow.end - trip.first == pytest.approx(3 * (trip.end - trip.first))
    surge = slowed(trip, PREFILL_SURGE, 2.0, base, rate)
    assert (surge.prompt - trip.prompt) * rate == pytest.approx(base, rel=0.01)


def test_every_call_gets_its_own_verdicts(trips: list[Trip]) -> None:
    base, rate = usual(trips), per_token(trips)
    late = [slowed(trip, NETWORK, 20.0, base, rate) if number >= 57 else trip for number, trip in enumerate(trips)]
    named = [{verdict.cause for verdict in verdicts} for verdicts in play(late, Place())]
    assert len(named) == len(trips)
    assert NETWORK in named[59]
    assert not any(named[:57])


def test_confidence_is_fitted_to_how_often_verdicts_were_right() -> None:
    rows = [Row("a", 1.0, 0, 0.0, number % 2 == 0, False) for number in range(200)]
    rows += [Row("a", 4.0, 3, 0.0, number % 20 != 0, False) for number in range(200)]
    base, by_score, by_call = fit(rows)["a"]
    assert base == pytest.approx(0.0, abs=0.3)
    assert by_score > 0 or by_call > 0


def test_a_population_is_weighted_to_its_base_rate() -> None:
    made = population(random.Random(3), 1)
    assert made.faulty > 0
    weights = {row.calm: row.weight for row in made.rows}
    assert weights[False] == pytest.approx((made.calm + made.faulty) / 200 / made.faulty)
