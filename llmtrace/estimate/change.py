"""Whether a route is another than it was: the last calls under the model as it is, and under one that is slower or
faster by a factor.

Each call's time has a density under both (``estimate/mixture.py``), waits included, so a busy hour is no slower engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log, sqrt

from llmtrace.estimate.curve import Curve, spread
from llmtrace.estimate.expectation import USUAL_NOISE, Model
from llmtrace.estimate.mixture import CLASSES, HOT, Habits, density
from llmtrace.estimate.rows import BESIDE, CLASS, M1, MEDIA, MOMENTS, PACE, WHOLE, B, K, N, Row, S, U, X

LAST = 12
"""Calls in which a change has to show."""
_FACTORS = (0.35, 0.5, 0.65, 0.8, 1.25, 1.5, 2.0, 2.7, 3.6)
_MOST = 2.0
"""One call speaks for a change by no more than this (natural logarithm): a few odd ones make none."""
_NEAR = (0.7, 1.4)
"""A change within these is left to the next fit; it only makes the interval wider."""
_TELLING = 2.0
"""Work that spreads by less (90th over 10th percentile) does not show whether an excess goes with it."""
_LEAST_BEGUN = 0.02
_FEWEST = 3
_RARE = 4.0
"""A change is this unlikely beforehand (natural logarithm): 1 in 50 looks."""
_SURE = 3.0
"""And has to be so much likelier than none afterwards: 20 to 1."""
_POSSIBLE = 1.2
"""One that is likelier than 1 in 3 is held for possible: of many that are tried, some look so by chance."""
_ODD = 1e-3
"""The least density of any call, 1/s: one alone proves nothing."""


@dataclass(frozen=True, slots=True)
class Change:
    """By how much a route's work may be longer than its model says."""

    factor: float = 1.0
    """How much longer it is, as far as that is sure."""
    whole: bool = True
    """All of the work; else what goes with the prompt alone."""
    calls: int = 0
    """The last so many calls show it."""
    least: float = 1.0
    most: float = 1.0
    """Ends of what may be."""


def look(rows: Sequence[Row], model: Model, hop: float) -> Change:
    """Compare the last of ``rows``, oldest first, under ``model`` and under what it may have become."""
    last = rows[-LAST:]
    if len(last) < _FEWEST:
        return Change()
    usual = [likely(row, model, hop) for row in last]
    best, sure, least, most = Change(), -_RARE, 1.0, 1.0
    changed = {
        (factor, whole): [likely(row, model, hop, factor, whole) for row in last]
        for factor in _FACTORS
        for whole in (True, False)
    }
    for calls in range(_FEWEST, len(last) + 1):
        some = last[-calls:]
        telling = spread([1e6 * work_of(row, model) for row in some]) >= _TELLING
        busy = _busy(some, model, hop)
        for (factor, whole), every in changed.items():
            if factor > 1 and not telling:
                continue
            pairs = zip(every[-calls:], usual[-calls:], strict=True)
            gained = sum(min(_MOST, with_it - without) for with_it, without in pairs)
            if factor > 1:
                gained = min(gained, sum(every[-calls:]) - busy)
            gained -= _RARE
            if gained > sure and not _NEAR[0] < factor < _NEAR[1]:
                sure, best = gained, Change(factor, whole, calls)
            if gained > -_POSSIBLE:
                least, most = min(least, factor), max(most, factor)
    if sure < _SURE:
        return Change(least=least, most=most)
    return Change(best.factor, best.whole, best.calls, min(1.0, least / best.factor), max(1.0, most / best.factor))


def _busy(rows: Sequence[Row], model: Model, hop: float) -> float:
    """How likely the calls' times are where a busy spell began with them: most of them waited, as long as they did; in
    a queue that stands, each of them about as long as the others."""
    extra = [max(0.0, row[S] - work_of(row, model)) for row in rows]
    mean = sum(extra) / len(rows)
    width = max(1e-3, sqrt(sum((each - mean) ** 2 for each in extra) / (len(rows) - 1)))
    standing = -len(rows) * (log(2.5066 * width) + 0.5)
    way = Habits(0.1, model.habits[HOT].own, 0.1, 0.7, 0.1, max(mean, 1e-3))
    busy = replace(model, habits=(way,) * CLASSES)
    begun = sum(way.brief + way.long for way in model.habits) / len(model.habits)
    return log(max(_LEAST_BEGUN, begun)) + max(standing, sum(likely(row, busy, hop) for row in rows))


def likely(row: Row, model: Model, hop: float, factor: float = 1.0, whole: bool = True) -> float:
    """The logarithm of how likely a call's time is where the work takes ``factor`` times as long."""
    answer = model.curve.answer(row[N], row[B], row[X]) if row[PACE] == WHOLE else 0.0
    if whole:
        answer *= factor
    work = work_of(row, model, factor, whole) - answer
    sd = sqrt(model.sd(work, answer) ** 2 + model.prompt_sd(row[U] + row[BESIDE], row[K], row[MEDIA]) ** 2)
    moments = [max(0.0, moment - hop) for moment in row[M1 : M1 + MOMENTS] if moment >= 0]
    way = model.habits[int(row[CLASS])]
    every = work + answer
    return log(max(_ODD, density(row[S] - every, every, sd, moments, way, model.shape)))


def work_of(row: Row, model: Model, factor: float = 1.0, whole: bool = True) -> float:
    """What the curve says of a call, s, where it takes ``factor`` times as long: until its first token; until the end
    of a whole answer."""
    curve = model.curve
    work = curve.cost(row[U], row[K], row[BESIDE], row[MEDIA])
    answer = curve.answer(row[N], row[B], row[X]) if row[PACE] == WHOLE else 0.0
    if whole:
        return max(1e-5, factor * (work + answer))
    return max(1e-5, curve.fixed + factor * (work - curve.fixed) + answer)


def scaled(model: Model, change: Change) -> Model:
    """The model after the ``change``, until its own calls say more."""
    factor, old = change.factor, model.curve
    fixed, *prompt, output, shared, joined = old.coefficients()
    if change.whole:
        fixed, output, shared, joined = (factor * cell for cell in (fixed, output, shared, joined))
    cells = (fixed, *(factor * cell for cell in prompt), output, shared, joined)
    curve = Curve.of(cells, old.scatter, old.queued, old.knows_cached, old.knows_answers)
    return replace(model, curve=curve, noise=max(model.noise, USUAL_NOISE))
