"""Kept calls of real servers: what is named of them today, and how sure that is."""

from __future__ import annotations

import statistics

import pytest

from tests.evaluation.diagnosis import kept
from tests.evaluation.diagnosis.notebook import Played
from tests.evaluation.diagnosis.population import Population, Row


@pytest.fixture(scope="module")
def runs() -> dict[str, list[Played]]:
    return kept.runs()


def test_what_is_named_of_the_kept_calls_has_not_changed() -> None:
    assert kept.named() == kept.VERDICTS.read_text(encoding="utf-8").splitlines(), (
        "where that is meant: python -m tests.evaluation.diagnosis.kept"
    )


def test_a_wrong_verdict_is_stated_weakly_and_a_right_one_is_not(runs: dict[str, list[Played]]) -> None:
    rows = kept.judged(runs.values()).rows
    wrong = [row.confidence for row in rows if not row.right]
    right = [row.confidence for row in rows if row.right]
    assert len(wrong) > 20
    assert statistics.median(wrong) < 0.6
    assert statistics.median(right) > 0.85
    assert sum(each > 0.5 for each in right) > 0.8 * len(right)


def test_what_is_plain_to_see_is_neither_right_nor_wrong(runs: dict[str, list[Played]]) -> None:
    calm = kept.judged([runs["calm-busy-machine"]])
    verdicts = sum(len(call.verdicts) for episode in runs["calm-busy-machine"] for call in episode.calls)
    assert not calm.faulty
    assert verdicts > 10 > len(calm.rows), "most of them: an engine without cores, a cache that was emptied"


def test_simulated_and_real_calls_have_the_same_weight_in_the_fit() -> None:
    def population(calls: int, right: bool) -> Population:
        made = Population([Row("a", 1.0, 0, 0.0, right, False) for _ in range(calls)], faulty=calls)
        return made

    for calls in (100, 3000):
        base, _, _ = kept.fitted(population(1000, True), population(calls, False))["a"]
        assert base == pytest.approx(0.0, abs=0.1)
