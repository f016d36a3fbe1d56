"""What one stretch of time was made of: a wait, or the work itself, told apart by shape.

The time from the moment at which a call was ready until its first token (of a whole answer: until its end) is
work + wait. Work scatters around what the curve says, and its width shows below the curve, where no wait can have put
a call. A wait only adds. It was one of these:

- none: the engine took the call up at once;
- until a moment that this client saw: another of its calls got its first token, or ended;
- brief: until the step ended that ran when the call came, which nobody saw; spread exponentially;
- long: other clients were served first; spread exponentially too, on a scale of its own;
- no wait but slow work: others' tokens in the same steps stretch a prompt by a share of itself.

The last one differs from those before in how it goes with the prompt's length, which only many calls together show.
How often each of them happens on a route, and how long it is, is learned (``estimate/fitting.py``); the posterior of
one call is in closed form.

Source of the densities: a normal plus an exponential variable, Grushka, Analytical Chemistry 44 (1972) 1733; given the
sum, the exponential part is a normal one cut off at zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import erfc, exp, log, pi, sqrt
from statistics import NormalDist
from typing import NamedTuple

CLASSES = 4
"""Whether this client had calls ahead (1), and whether there are signs that the engine is busy (2)."""
BUSY, HOT = 1, 2
_ROOT2, _ROOT2PI = sqrt(2.0), sqrt(2.0 * pi)
_OVER_ROOT2, _OVER_ROOT2PI = 1 / _ROOT2, 1 / _ROOT2PI
_LEAST = 1e-290
_SIDE = 1.645
"""A normal part of a posterior is stood for by its middle (weight 0.4) and by its 5 and 95 % points, so many standard
deviations beside it (0.3 each); an exponential one by its 5, 50 and 95 % points (0.35, 0.4, 0.25: its mean to 4 %)."""
_SHARED = 0.25
"""Of what a brief wait explains, so much may as well have been a step that the call had begun in and shared with
others' prompts: which it was, no client sees."""
_BEHIND = 0.25
"""After a long wait behind others, work is stretched at least so often: there always are others then. It widens the
interval of a standing queue, and changes little elsewhere."""
_CERTAIN = 0.99
"""A call that is so sure not to have waited needs no quantiles: the 95 % one is 0."""
_NEGLIGIBLE = 0.01
"""A part that is less likely than this is left out of the quantiles, which it cannot reach."""
_CROWDED = 0.6
"""Where the mean step is so much of a full one, there always are prompts that wait: most steps are full then."""
_UNCUT = 2.0
"""So many standard deviations above zero, the cut at zero no longer shows in those points."""
_FAR = 0.136
"""Of a stretch that happens less often than this (e over 20), the mean stands for the far point too."""


class Habits(NamedTuple):
    """How often calls of one class wait, and how. The five shares add up to 1."""

    none: float = 0.45
    own: float = 0.2
    """Until a moment of this client's own traffic; of the calls that saw such a moment."""
    brief: float = 0.1
    long: float = 0.15
    stretched: float = 0.1
    scale: float = 0.05
    """Mean of a long wait, s."""


class Shape(NamedTuple):
    """What is the same for all calls of a route."""

    stretch: float = 0.3
    """Mean of what slow work takes beyond the curve, as a share of it."""
    blur: float = 0.003
    """Standard deviation of the time between a moment of the client's own traffic and the step that it means, s."""
    brief: float = 0.005
    """Mean of a brief wait, s."""


@dataclass(slots=True, eq=False, repr=False)
class Wait:
    """The posterior of one call's wait, s."""

    mean: float
    median: float
    low: float
    """5 % quantile."""
    high: float
    """95 % quantile."""
    waited: float
    """Probability that it waited at all."""
    step: float
    """What of its mean was the wait for the step that ran when the call came, s."""


@dataclass(slots=True)
class Steps:
    """How prompts share the steps of an engine that has a budget of tokens for each."""

    share: float
    """Of the calls that wait for a prompt, how many begin in that one's last step."""
    full: float
    """A step that is full, s."""
    pace: float
    """The mean step while this call's tokens were made, s."""

    @property
    def crowded(self) -> bool:
        """Most steps are full."""
        return self.pace > _CROWDED * self.full

    def parts(self, rest: float, work: float) -> list[tuple[float, float]]:
        """Waits that nobody saw the end of, with their weights, if the call shared its steps.

        While all steps are full, a prompt takes as many whole ones as it touches, wherever in its first one it began.
        Else it shared its first step alone.
        """
        if self.crowded:
            long = max(self.full, self.pace)
            whole, part = divmod(work / self.full, 1.0)
            few = rest + work - (whole + 1) * long
            made = [(few, 1.0 - part), (few - long, part)]
            if whole:  # where in a step a long prompt ends is not known
                made = [(few + 0.3 * long, 0.25), (few - 0.3 * long, 0.5), (few - long, 0.25)]
        else:
            made = [(rest - at * self.full, weight) for at, weight in ((0.15, 0.3), (0.5, 0.4), (0.85, 0.3))]
        return [(min(max(0.0, wait), max(0.0, rest)), weight) for wait, weight in made]


def emg(rest: float, noise: float, scale: float) -> float:
    """Density of ``rest``: normal noise with this standard deviation plus an exponential wait with this mean."""
    shape = noise / scale
    power = shape * shape / 2 - rest / scale
    if power > 600.0:
        return 0.0
    if power < -700.0:
        return 0.0
    return exp(power) * 0.5 * erfc((shape - rest / noise) / _ROOT2) / scale


def cut_normal(mean: float, sd: float) -> tuple[float, float]:
    """Mean and variance of a normal variable given that it is not below zero."""
    z = mean / sd
    if z > 8.0:
        return mean, sd * sd
    if z < -12.0:  # by the tail's expansion
        return sd / -z, sd * sd / (z * z)
    hazard = exp(-z * z / 2) / _ROOT2PI / (0.5 * erfc(-z / _ROOT2))
    return mean + sd * hazard, max(0.0, sd * sd * (1 - hazard * (z + hazard)))


def _densities(
    rest: float, work: float, noise: float, moments: Sequence[float], habits: Habits, shape: Shape
) -> tuple[float, float, float, float, list[float]]:
    """What makes the weights: how likely each part is, times the density of ``rest`` under it.

    Every call pays for this twice where it stands: ``emg`` is written out.
    """
    z = rest / noise
    none = habits.none * exp(-0.5 * z * z) / noise * _OVER_ROOT2PI if -38.0 < z < 38.0 else 0.0
    scale = shape.brief
    ratio = noise / scale
    power = 0.5 * ratio * ratio - rest / scale
    brief = long = slow = 0.0
    if -700.0 < power < 600.0:
        brief = 0.5 * habits.brief * exp(power) * erfc((ratio - z) * _OVER_ROOT2) / scale
    scale = habits.scale
    ratio = noise / scale
    power = 0.5 * ratio * ratio - rest / scale
    if -700.0 < power < 600.0:
        long = 0.5 * habits.long * exp(power) * erfc((ratio - z) * _OVER_ROOT2) / scale
    scale = shape.stretch * work
    scale = max(scale, 1e-6)
    ratio = noise / scale
    power = 0.5 * ratio * ratio - rest / scale
    if -700.0 < power < 600.0:
        slow = 0.5 * habits.stretched * exp(power) * erfc((ratio - z) * _OVER_ROOT2) / scale
    until: list[float] = []
    if moments:
        sd = sqrt(noise * noise + shape.blur * shape.blur)
        share = habits.own / len(moments) / sd * _OVER_ROOT2PI
        for moment in moments:
            z = (rest - moment) / sd
            until.append(share * exp(-0.5 * z * z) if -38.0 < z < 38.0 else 0.0)
    return none, brief, long, slow, until


def density(rest: float, work: float, noise: float, moments: Sequence[float], habits: Habits, shape: Shape) -> float:
    """The density of ``rest``, whatever the call was made of; arguments as of ``weights``."""
    none, brief, long, stretched, until = _densities(rest, work, noise, moments, habits, shape)
    return none + brief + long + stretched + sum(until)


def weights(
    rest: float, work: float, noise: float, moments: Sequence[float], habits: Habits, shape: Shape
) -> tuple[float, float, float, float, list[float]]:
    """Probabilities of: no wait, a brief one, a long one, stretched work, and a wait until each of ``moments`` (s).

    ``rest``: what the call took beyond its ``work``, s; ``noise``: the work's standard deviation.
    """
    none, brief, long, stretched, until = _densities(rest, work, noise, moments, habits, shape)
    total = none + brief + long + stretched + sum(until)
    if total < _LEAST:
        # Nothing explains it: far above everything a long wait does, below the curve no wait.
        zeros = [0.0] * len(until)
        return (0.0, 0.0, 1.0, 0.0, zeros) if rest > 0 else (1.0, 0.0, 0.0, 0.0, zeros)
    return none / total, brief / total, long / total, stretched / total, [each / total for each in until]


def _with_shared(
    rest: float, work: float, noise: float, moments: Sequence[float], habits: Habits, shape: Shape, steps: Steps
) -> tuple[float, float, float, float, list[float], list[float]]:
    """``weights``, and for each of ``moments`` the probability that the call began in the step which ended then."""
    none, brief, long, stretched, until = _densities(rest, work, noise, moments, habits, shape)
    begun: list[float] = []
    # What the prompt took beyond its own work from the beginning of that step on: the others' part of the first one;
    # while all steps are full, that of its last one too.
    later = steps.full if steps.crowded else 0.0
    for moment in moments:
        early = (moment + later - rest) / noise
        late = (moment - steps.full - rest) / noise
        inside = 0.5 * (erfc(-early * _OVER_ROOT2) - erfc(-late * _OVER_ROOT2))
        begun.append(habits.own * steps.share * inside / len(moments) / (steps.full + later))
    until = [(1 - steps.share) * each for each in until]
    total = none + brief + long + stretched + sum(until) + sum(begun)
    if total < _LEAST:
        return (*weights(rest, work, noise, moments, habits, shape), [0.0] * len(moments))
    return (
        none / total, brief / total, long / total, stretched / total,
        [each / total for each in until], [each / total for each in begun],
    )  # fmt: skip


def posterior(
    rest: float,
    work: float,
    noise: float,
    moments: Sequence[float],
    habits: Habits,
    shape: Shape,
    step_seen: float,
    steps: Steps | None = None,
) -> Wait:
    """What is to be believed of one call's wait; arguments as of ``weights``.

    ``step_seen``: when the step ended that ran as the call came, by this client's own traffic, s; ``steps``: how the
    engine's steps are shared, where they are.
    """
    begun: list[float] = []
    if steps is None:
        none, brief, long, stretched, until = _densities(rest, work, noise, moments, habits, shape)
        total = none + brief + long + stretched + sum(until)
        if total < _LEAST:
            none, brief, long, stretched, until = weights(rest, work, noise, moments, habits, shape)
            total = 1.0
        over = 1.0 / total
        none, brief, long, stretched = none * over, brief * over, long * over, stretched * over
    else:
        none, brief, long, stretched, until, begun = _with_shared(rest, work, noise, moments, habits, shape, steps)
        over = 1.0
    zero = min(1.0, none + stretched)  # rounding may pass 1 by a hair, and no probability does
    if zero > _CERTAIN:
        mean = (1.0 - zero) * rest if rest > 0.0 else 0.0
        return Wait(mean, 0.0, 0.0, 0.0, 1.0 - zero, mean)
    nodes: list[tuple[float, float]] = []
    mean = step = 0.0
    if until:
        blur = shape.blur
        square = noise * noise + blur * blur
        drawn, side = blur * blur / square, _SIDE * noise * blur / sqrt(square)
        for moment, density_then in zip(moments, until, strict=True):
            weight = density_then * over
            if weight < _NEGLIGIBLE:
                continue
            until_then = moment + drawn * (rest - moment)
            until_then = max(until_then, 0.0)
            few = until_then - side
            nodes.append((few if few > 0.0 else 0.0, 0.3 * weight))
            nodes.append((until_then, 0.4 * weight))
            nodes.append((until_then + side, 0.3 * weight))
            mean += weight * until_then
            step += weight * (step_seen if step_seen < until_then else until_then)
    if steps is not None:
        for moment, weight in zip(moments, begun, strict=True):
            if weight < _NEGLIGIBLE:
                continue
            wait = max(0.0, moment - max(steps.full, steps.pace))
            side = 0.25 * steps.full
            nodes += [(max(0.0, wait - side), 0.2 * weight), (wait, 0.5 * weight), (wait + side, 0.3 * weight)]
            mean += weight * (wait + 0.05 * steps.full)
            step += weight * min(step_seen, wait)
        for whole, scale in ((brief, shape.brief), (long, habits.scale)):
            if (whole := whole * steps.share) < _NEGLIGIBLE:
                continue
            for wait, weight in steps.parts(rest, work):
                nodes.append((wait, whole * weight))
                mean += whole * weight * wait
                if scale == shape.brief:
                    step += whole * weight * wait
        brief, long = brief * (1 - steps.share), long * (1 - steps.share)
    shared = _SHARED * brief
    zero = min(1.0, zero + shared)
    brief -= shared
    if brief >= _NEGLIGIBLE or long >= _NEGLIGIBLE:
        slow = habits.stretched / (habits.none + habits.stretched + 1e-9)
        slow = max(slow, _BEHIND * long)
        length = shape.stretch * work
        if brief >= _NEGLIGIBLE:
            part = _unseen(nodes, rest - noise * noise / shape.brief, noise, brief, slow, length)
            mean += part
            step += part
        if long >= _NEGLIGIBLE:
            mean += _unseen(nodes, rest - noise * noise / habits.scale, noise, long, slow, length)
    nodes.sort()
    low = median = high = 0.0
    passed = zero
    for value, weight in nodes:
        before = passed
        passed += weight
        if before < 0.05 <= passed:
            low = value
        if before < 0.5 <= passed:
            median = value
        if before >= 0.95:
            break
        high = value
    step += long * shape.brief
    return Wait(mean, median, low, high, 1.0 - zero, step if step < mean else mean)


def _unseen(
    nodes: list[tuple[float, float]], middle: float, noise: float, whole: float, slow: float, length: float
) -> float:
    """Put a wait that nobody saw the end of, of this weight (``whole``), among the ``nodes``; returns its part of the
    mean.

    ``middle``, ``noise``: of the normal variable that it is, cut off at zero. ``slow``: how often the work that follows
    is stretched, by ``length`` s on average.
    """
    weight = whole * (1.0 - slow)
    if middle > _UNCUT * noise:
        side = _SIDE * noise
        nodes.append((middle - side, 0.3 * weight))
        nodes.append((middle, 0.4 * weight))
        nodes.append((middle + side, 0.3 * weight))
        part = weight * middle
    else:
        few, half, many = _cut_quantiles(middle, noise)
        nodes.append((few, 0.35 * weight))
        nodes.append((half, 0.4 * weight))
        nodes.append((many, 0.25 * weight))
        part = weight * (0.35 * few + 0.4 * half + 0.25 * many)
    if slow > _NEGLIGIBLE:
        # On a busy engine the work that follows a wait is stretched as well, as often as without one.
        # Two points stand for it: one in 20 is longer than the far one, and their mean is the stretch's.
        weight = whole * slow
        far = log(20.0 * slow) if slow > _FAR else 1.0
        near, far = middle - (1.0 - 0.3 * far) / 0.7 * length, middle - far * length
        near, far = near if near > 0.0 else 0.0, far if far > 0.0 else 0.0
        nodes.append((near, 0.7 * weight))
        nodes.append((far, 0.3 * weight))
        part += weight * (0.7 * near + 0.3 * far)
    return part


def _cut_quantiles(mean: float, sd: float) -> tuple[float, float, float]:
    """The 5, 50 and 95 % points of a normal variable that is cut off at zero."""
    z = mean / sd
    if z < _FURTHEST:  # by the tail's expansion, which is exponential
        usual = sd / -z
        return 0.051 * usual, 0.693 * usual, 2.996 * usual
    at = (z - _FURTHEST) * _PER_SD
    cell = int(at)
    at -= cell
    table = _cut_table()
    (few, half, many), (more_few, more_half, more_many) = table[cell], table[cell + 1]
    return (
        sd * (few + at * (more_few - few)),
        sd * (half + at * (more_half - half)),
        sd * (many + at * (more_many - many)),
    )


@cache
def _cut_table() -> tuple[tuple[float, float, float], ...]:
    """``_cut_quantiles`` of a standard deviation of 1, for means from ``_FURTHEST`` to ``_UNCUT``."""
    inverse, made = NormalDist().inv_cdf, list[tuple[float, float, float]]()
    for cell in range(int((_UNCUT - _FURTHEST) * _PER_SD) + 2):
        z = _FURTHEST + cell / _PER_SD
        left = 0.5 * erfc(-z / _ROOT2)  # of what lies above zero; the points are taken from the top, where it is exact
        few, half, many = (z - inverse(left * (1 - rank)) for rank in (0.05, 0.5, 0.95))
        made.append((few, half, many))
    return tuple(made)


_FURTHEST, _PER_SD = -8.0, 16
"""Where the table of those points begins, and its cells for each standard deviation: between two of them a straight
line is off by under 0.1 % of one."""
