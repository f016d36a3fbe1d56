"""The parts of one call's time, with their intervals, from the posterior of its wait and what its route is like."""

from __future__ import annotations

from math import hypot, sqrt
from typing import TYPE_CHECKING

from llmtrace.estimate import curve as curves
from llmtrace.phases.merged import undecided
from llmtrace.phases.model import Estimate, Unknown

if TYPE_CHECKING:
    from llmtrace.estimate.expectation import Model
    from llmtrace.estimate.mixture import Wait
    from llmtrace.estimate.route import Route
    from llmtrace.estimate.sample import Sample

_CERTAIN = 1.645
"""Half width of the 90 % interval of a normal distribution, in standard deviations."""
_CERTAIN_SIDE = 0.95
"""The end of a 90 % interval that has one side."""
_WAY = 0.7
"""Of the way's jitter that the headers show, so much is on the way behind them."""
_UNDECIDED = 0.8
"""Where the 90 % interval of the wait spans so much of the stretch that it lies in, the two are not told apart: what
may be anything is no estimate."""


def edges(hop: float, jitter: float, step: float, fixed: float) -> tuple[float, float]:
    """How much shorter and longer, s, any queue of a route may be for what nobody saw of the way and of a step.

    ``hop``, ``jitter``: the way to the engine and back, and one standard deviation of it; ``step``: one step of the
    engine; ``fixed``: what every call costs. All in s.
    """
    # Whether the step that ran counts as queue, and how long the way was, nobody saw.
    edge = _CERTAIN * sqrt((0.4 * hop) ** 2 + (_WAY * jitter) ** 2 + (0.3 * step) ** 2)
    # Nor how much of what every call costs, beyond one step, was the way in front of the prompt's step: of anything
    # between none, as is estimated, and all of it, 95 % is the interval's end.
    return edge, hypot(edge, _CERTAIN_SIDE * max(0.0, fixed - hop - step))


def split_stream(
    route: Route, model: Model, wait: Wait, sample: Sample, beside: int, ready: int, work: float
) -> Estimate | Unknown:
    """The parts of a stream's time to its first token. ``beside``: others' tokens in the same step; ``ready``: when it
    was at the engine's door, ns; ``work``: what the curve says, s."""
    start, first, hop = sample.start, sample.first, route.hop
    left = (first - ready) / 1e9 if first > ready else 0.0
    hop = min(hop, left)
    admission = (ready - start) / 1e9 + hop
    left -= hop
    length = wait.mean if wait.mean < left else left
    step_wait = wait.step if wait.step < length else length
    edge, later = route.edges
    low = (length - wait.low if wait.low < length else 0.0) + edge
    high = (wait.high if wait.high < left else left) - length
    high = later + high if high > 0.0 else later
    curve = model.curve
    if beside:
        # Those whose first tokens came in the same step may have begun before it joined them: their tokens then
        # cost it less than all that they took.
        high += min(curve.per_token * beside, left - length)
    if route.lower_bound:  # what is the same for all calls may be a wait of all of them
        high += max(0.0, min(curve.fixed - hop - route.calm_step, left - length - high))
    if route.least < 1.0 or route.doubted < 1.0 or route.most > 1.0:
        low = max(low, (route.most - 1) * work)
        high = max(high, (1 - min(route.least, route.doubted)) * work)
    factor = route.calibration.factor
    low, high = factor * low, factor * high
    shorter, longer = low if low < length else length, left - length
    if shorter + (high if high < longer else longer) - edge - later > _UNDECIDED * left:
        return undecided(length - low, length + high, left, route.points)
    half = low if low > high else high
    return Estimate(
        prefill=left - length,
        queue=length - step_wait,
        step_wait=step_wait,
        admission=admission,
        admission_uncertainty=_CERTAIN * 0.4 * hop,
        per_token=curve.per_token,
        uncertainty=half,
        queue_uncertainty=half,
        queue_low=low,
        queue_high=high,
        prefill_low=high,
        prefill_high=low,
        calls=route.points,
        lower_bound=route.lower_bound,
        limit=route.limits.known,
        anchor=route.anchors.name,
    )


def split_whole(
    route: Route,
    model: Model,
    wait: Wait,
    sample: Sample,
    beside: int,
    ready: int,
    work: float,
    answer: float,
    made: tuple[float, float, float],
) -> Estimate | Unknown:
    """The parts of a whole answer, of which only the end was seen: what did not wait is shared out between prompt
    and answer as the curve says, and what it does not explain as each of them is unsure.

    ``answer``: what the curve says of it, s; ``made``: its terms; the others as of ``split_stream``.
    """
    left = max(0, sample.first - ready) / 1e9
    hop = min(route.hop, left)
    admission = (ready - sample.start) / 1e9 + hop
    left -= hop
    length = min(wait.mean, left)
    x = curves.terms(sample.uncached, sample.cached, beside, sample.media) + curves.answer_terms(*made)
    prompt_square, answer_square, both = model.parts(x)
    prompt_square += model.sd(work) ** 2
    answer_square += (model.pace_noise * answer) ** 2 + 1e-9
    # Two normal variables whose sum is known: what one is by it, and how far it may still be off.
    square = max(1e-12, prompt_square + answer_square + 2 * both)
    share = min(1.0, max(0.0, (prompt_square + both) / square))
    either = _CERTAIN * sqrt(max(0.0, prompt_square - (prompt_square + both) ** 2 / square))
    over = left - length - work - answer
    prefill = min(max(0.0, work + over * share), left - length)
    decode = left - length - prefill
    low = length - min(wait.low, length)
    high = max(length, min(wait.high, left)) - length
    if not route.anchors.headers_are_admission:  # how long the way in was, nobody saw
        low = hypot(low, _CERTAIN_SIDE * hop)
    low, high = max(low, (route.most - 1) * (work + answer)), max(high, (1 - route.least) * (work + answer))
    edge = _CERTAIN * route.calm_step
    low, high = route.calibration.factor * low, route.calibration.factor * high
    if min(low, length) + min(high, left - length) > _UNDECIDED * left:
        return undecided(length - low, length + high, left, route.points)
    step_wait = min(length, wait.step)
    return Estimate(
        prefill=prefill,
        queue=length - step_wait,
        step_wait=step_wait,
        admission=admission,
        admission_uncertainty=_CERTAIN * 0.4 * hop,
        per_token=model.curve.per_token,
        uncertainty=max(low, high) * share + either + edge,
        queue_uncertainty=max(low, high) + edge,
        queue_low=low + edge,
        queue_high=high + edge,
        prefill_low=high * share + either + edge,
        prefill_high=low * share + either + edge,
        decode=decode,
        decode_low=high * (1 - share) + either + edge,
        decode_high=low * (1 - share) + either + edge,
        calls=route.points,
        lower_bound=route.lower_bound,
        limit=route.limit,
        anchor=route.anchors.name,
    )
