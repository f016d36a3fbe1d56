"""Changes that were put in are seen within ten rounds; calm weeks are silent."""

from __future__ import annotations

import math
import random

import pytest

from llmtrace.probe.maths import drift

ROUNDS = 10


def seconds(chance: random.Random, noise: float, waits: float = 0.05) -> float:
    """One round's latency: scattered, and now and then in a queue."""
    wait = chance.expovariate(1) if chance.random() < waits else 0.0
    return chance.lognormvariate(0, noise) * (1 + wait)


@pytest.mark.parametrize("noise", [0.02, 0.06, 0.1])
def test_an_engine_that_is_a_third_slower_is_seen_within_ten_rounds(noise: float) -> None:
    seen = 0
    for seed in range(60):
        chance, level = random.Random(seed), drift.latency()
        for _ in range(30):
            level.add(math.log(seconds(chance, noise)))
        changes = [level.add(math.log(1.3 * seconds(chance, noise))) for _ in range(ROUNDS)]
        first = next((change for change in changes if change is not None), None)
        seen += first is not None and 1.1 < drift.times(first) < 1.7
    assert seen >= 50


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1, 0.2])
def test_calm_rounds_are_silent(noise: float) -> None:
    alarms = 0
    for seed in range(20):
        chance, level = random.Random(seed), drift.latency()
        alarms += sum(level.add(math.log(seconds(chance, noise))) is not None for _ in range(300))
    assert alarms <= 8  # of 6,000 rounds


def test_a_moved_region_is_seen_and_becomes_what_is_usual() -> None:
    chance, level = random.Random(0), drift.latency()
    trips = [0.012] * 20 + [0.085] * 30
    changes = [level.add(math.log(trip * chance.lognormvariate(0, 0.05))) for trip in trips]
    seen = [i for i, change in enumerate(changes) if change is not None]
    assert len(seen) == 1
    assert 20 <= seen[0] < 20 + ROUNDS


@pytest.mark.parametrize("variants", [1, 2, 4])
def test_another_models_answers_are_seen_within_ten_rounds(variants: int) -> None:
    seen = false = 0
    for seed in range(40):
        chance, words = random.Random(seed), drift.Words()
        false += sum(words.add(f"old {chance.randrange(variants)}") is not None for _ in range(60))
        seen += any(words.add(f"new {chance.randrange(variants)}") is not None for _ in range(ROUNDS))
    assert seen >= 36
    assert false <= 2


def test_a_first_tokens_probability_that_shifts_is_seen() -> None:
    chance, level = random.Random(0), drift.logprob()
    assert not any(level.add(chance.gauss(-0.4, 0.01)) for _ in range(200))
    assert any(level.add(chance.gauss(-0.9, 0.01)) for _ in range(ROUNDS))


def test_what_was_learned_outlasts_the_process() -> None:
    level, words = drift.latency(), drift.Words()
    for _ in range(20):
        level.add(0.0)
        words.add("same")
    later, later_words = drift.latency(), drift.Words()
    later.adopt(level.to_json())
    later_words.adopt(words.to_json())
    assert any(later.add(1.0) for _ in range(ROUNDS))
    assert any(later_words.add("other") for _ in range(ROUNDS))
