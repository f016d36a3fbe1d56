"""A service's calls as confidence is meant for them: mostly calm, now and then an incident of some size and length.

What was named is kept with what it was named by, and whether it was right; ``sure`` is fitted to one draw of this and
graded on another.
"""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import exp, log

from llmtrace.diagnosis import verdict as causes
from llmtrace.diagnosis.verdict import CAUSES, LATENESS, Verdict, confidence
from tests.evaluation.diagnosis.judging import Judging
from tests.evaluation.diagnosis.sizes import SIZED, sized
from tests.evaluation.diagnosis.traffic import Faults, Traffic, draw_habits, single

Constants = dict[str, tuple[float, float, float]]
BASE_RATE = 1 / 200
"""Of so many calls one has a cause: what confidence is calibrated for."""
CALLS = 300
"""Of a route."""
_BEGINS = 0.012
"""Chance that an incident begins with a call; more often than in a service, which the weights put right."""
_GOES_ON = 0.75
_LONGEST = 14
_SMALLEST, _LARGEST = 1.15, 5.0
_BIMODAL = 0.15
"""Share of routes whose network has two modes."""
_LATELY = 8
_STAYS = (causes.ROUTE_CHANGE, causes.MODEL_SWAP)
"""They do not go away: the last incident of a route."""


@dataclass(slots=True)
class Row:
    """One verdict."""

    key: str
    """The cause; ``LATENESS`` for the quantity that confidence knows by itself."""
    score: float
    lately: int
    confidence: float
    right: bool
    calm: bool
    """Nothing was wrong with the call."""
    weight: float = 1.0


@dataclass
class Population:
    """Many routes' verdicts."""

    rows: list[Row]
    calm: int = 0
    """Calls."""
    faulty: int = 0

    def weigh(self) -> None:
        """Have calm and faulty calls count as if one call in 200 were faulty."""
        all_calls = self.calm + self.faulty
        for row in self.rows:
            share = (1 - BASE_RATE, self.calm) if row.calm else (BASE_RATE, self.faulty)
            row.weight = share[0] * all_calls / max(1, share[1])


class Lately:
    """In how many of the last eight calls each cause was named."""

    def __init__(self) -> None:
        self._calls: deque[set[str]] = deque(maxlen=_LATELY)

    def rows(self, verdicts: list[Verdict], right: set[str], calm: bool) -> Iterator[Row]:
        """The verdicts on the next call."""
        for verdict in verdicts:
            key = LATENESS if verdict.quantity == LATENESS else verdict.cause
            lately = sum(verdict.cause in names for names in self._calls)
            yield Row(key, verdict.score, lately, verdict.confidence, verdict.cause in right, calm)
        self._calls.append({verdict.cause for verdict in verdicts})


def population(draw: random.Random, routes: int) -> Population:
    """So many routes' calls."""
    made = Population([])
    for _ in range(routes):
        _route(made, draw)
    made.weigh()
    return made


def _route(made: Population, draw: random.Random) -> None:
    habits = draw_habits(draw, bimodal=draw.random() < _BIMODAL)
    traffic, judging, lately = Traffic(habits, draw), Judging(), Lately()
    left, cause, faults = 0, "", Faults()
    for number in range(CALLS):
        if not left and number > 40 and draw.random() < _BEGINS:
            cause, faults = _incident(draw, traffic)
            left = 1
            while left < _LONGEST and draw.random() < _GOES_ON:
                left += 1
            if faults.moved is not None:
                traffic.move(faults.moved)
                left = _LONGEST
        now, truth = (faults, {cause}) if left else (Faults(), set[str]())
        made.rows += lately.rows(judging.of(traffic.call(now)), truth, not left)
        made.faulty += left > 0
        made.calm += not left
        if left == 1 and cause in _STAYS:
            return
        left = max(0, left - 1)


def _incident(draw: random.Random, traffic: Traffic) -> tuple[str, Faults]:
    habits = traffic.habits
    cause = draw.choice(CAUSES)
    if cause == causes.COLD_KV_CACHE:
        return (cause, Faults(cold=True)) if habits.shared else _incident(draw, traffic)
    if cause in SIZED:
        size = exp(draw.uniform(log(_SMALLEST), log(_LARGEST)))
        return cause, sized(cause, size, draw, habits)
    return cause, single(cause, draw, habits)


def fit(rows: Sequence[Row]) -> Constants:
    """Base, weight of the score's logarithm and weight of each call lately, for each cause: a logistic regression by
    gradient descent. Half a wrong verdict more than was seen is counted for each (Krichevsky and Trofimov)."""
    return {key: _fitted([row for row in rows if row.key == key]) for key in sorted({row.key for row in rows})}


def graded(made: Population, constants: Constants) -> Population:
    """The same verdicts with the confidence that other ``constants`` give them."""
    rows = [replace(row, confidence=confidence(constants, row.key, row.score, row.lately)) for row in made.rows]
    return replace(made, rows=rows)


def _fitted(rows: Sequence[Row]) -> tuple[float, float, float]:
    cells: dict[tuple[float, float, float], float] = defaultdict(float)  # those alike count together
    for row in rows:
        score = round(log(min(max(row.score, 1.0), 8.0)), 2)
        cells[score, float(min(row.lately, 3)), float(row.right)] += row.weight
    cells[0.0, 0.0, 0.0] += 0.5
    cells[0.0, 0.0, 1.0] += 0.5
    data = [(*cell, weight) for cell, weight in cells.items()]
    base, by_score, by_call = 0.0, 1.0, 1.0
    total = sum(weight for *_, weight in data)
    for _ in range(3000):
        steps = [0.0, 0.0, 0.0]
        for score, lately, right, weight in data:
            off = weight * (right - 1 / (1 + exp(-(base + by_score * score + by_call * lately))))
            for place, value in enumerate((1.0, score, lately)):
                steps[place] += off * value
        base += steps[0] / total * 2
        by_score = max(0.0, by_score + 2 * (steps[1] / total - 0.002 * (by_score - 1.0)))
        by_call = max(0.0, by_call + 2 * (steps[2] / total - 0.002 * (by_call - 1.0)))
    return round(base, 2), round(by_score, 2), round(by_call, 2)
