"""Fits a route's model to the calls that it remembers: curve, noise, waits. Takes some ms; for a thread of its own."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import exp, hypot, log, sqrt
from operator import mul

from llmtrace.estimate import curve as curves
from llmtrace.estimate.anchors import Anchors
from llmtrace.estimate.curve import Curve
from llmtrace.estimate.mixture import CLASSES, Habits, Shape, cut_normal, weights

MOMENTS = 3
"""Moments of the client's own traffic that are remembered of each call: the last ones before it was taken up."""
COLUMNS = 15
# Uncached, cached, others' tokens beside; seconds from readiness to the first token (whole answers: to the end); class;
# seconds per output token; delays of headers, first event and first token; the waits until moments of the client's own
# traffic (below 0: none); output tokens of a whole answer (0: a stream); others in flight while it was answered.
U, K, BESIDE, S, CLASS, PACE, HEAD, EVENT, TOTAL, M1, M2, M3, N, B, X = range(COLUMNS)

_ROUNDS = 12
"""Rounds of expectation and maximization. After 8 the figures of the recorded runs no longer move by 1 %."""
_EDGE = 0.2
"""The quantile that the rounds begin with."""
_SHRINK = 6.0
"""A class of calls counts beside so many calls of the whole route: of fewer it has no habits of its own."""
_FEW = 4.0
"""What is believed beforehand of a route's shape counts as so many calls."""
_LEAST_NOISE, _MOST_NOISE = 0.02, 0.35
_USUAL_NOISE, _NOISE_PRIOR = 0.12, 4.0
"""What is believed of the noise before anything was seen, and as how many calls that counts."""

Row = Sequence[float]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Model:
    """What a fit found of how a route's calls spend their time."""

    curve: Curve
    noise: float
    """Standard deviation of the work, as a share of it."""
    floor: float
    """The same, s, whatever the prompt."""
    habits: tuple[Habits, ...] = (Habits(),) * CLASSES
    shape: Shape = field(default_factory=Shape)

    doubt: tuple[float, ...] = ()
    """Covariance of the curve's coefficients: fixed, per token, per square, and per cached token where it has one."""

    def sd(self, work: float) -> float:
        """Standard deviation of ``work``, s, on a curve that is known."""
        return sqrt((self.noise * work) ** 2 + self.floor**2)

    def curve_sd(self, tokens: float, cached: float) -> float:
        """Standard deviation of what the curve says of so many tokens, s."""
        doubt = self.doubt
        if len(doubt) == 16:
            x = (1.0, tokens, tokens * tokens, cached)
        elif len(doubt) == 9:
            x = (1.0, tokens, tokens * tokens)
        else:
            return 0.0
        size, total = len(x), 0.0
        for i, one in enumerate(x):
            row = doubt[i * size : i * size + size]
            total += one * sum(map(mul, row, x))
        return sqrt(total) if total > 0 else 0.0


def fit_model(
    rows: Sequence[Row],
    calm: Sequence[Row],
    before: Model | None,
    hop: float,
    blur: float,
    least_per_token: float = 0.0,
) -> Model:
    """The model of ``rows``, the last calls of a route; ``calm``: earlier ones that did not wait: they speak for the
    curve and the noise, but not for how often calls wait. ``before``: the model until now, to begin with."""
    known = set(rows)
    every = [*rows, *(row for row in calm if row not in known)]
    recent = len(rows)
    times = [row[S] for row in every]
    reused = sum(1 for row in every if row[K] > 0) >= curves.REUSED
    design = [_design(row, reused) for row in every]
    least = (0.0, least_per_token, 0.0, *((0.0,) if reused else ()))
    if before is None:
        edge = curves.quantile_curve(design, times, _EDGE, least)
    else:
        old = before.curve
        edge = (old.fixed, old.per_token, old.per_square, *((old.per_cached,) if reused else ()))
    moments = [[max(0.0, m - hop) for m in row[M1 : M1 + MOMENTS] if m >= 0] for row in every]
    classes = [int(row[CLASS]) for row in every]
    work = [max(1e-5, _dot(edge, x)) for x in design]
    over = [t - w for t, w in zip(times, work, strict=True)]
    usual_step = max(2e-3, 0.5 * sorted(work)[len(work) // 2])  # half a step that computes a usual prompt
    usual_scale = max(1e-3, sum(max(0.0, o) for o in over[:recent]) / recent)
    habits = [Habits(scale=usual_scale)] * CLASSES
    noise, floor, shape = _USUAL_NOISE, max(5e-4, 0.3 * blur), Shape(blur=blur, brief=usual_step)
    if before is not None:
        habits, noise, floor, shape = list(before.habits), before.noise, before.floor, before.shape
    most_floor = 2e-3 + 2 * blur + 0.5 * hop
    least_blur = max(blur, 1e-3)
    trust: list[float] = []
    for _ in range(_ROUNDS):
        sums = [[0.0] * 6 for _ in range(CLASSES)]  # none, own, brief, long, stretched; seconds of long waits
        tried = [0.0] * CLASSES
        stretches, stretched = _FEW, _FEW * 0.3
        moved, moved_square = 2 * _FEW, 2 * _FEW * least_blur**2
        briefs, brief_seconds = _FEW, _FEW * usual_step
        targets: list[float] = []
        trust = []
        below: list[tuple[float, float]] = []
        for i, time in enumerate(times):
            c = work[i]
            s = sqrt((noise * c) ** 2 + floor * floor)
            r = time - c
            way = habits[classes[i]]
            none, brief, long, slow, until = weights(r, c, s, moments[i], way, shape)
            s2 = s * s
            weight = none / s2
            goal = none * time / s2
            own = seconds = 0.0
            if until:
                b2 = s2 + shape.blur**2
                drawn = shape.blur**2 / b2
                for m, p in zip(moments[i], until, strict=True):
                    own += p
                    weight += p / b2
                    goal += p * (time - m) / b2
                    moved_square += p * ((drawn * (r - m)) ** 2 + drawn * s2)
                moved += own
            # A part that waited for a time that nobody saw says of the work only what that time's spread leaves.
            for part, scale in ((brief, shape.brief), (long, way.scale), (slow, max(shape.stretch * c, 1e-6))):
                if part < 1e-4:
                    continue
                mean, variance = cut_normal(r - s2 / scale, s)
                share = part / (s2 + variance)
                weight += share
                goal += share * (time - mean)
                if part is brief:
                    briefs += brief
                    brief_seconds += brief * mean
                elif part is long:
                    seconds = long * mean
                elif i < recent:
                    stretches += slow
                    stretched += slow * mean / c
            targets.append(goal / weight if weight > 0 else c)
            trust.append(weight)
            if r < 0:
                below.append((r * r, c))
            if i < recent:
                z = classes[i]
                tally = sums[z]
                tally[0] += none
                tally[2] += brief
                tally[3] += long
                tally[4] += slow
                tally[5] += seconds
                if until:
                    tried[z] += 1
                    tally[1] += own
        habits = _habits(sums, tried, usual_scale)
        edge = curves.weighted_nonnegative(design, targets, trust, least)
        work = [max(1e-5, _dot(edge, x)) for x in design]
        noise, floor = _noise(below, noise, most_floor)
        shape = Shape(
            min(2.0, max(0.05, stretched / stretches)),
            min(max(least_blur, sqrt(moved_square / moved)), 4 * least_blur + 2e-3),
            min(2 * usual_step, max(1e-3, brief_seconds / briefs)),
        )
    knows = reused
    curve = Curve(
        edge[0], edge[1], edge[2], edge[3] if reused else 0.0, noise, 1.0 - _mean([h.none for h in habits]), knows
    )
    return Model(curve, noise, floor, tuple(habits), shape, curves.covariance(design, trust, edge))


def _design(row: Row, reused: bool) -> tuple[float, ...]:
    u = row[U]
    return (1.0, u + row[BESIDE], u * u, row[K]) if reused else (1.0, u + row[BESIDE], u * u)


def _dot(coefficients: Sequence[float], x: Sequence[float]) -> float:
    return sum(c * cell for c, cell in zip(coefficients, x, strict=True))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _habits(sums: Sequence[Sequence[float]], tried: Sequence[float], scale: float) -> list[Habits]:
    """Each class's shares, drawn towards the whole route's."""
    none, own, brief, long, slow, seconds = (sum(tally[i] for tally in sums) for i in range(6))
    whole = _shares(none + 1, own, brief + 0.5, long + 0.5, slow + 0.5, sum(tried))
    usual = (seconds + 0.5 * scale) / (long + 0.5)
    made: list[Habits] = []
    for tally, seen in zip(sums, tried, strict=True):
        near, own, brief, long, slow = (mine + _SHRINK * all_of for mine, all_of in zip(tally, whole, strict=False))
        parts = _shares(near, own, brief, long, slow, seen + _SHRINK)
        made.append(Habits(*parts, max(1e-3, (tally[5] + 2 * usual) / (tally[3] + 2))))
    return made


def _shares(
    none: float, own: float, brief: float, long: float, slow: float, tried: float
) -> tuple[float, float, float, float, float]:
    own = min(0.9, own / tried) if tried > 0 else 0.2
    left = (1 - own) / (none + brief + long + slow)
    return left * none, own, left * brief, left * long, left * slow


def _noise(below: Sequence[tuple[float, float]], noise: float, most_floor: float) -> tuple[float, float]:
    """The work's scatter, from the calls that lie below the curve (their squared distance, and the work): a normal
    variable's below its mode has the width of the whole. The shorter half tells the floor, the longer one the share.

    ``noise``: the share until now; few calls move it little.
    """
    ordered = sorted(below, key=lambda each: each[1])
    middle = len(ordered) // 2
    small, large = ordered[:middle], ordered[middle:]
    f2 = (1e-6 + sum(max(0.0, square - (noise * c) ** 2) for square, c in small)) / (1 + len(small))
    f2 = min(f2, most_floor * most_floor)
    share = _NOISE_PRIOR * _USUAL_NOISE**2 + sum(max(0.0, square - f2) / (c * c) for square, c in large)
    share /= _NOISE_PRIOR + len(large)
    return min(_MOST_NOISE, max(_LEAST_NOISE, sqrt(share))), max(3e-4, sqrt(f2))


# --- a route's window ---------------------------------------------------------------------------------------------
CALM = 48
"""Calls that did not wait, kept from before the window: the curve's floor outlasts a busy hour."""
_CALM_SURE = 0.6
_CALM_RISE = 1.3
_SURE = 3.0
"""So much likelier (natural logarithm) an explanation has to be before a route's model changes for it: 20 to 1."""
_TELLING = 2.0
"""Work that spreads by less (90th over 10th percentile) does not show whether an excess goes with it."""
_LAST = 24
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
    if before is not None and factor is not None:
        # Other hardware: what is known of the old one stays true but for its speed, until its own calls say more.
        forget = abs(window.shifted)
        calm = _calm(rows[:-forget], calm, before, window.hop)
        calm = [(*row[:S], row[S] * factor, *row[CLASS:]) for row in calm]
        rows, before = rows[-forget:], _faster(before, factor)
    every = (*rows, *calm)
    paces = sorted(row[PACE] for row in every if row[PACE] > 0)
    calm_step = paces[len(paces) // 10] if paces else 0.0
    anchors = replace(window.anchors)
    spread = _spread(every)
    if len(every) < min_calls or spread < min_spread:
        kept = _flat(calm)
        return Fitted(before, window.hop, calm_step, False, anchors, kept, bool(window.shifted), forget, spread)
    anchors.learn([(row[U], row[HEAD], row[EVENT], row[TOTAL]) for row in rows])
    model = fit_model(rows, calm, before, window.hop, 0.5 * calm_step, least_per_token)
    curve = model.curve
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
    cost = [max(1e-5, model.curve.cost(row[U], row[K], row[BESIDE])) for row in last]
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
        sd = hypot(width * factor * c, model.floor)
        z = (row[S] - factor * c) / sd
        slower -= 0.5 * min(z * z, 25.0) + log(sd * 2.5066)
    return factor if factor > 1.15 and slower - waits > _SURE else None


def _standing(rows: Sequence[Row], model: Model) -> bool:
    """Whether the last calls were all later than the curve says by about the same time: a queue that does not empty, or
    another way there; which, nobody can tell."""
    last = rows[-_LAST:]
    extra: list[float] = []
    for row in last:
        work = model.curve.cost(row[U], row[K], row[BESIDE])
        extra.append((row[S] - work) / model.sd(work))
    seconds = sorted(row[S] - model.curve.cost(row[U], row[K], row[BESIDE]) for row in last)
    low, middle, high = (seconds[len(seconds) * tenth // 10] for tenth in (1, 5, 9))
    return len(last) == _LAST and sorted(extra)[len(extra) // 10] > 3 and high - low < 0.5 * middle


def _faster(model: Model, factor: float) -> Model:
    old = model.curve
    curve = replace(
        old,
        fixed=old.fixed * factor,
        per_token=old.per_token * factor,
        per_square=old.per_square * factor,
        per_cached=old.per_cached * factor,
    )
    return replace(model, curve=curve, floor=model.floor * factor, noise=max(model.noise, _USUAL_NOISE))


def _spread(rows: Sequence[Row]) -> float:
    """How far the prompts spread (90th over 10th percentile) in their uncached and in their cached tokens: two
    directions, whose lengths (logarithms) add up as in space. Where nothing is cached, the first one alone."""
    uncached = [row[U] for row in rows]
    middle = max(1.0, sorted(uncached)[len(uncached) // 2])
    cached = curves.spread([middle + row[K] for row in rows])
    return exp(hypot(log(max(1.0, curves.spread(uncached))), log(max(1.0, cached))))


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
        work = max(1e-5, model.curve.cost(row[U], row[K], row[BESIDE]))
        if before is not None and work > _CALM_RISE * before.curve.cost(row[U], row[K], row[BESIDE]):
            continue
        moments = [max(0.0, m - hop) for m in row[M1 : M1 + MOMENTS] if m >= 0]
        way = model.habits[int(row[CLASS])]
        none, *_ = weights(row[S] - work, work, model.sd(work), moments, way, model.shape)
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
