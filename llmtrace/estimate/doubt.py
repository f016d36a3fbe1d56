"""How much less than its curve says a route's prompts may really take: what a route looks like that began in a queue.

Where every long prompt waited, a steep curve and long waits explain the calls about as well as each other. So the
curve's part that goes with the prompt is made smaller step by step, the habits of waiting are learned anew each time,
and the smallest one that the calls do not speak against is what may be.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log

from llmtrace.estimate.change import Change, scaled
from llmtrace.estimate.expectation import Model, habits_of
from llmtrace.estimate.mixture import CLASSES, cut_normal, density, weights
from llmtrace.estimate.rows import BESIDE, CLASS, M1, MEDIA, MOMENTS, PACE, WHOLE, K, Row, S, U

_SMALLER = (0.8, 0.65, 0.5, 0.35)
_ROUNDS = 3
_AGAINST = 4.7
"""What makes the calls less likely by this much (natural logarithm) is left out: half of the 95 % point of chi squared
with four degrees of freedom, for the curve's four coefficients were chosen to suit these very calls (Wilks, Annals of
Mathematical Statistics 9 (1938))."""
_ODD = 1e-3


def least_factor(rows: Sequence[Row], model: Model, hop: float) -> float:
    """By which factor the work may be less than ``model`` says, by all the calls of a route; 1 where it is sure.

    Of whole answers nothing is said: their curve has more than the prompt to be wrong in.
    """
    streams = [row for row in rows if row[PACE] != WHOLE]
    if len(streams) < len(rows):
        return 1.0
    usual, least = _best(streams, model, hop), 1.0
    for factor in _SMALLER:
        if _best(streams, scaled(model, Change(factor, whole=False)), hop) < usual - _AGAINST:
            break
        least = factor
    return least


def _best(rows: Sequence[Row], model: Model, hop: float) -> float:
    """The logarithm of how likely the calls are under the model's curve, with the habits that suit them best."""
    calls: list[tuple[float, float, float, int, list[float]]] = []
    for row in rows:
        work = max(1e-5, model.curve.cost(row[U], row[K], row[BESIDE], row[MEDIA]))
        moments = [max(0.0, moment - hop) for moment in row[M1 : M1 + MOMENTS] if moment >= 0]
        calls.append((row[S] - work, work, model.sd(work), int(row[CLASS]), moments))
    usual = max(1e-3, sum(max(0.0, rest) for rest, *_ in calls) / len(calls))
    habits, shape = model.habits, model.shape
    for _ in range(_ROUNDS):
        sums = [[0.0] * 6 for _ in range(CLASSES)]
        tried = [0.0] * CLASSES
        for rest, work, sd, kind, moments in calls:
            way = habits[kind]
            none, brief, long, slow, until = weights(rest, work, sd, moments, way, shape)
            seconds = long * cut_normal(rest - sd * sd / way.scale, sd)[0] if long > 1e-4 else 0.0
            for at, part in enumerate((none, sum(until), brief, long, slow, seconds)):
                sums[kind][at] += part
            tried[kind] += bool(until)
        habits = tuple(habits_of(sums, tried, usual))
    return sum(
        log(max(_ODD, density(rest, work, sd, moments, habits[kind], shape))) for rest, work, sd, kind, moments in calls
    )
