"""Fits a route's model to the calls that it remembers, and notices when the route is another than it was.

Takes some ms; for a thread of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import exp, hypot, log

from llmtrace.estimate import change as changes
from llmtrace.estimate import curve as curves
from llmtrace.estimate.anchors import Anchors
from llmtrace.estimate.change import Change
from llmtrace.estimate.doubt import least_factor
from llmtrace.estimate.expectation import Model, fit_model
from llmtrace.estimate.mixture import weights
from llmtrace.estimate.rows import (
    BESIDE,
    CLASS,
    EVENT,
    HEAD,
    M1,
    MEDIA,
    MOMENTS,
    PACE,
    TOTAL,
    WHOLE,
    B,
    K,
    N,
    Row,
    S,
    U,
    X,
)

CALM = 48
"""Calls that did not wait, kept from before the window: the curve's floor outlasts a busy hour."""
_CALM_SURE = 0.6
"""A call is calm that is so sure not to have waited: likelier than not, and some room for a posterior that is off."""
_CALM_RISE = 1.3
"""Unless a new model makes it cost so much more than the one before: a curve may rise with its engine, but step by
step; only a change of engine that was looked for moves it further."""
_YOUNG = 60
"""A route that has seen no more than this and turns out to be faster began in a queue."""
_OWN = 30
"""A route that has changed has so many calls of its own then, and needs none from before (they may mislead)."""
_LAST = 24
"""Calls in which a queue that does not empty has to show."""
_HOP_LEAST, _HOP_MOST = 0.25, 0.75
"""The way from the headers' sender to the engine and back, as a share of the headers' own delay."""
_SHOWN = 2.0
"""How far whole answers move the way to the engine, by the share of them that did not wait: so many times it, at most
all the way."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Window:
    """What one fit works on."""

    rows: list[Row]
    """Oldest call first."""
    calm: list[Row]
    due: bool
    """A fit is due; else it is only looked whether the route has changed."""
    model: Model | None
    hop: float
    calm_step: float
    lower_bound: bool
    spread: float
    doubted: float
    borrowed: bool
    """``calm`` is from before a change, made as long as the calls since then are believed to be."""
    anchors: Anchors


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Fitted:
    """What one fit found."""

    model: Model | None
    hop: float
    calm_step: float
    lower_bound: bool
    anchors: Anchors
    calm: list[Row]
    forget: int = 0
    """Only the last so many calls still count (0: all)."""
    spread: float = float("inf")
    """Of the calls' uncached tokens, 90th over 10th percentile."""
    least: float = 1.0
    most: float = 1.0
    """By which factor the work may be another than the model says, by the last calls."""
    borrowed: bool = False
    """Those of ``calm`` are from before a change: see ``Window.borrowed``."""
    doubted: float = 1.0
    """The same by all of them: it may be less."""


def fit(
    window: Window,
    min_calls: int,
    min_spread: float,
    least_per_token: float = 0.0,
    breathe: Callable[[], object] = curves.nothing,
) -> Fitted:
    """Fit the model, the way and the anchors to a window of calls, if that is due or the route has changed.

    ``breathe``: see ``fit_model``.
    """
    rows, calm = window.rows, window.calm
    before, forget = window.model, 0
    borrowed, released = window.borrowed, None
    if borrowed and window.due and len(rows) >= _OWN and not (before is not None and _standing(rows, before)):
        before, calm, borrowed, released = None, [], False, before
    change = Change() if before is None else changes.look(rows, before, window.hop)
    if before is not None and change.factor != 1.0:
        if change.factor < 1 and len(rows) < _YOUNG:
            before, calm, borrowed, released = None, [], False, before
        else:
            before, rows, calm, forget = _moved(before, change, rows, calm, window.hop)
            borrowed = forget > 0
    elif not window.due:
        return Fitted(
            before, window.hop, window.calm_step, window.lower_bound, window.anchors, window.calm,
            spread=window.spread, least=change.least, most=change.most, doubted=window.doubted, borrowed=borrowed,
        )  # fmt: skip
    every = (*rows, *calm)
    paces = sorted(row[PACE] for row in every if row[PACE] > 0)
    calm_step = paces[len(paces) // 10] if paces else 0.0
    anchors = replace(window.anchors)
    spread = _spread(every) if every else float("inf")
    if len(every) < min_calls or spread < min_spread:
        kept = calm
        return Fitted(
            before or window.model,
            window.hop,
            calm_step,
            False,
            anchors,
            kept,
            forget,
            spread,
            change.least,
            change.most,
            borrowed,
        )
    anchors.learn([(row[U], row[HEAD], row[EVENT], row[TOTAL]) for row in rows if row[PACE] != WHOLE], breathe)
    model = fit_model(rows, calm, before, window.hop, 0.5 * calm_step, least_per_token, breathe)
    if released is not None:
        # What is begun anew may explain its queue by long prompts: it stands only where it explains the calls better.
        continued = fit_model(rows, calm, released, window.hop, 0.5 * calm_step, least_per_token, breathe)
        model = max(model, continued, key=lambda each: _likely(rows, each, window.hop))
    curve = model.curve
    calm_step = calm_step or curve.per_output
    # One step is the least that a prompt can cost; what the fixed part holds beyond it is the way on to the engine and
    # back. The headers have come through the same server: about half of their time is taken to be the scale of it.
    over = max(0.0, curve.fixed - calm_step) if calm_step else 0.0
    hop = 0.0
    if anchors.headers_are_admission and calm_step:
        hop = min(max(over, _HOP_LEAST * anchors.admission), _HOP_MOST * anchors.admission, curve.fixed)
    elif all(row[PACE] == WHOLE for row in rows):
        # Their headers tell nothing. Nor do calls that waited for one of this client's own, which bear any way equally
        # well: where most did, what was found earlier stays.
        hop = window.hop + min(1.0, _SHOWN * (1.0 - curve.queued)) * (over - window.hop)
    middle = sorted(row[U] for row in rows)[len(rows) // 2]
    bound = over - hop > max(0.5 * calm_step, 0.2 * curve.cost(middle)) or _standing(rows, model)
    kept = _calm(rows, calm, model, window.hop, before)
    doubted = least_factor(rows, model, window.hop)
    return Fitted(
        model, hop, calm_step, bound, anchors, kept, forget, spread, change.least, change.most, borrowed, doubted
    )


def _moved(
    model: Model, change: Change, rows: list[Row], calm: list[Row], hop: float
) -> tuple[Model, list[Row], list[Row], int]:
    """The model after a change, with the calls that it is to be fitted to and the calm ones, and how many of the last
    calls still count (0: all)."""
    now, since = changes.scaled(model, change), change.calls
    earlier = rows[:-since]
    if sum(changes.likely(row, now, hop) - changes.likely(row, model, hop) for row in earlier) >= 0:
        return now, rows, [], 0  # it was so all the time: the model was wrong
    # Other hardware: what is known of the old one stays true but for its speed, until its own calls say more.
    kept = _calm(earlier, calm, model, hop)
    made = [
        (*row[:S], max(0.0, row[S] + changes.work_of(row, now) - changes.work_of(row, model)), *row[CLASS:])
        for row in kept
    ]
    return now, rows[-since:], made, since


def _likely(rows: Sequence[Row], model: Model, hop: float) -> float:
    """The logarithm of how likely the calls' times are under the model."""
    return sum(changes.likely(row, model, hop) for row in rows)


def _standing(rows: Sequence[Row], model: Model) -> bool:
    """Whether the last calls were all later than the curve says by about the same time: a queue that does not empty, or
    another way there; which, nobody can tell."""
    last = rows[-_LAST:]
    extra: list[float] = []
    for row in last:
        work = changes.work_of(row, model)
        extra.append((row[S] - work) / _sd(row, model))
    seconds = sorted(row[S] - changes.work_of(row, model) for row in last)
    low, middle, high = (seconds[len(seconds) * tenth // 10] for tenth in (1, 5, 9))
    return len(last) == _LAST and sorted(extra)[len(extra) // 10] > 3 and high - low < 0.5 * middle


def _spread(rows: Sequence[Row]) -> float:
    """How far the prompts spread (90th over 10th percentile) in their uncached and in their cached tokens: two
    directions, whose lengths (logarithms) add up as in space. Where nothing is cached, the first one alone."""
    uncached = [row[U] for row in rows]
    middle = max(1.0, sorted(uncached)[len(uncached) // 2])
    cached = curves.spread([middle + row[K] for row in rows])
    return exp(hypot(log(max(1.0, curves.spread(uncached))), log(max(1.0, cached))))


def _sd(row: Row, model: Model) -> float:
    curve = model.curve
    answer = curve.answer(row[N], row[B], row[X]) if row[PACE] == WHOLE else 0.0
    return model.sd(curve.cost(row[U], row[K], row[BESIDE], row[MEDIA]), answer)


def _calm(rows: Sequence[Row], calm: Sequence[Row], model: Model, hop: float, before: Model | None = None) -> list[Row]:
    """The calm calls, with those of ``rows`` that did not wait; of the most crowded length the oldest goes.

    ``before``: the model until now. A call is not called calm only because the new one thinks that such calls cost much
    more: a queue that does not empty looks like that.
    """
    kept = dict.fromkeys(calm)
    for row in rows:
        work = changes.work_of(row, model)
        if before is not None and work > _CALM_RISE * changes.work_of(row, before):
            continue
        moments = [max(0.0, m - hop) for m in row[M1 : M1 + MOMENTS] if m >= 0]
        way = model.habits[int(row[CLASS])]
        none, *_ = weights(row[S] - work, work, _sd(row, model), moments, way, model.shape)
        if none >= _CALM_SURE:
            kept[row] = None
    chosen = list(kept)
    lengths = [int(row[U]).bit_length() for row in chosen]
    while len(chosen) > CALM:
        crowded = max(set(lengths), key=lengths.count)
        at = lengths.index(crowded)
        del chosen[at], lengths[at]
    return chosen
