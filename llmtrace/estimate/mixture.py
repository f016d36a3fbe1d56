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
from math import erfc, exp, log, pi, sqrt
from statistics import NormalDist

CLASSES = 4
"""Whether this client had calls ahead (1), and whether there are signs that the engine is busy (2)."""
BUSY, HOT = 1, 2
_ROOT2, _ROOT2PI = sqrt(2.0), sqrt(2.0 * pi)
_LEAST = 1e-290
_NORMAL = NormalDist()
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


@dataclass(frozen=True, slots=True)
class Habits:
    """How often calls of one class wait, and how. The five shares add up to 1."""

    none: float = 0.45
    own: float = 0.2
    """Until a moment of this client's own traffic; of the calls that saw such a moment."""
    brief: float = 0.1
    long: float = 0.15
    stretched: float = 0.1
    scale: float = 0.05
    """Mean of a long wait, s."""


@dataclass(frozen=True, slots=True)
class Shape:
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
    own: float
    """Probability that it waited for a moment that this client saw."""
    until: float
    """The likeliest of those waits, s; 0 where there is none."""
    step: float
    """What of its mean was the wait for the step that ran when the call came, s."""
    surprise: float
    """How far below what the curve allows the call was, in standard deviations; 0 where it was not."""


@dataclass(slots=True)
class Steps:
    """How prompts share the steps of an engine that has a budget of tokens for each."""

    share: float
    """Of the calls that wait for a prompt, how many begin in that one's last step."""
    full: float
    """A step that is full, s."""
    pace: float
    """The mean step while this call's tokens were made, s."""

    def parts(self, rest: float, work: float) -> list[tuple[float, float]]:
        """Waits that nobody saw the end of, with their weights, if the call shared its steps.

        While all steps are full, a prompt takes as many whole ones as it touches, wherever in its first one it began.
        Else it shared its first step alone.
        """
        if self.pace > _CROWDED * self.full:
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
    """What makes the weights: how likely each part is, times the density of ``rest`` under it."""
    z = rest / noise
    none = habits.none * exp(-z * z / 2) / noise / _ROOT2PI if abs(z) < 38 else 0.0
    brief = habits.brief * emg(rest, noise, shape.brief)
    long = habits.long * emg(rest, noise, habits.scale)
    stretched = habits.stretched * emg(rest, noise, max(shape.stretch * work, 1e-6))
    until: list[float] = []
    if moments:
        sd = sqrt(noise * noise + shape.blur * shape.blur)
        share = habits.own / len(moments) / sd / _ROOT2PI
        for moment in moments:
            z = (rest - moment) / sd
            until.append(share * exp(-z * z / 2) if abs(z) < 38 else 0.0)
    return none, brief, long, stretched, until


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
    for moment in moments:
        early = (moment - rest) / noise
        late = (moment - steps.full - rest) / noise
        inside = 0.5 * (erfc(-early / _ROOT2) - erfc(-late / _ROOT2))
        begun.append(habits.own * steps.share * inside / len(moments) / steps.full)
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
        none, brief, long, stretched, until = weights(rest, work, noise, moments, habits, shape)
    else:
        none, brief, long, stretched, until, begun = _with_shared(rest, work, noise, moments, habits, shape, steps)
    zero = none + stretched
    surprise = -rest / noise if rest < 0 else 0.0
    if zero > _CERTAIN:
        mean = (1 - zero) * max(0.0, rest)
        return Wait(mean, 0.0, 0.0, 0.0, 1.0 - zero, 0.0, 0.0, mean, surprise)
    nodes: list[tuple[float, float]] = []
    mean = step = own = best = at = 0.0
    if until:
        blur = shape.blur
        square = noise * noise + blur * blur
        drawn, side = blur * blur / square, _SIDE * noise * blur / sqrt(square)
        for moment, weight in zip(moments, until, strict=True):
            if weight < _NEGLIGIBLE:
                continue
            until_then = max(0.0, moment + drawn * (rest - moment))
            nodes += [
                (max(0.0, until_then - side), 0.3 * weight),
                (until_then, 0.4 * weight),
                (until_then + side, 0.3 * weight),
            ]
            mean += weight * until_then
            own += weight
            step += weight * min(step_seen, until_then)
            if weight > best:
                best, at = weight, until_then
    if steps is not None:
        for moment, weight in zip(moments, begun, strict=True):
            if weight < _NEGLIGIBLE:
                continue
            wait = max(0.0, moment - max(steps.full, steps.pace))
            side = 0.25 * steps.full
            nodes += [(max(0.0, wait - side), 0.2 * weight), (wait, 0.5 * weight), (wait + side, 0.3 * weight)]
            mean += weight * (wait + 0.05 * steps.full)
            own += weight
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
    slow = max(_BEHIND * long, habits.stretched / max(habits.none + habits.stretched, 1e-9))
    shared = _SHARED * brief
    zero += shared
    for whole, scale in ((brief - shared, shape.brief), (long, habits.scale)):
        if whole < _NEGLIGIBLE:
            continue
        middle = rest - noise * noise / scale
        weight = whole * (1.0 - slow)
        if middle > _UNCUT * noise:
            side = _SIDE * noise
            nodes += [(middle - side, 0.3 * weight), (middle, 0.4 * weight), (middle + side, 0.3 * weight)]
            part = weight * middle
        else:
            few, half, many = _cut_quantiles(middle, noise)
            nodes += [(few, 0.35 * weight), (half, 0.4 * weight), (many, 0.25 * weight)]
            part = weight * (0.35 * few + 0.4 * half + 0.25 * many)
        if slow > _NEGLIGIBLE:
            # On a busy engine the work that follows a wait is stretched as well, as often as without one.
            # Two points stand for it: one in 20 is longer than the far one, and their mean is the stretch's.
            length, weight = shape.stretch * work, whole * slow
            far = max(1.0, log(20.0 * slow))
            near, far = middle - (1.0 - 0.3 * far) / 0.7 * length, middle - far * length
            near, far = near if near > 0.0 else 0.0, far if far > 0.0 else 0.0
            nodes += [(near, 0.7 * weight), (far, 0.3 * weight)]
            part += weight * (0.7 * near + 0.3 * far)
        mean += part
        if scale == shape.brief:
            step += part
    nodes.sort()
    low, median, high = _quantiles(nodes, zero)
    step += long * shape.brief
    return Wait(mean, median, low, high, 1.0 - zero, own, at, min(step, mean), surprise)


def _cut_quantiles(mean: float, sd: float) -> tuple[float, float, float]:
    """The 5, 50 and 95 % points of a normal variable that is cut off at zero."""
    below = 0.5 * erfc(mean / sd / _ROOT2)
    if below > 1 - 1e-9:  # by the tail's expansion, which is exponential
        usual = sd * sd / -mean
        return 0.051 * usual, 0.693 * usual, 2.996 * usual
    inverse, left = _NORMAL.inv_cdf, 1 - below
    few, half, many = (mean + sd * inverse(below + rank * left) for rank in (0.05, 0.5, 0.95))
    return max(0.0, few), max(0.0, half), max(0.0, many)


def _quantiles(nodes: Sequence[tuple[float, float]], zero: float) -> tuple[float, float, float]:
    low = median = high = 0.0
    passed = zero
    for value, weight in nodes:
        before = passed
        passed += weight
        if before < 0.05 <= passed:
            low = value
        if before < 0.5 <= passed:
            median = value
        if before < 0.95:
            high = value
        else:
            break
    return low, median, high
