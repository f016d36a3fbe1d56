"""Fits a route's model to the calls that it remembers, and notices when the route is another than it was.

Takes some ms; for a thread of its own.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, hypot, log

from llmtrace.estimate import curve as curves
from llmtrace.estimate.anchors import Anchors
from llmtrace.estimate.curve import Curve
from llmtrace.estimate.expectation import (
    BESIDE,
    CLASS,
    COLUMNS,
    EVENT,
    HEAD,
    M1,
    MEDIA,
    MOMENTS,
    PACE,
    TOTAL,
    USUAL_NOISE,
    WHOLE,
    B,
    K,
    Model,
    N,
    Row,
    S,
    U,
    X,
    fit_model,
)
from llmtrace.estimate.mixture import weights

CALM = 48
"""Calls that did not wait, kept from before the window: the curve's floor outlasts a busy hour."""
_CALM_SURE = 0.6
"""A call is calm that is so sure not to have waited: likelier than not, and some room for a posterior that is off."""
_CALM_RISE = 1.3
"""Unless a new model makes it cost so much more than the one before: a curve may rise with its engine, but step by
step; only a change of engine that was looked for moves it further."""
_SURE = 3.0
"""So much likelier (natural logarithm) an explanation has to be before a route's model changes for it: 20 to 1."""
_YOUNG = 60
"""Calls below the curve of a route that has seen no more than this mean that it began in a queue."""
_TELLING = 2.0
"""Work that spreads by less (90th over 10th percentile) does not show whether an excess goes with it."""
_LAST = 24
"""Calls in which a queue that does not empty has to show."""
_HOP_LEAST, _HOP_MOST = 0.25, 0.75
"""The way from the headers' sender to the engine and back, as a share of the headers' own delay."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Window:
    """What one fit works on."""

    cells: array[float]
    """Oldest call first."""
    calm: array[float]
    shifted: int
    """The last so many lie all above the curve; below 0: below it (0: neither)."""
    model: Model | None
    hop: float
    calm_step: float
    anchors: Anchors


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Fitted:
    """What one fit found."""

    model: Model | None
    hop: float
    calm_step: float
    lower_bound: bool
    anchors: Anchors
    calm: array[float]
    shifted: bool = False
    """The calls in a row that lay on one side of the curve have been looked at."""
    forget: int = 0
    """Only the last so many calls still count (0: all)."""
    spread: float = float("inf")
    """Of the calls' uncached tokens, 90th over 10th percentile."""


def fit(window: Window, min_calls: int, min_spread: float, least_per_token: float = 0.0) -> Fitted:
    """Fit the model, the way and the anchors to a window of calls."""
    rows, calm = _rows(window.cells), _rows(window.calm)
    before, forget = window.model, 0
    factor = None if before is None else _changed(rows, window.shifted, before)
    if window.shifted < 0 and len(rows) < _YOUNG:
        # Not a faster engine, but a curve that was learned while every call waited: begin anew.
        before, calm = None, []
    elif before is not None and factor is not None:
        # Other hardware: what is known of the old one stays true but for its speed, until its own calls say more.
        forget = abs(window.shifted)
        calm = _calm(rows[:-forget], calm, before, window.hop)
        calm = [(*row[:S], row[S] * factor, *row[CLASS:]) for row in calm]
        rows, before = rows[-forget:], _faster(before, factor)
    every = (*rows, *calm)
    paces = sorted(row[PACE] for row in every if row[PACE] > 0)
    calm_step = paces[len(paces) // 10] if paces else 0.0
    anchors = replace(window.anchors)
    spread = _spread(every) if every else float("inf")
    if len(every) < min_calls or spread < min_spread:
        kept = _flat(calm)
        return Fitted(before, window.hop, calm_step, False, anchors, kept, bool(window.shifted), forget, spread)
    anchors.learn([(row[U], row[HEAD], row[EVENT], row[TOTAL]) for row in rows if row[PACE] != WHOLE])
    model = fit_model(rows, calm, before, window.hop, 0.5 * calm_step, least_per_token)
    curve = model.curve
    calm_step = calm_step or curve.per_output
    # One step is the least that a prompt can cost; what the fixed part holds beyond it is the way on to the engine and
    # back. The headers have come through the same server: about half of their time is taken to be the scale of it.
    over = max(0.0, curve.fixed - calm_step) if calm_step else 0.0
    hop = 0.0
    if anchors.headers_are_admission and calm_step:
        hop = min(max(over, _HOP_LEAST * anchors.admission), _HOP_MOST * anchors.admission, curve.fixed)
    middle = sorted(row[U] for row in rows)[len(rows) // 2]
    bound = over - hop > max(0.5 * calm_step, 0.2 * curve.cost(middle)) or _standing(rows, model)
    kept = _flat(_calm(rows, calm, model, window.hop, before))
    return Fitted(model, hop, calm_step, bound, anchors, kept, bool(window.shifted), forget, spread)


def _changed(rows: Sequence[Row], shifted: int, model: Model) -> float | None:
    """By which factor the engine has become slower, or faster (below 1); None where it has not.

    Calls below the curve can be nothing but faster. Calls that all lie above it may be slower, each by the same share
    of itself, or have waited: whichever makes their times the likelier by far.
    """
    if not shifted:
        return None
    last = rows[-abs(shifted) :]
    cost = [_work(row, model) for row in last]
    share = sorted(row[S] / c for row, c in zip(last, cost, strict=True))
    factor = share[len(share) // 2]
    if shifted < 0:
        return min(1.0, share[len(share) * 2 // 5])
    if curves.spread([c * 1e6 for c in cost]) < _TELLING:
        return None
    extra = [max(1e-6, row[S] - c) for row, c in zip(last, cost, strict=True)]
    mean = sum(extra) / len(extra)
    waits = -len(extra) * (log(mean) + 1)
    width = max(model.noise, 0.1)
    slower = 0.0
    for row, c in zip(last, cost, strict=True):
        sd = hypot(width * factor * c, _sd(row, model))
        z = (row[S] - factor * c) / sd
        slower -= 0.5 * min(z * z, 25.0) + log(sd * 2.5066)
    return factor if factor > 1.15 and slower - waits > _SURE else None


def _standing(rows: Sequence[Row], model: Model) -> bool:
    """Whether the last calls were all later than the curve says by about the same time: a queue that does not empty, or
    another way there; which, nobody can tell."""
    last = rows[-_LAST:]
    extra: list[float] = []
    for row in last:
        work = _work(row, model)
        extra.append((row[S] - work) / _sd(row, model))
    seconds = sorted(row[S] - _work(row, model) for row in last)
    low, middle, high = (seconds[len(seconds) * tenth // 10] for tenth in (1, 5, 9))
    return len(last) == _LAST and sorted(extra)[len(extra) // 10] > 3 and high - low < 0.5 * middle


def _faster(model: Model, factor: float) -> Model:
    old = model.curve
    curve = Curve.of(
        [cell * factor for cell in old.coefficients()], old.scatter, old.queued, old.knows_cached, old.knows_answers
    )
    return replace(model, curve=curve, floor=model.floor * factor, noise=max(model.noise, USUAL_NOISE))


def _spread(rows: Sequence[Row]) -> float:
    """How far the prompts spread (90th over 10th percentile) in their uncached and in their cached tokens: two
    directions, whose lengths (logarithms) add up as in space. Where nothing is cached, the first one alone."""
    uncached = [row[U] for row in rows]
    middle = max(1.0, sorted(uncached)[len(uncached) // 2])
    cached = curves.spread([middle + row[K] for row in rows])
    return exp(hypot(log(max(1.0, curves.spread(uncached))), log(max(1.0, cached))))


def _work(row: Row, model: Model) -> float:
    """What the curve says of a call, s: until its first token, of a whole answer until its end."""
    curve = model.curve
    work = curve.cost(row[U], row[K], row[BESIDE], row[MEDIA])
    if row[PACE] == WHOLE:
        work += curve.answer(row[N], row[B], row[X])
    return max(1e-5, work)


def _sd(row: Row, model: Model) -> float:
    curve = model.curve
    answer = curve.answer(row[N], row[B], row[X]) if row[PACE] == WHOLE else 0.0
    return model.sd(curve.cost(row[U], row[K], row[BESIDE], row[MEDIA]), answer)


def _rows(cells: array[float]) -> list[tuple[float, ...]]:
    flat = cells.tolist()
    return [tuple(flat[at : at + COLUMNS]) for at in range(0, len(flat), COLUMNS)]


def _calm(
    rows: Sequence[Row], calm: Sequence[Row], model: Model, hop: float, before: Model | None = None
) -> list[tuple[float, ...]]:
    """The calm calls, with those of ``rows`` that did not wait; of the most crowded length the oldest goes.

    ``before``: the model until now. A call is not called calm only because the new one thinks that such calls cost much
    more: a queue that does not empty looks like that.
    """
    kept = dict.fromkeys(tuple(row) for row in calm)
    for row in rows:
        work = _work(row, model)
        if before is not None and work > _CALM_RISE * _work(row, before):
            continue
        moments = [max(0.0, m - hop) for m in row[M1 : M1 + MOMENTS] if m >= 0]
        way = model.habits[int(row[CLASS])]
        none, *_ = weights(row[S] - work, work, _sd(row, model), moments, way, model.shape)
        if none >= _CALM_SURE:
            kept[tuple(row)] = None
    chosen = list(kept)
    lengths = [int(row[U]).bit_length() for row in chosen]
    while len(chosen) > CALM:
        crowded = max(set(lengths), key=lengths.count)
        at = lengths.index(crowded)
        del chosen[at], lengths[at]
    return chosen


def _flat(rows: Sequence[Row]) -> array[float]:
    return array("f", [cell for row in rows for cell in row])
