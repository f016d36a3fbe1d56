"""Learns what a route's calls do, by expectation and maximization over the calls that it remembers.

In each round the posterior of each call's wait (``estimate/mixture.py``) says what it waited, what is left is fitted by
the curve, what lies below the curve gives the noise, and the waits give the route's habits.

One curve holds for streams and whole answers. A stream shows the time to its first token and the time of its answer; a
whole answer shows their sum, and the spread of prompt and output tokens tells them apart.

What halving and doubling the constants in here does: ``python -m tests.estimate.sensitivity``.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import field
from math import sqrt
from operator import mul

from llmtrace.estimate import curve as curves
from llmtrace.estimate.curve import Curve
from llmtrace.estimate.mixture import CLASSES, Habits, Shape, cut_normal, weights
from llmtrace.estimate.rows import BESIDE, CLASS, M1, MEDIA, MOMENTS, PACE, WHOLE, B, K, N, Row, S, U, X
from llmtrace.fixed import fixed

_ROUNDS = 12
"""Rounds of expectation and maximization. After 8 the figures of the recorded runs no longer move by 1 %."""
_BREATH = 32
"""Calls of a round between two breaths: some 0.4 ms."""
_EDGE = 0.2
"""The quantile that the rounds begin with."""
_SHRINK = 6.0
"""A class of calls counts beside so many calls of the whole route: of fewer it has no habits of its own."""
_FEW = 4.0
"""What is believed beforehand of a route's shape counts as so many calls."""
_LEAST_NOISE, _MOST_NOISE = 0.02, 0.35
"""A noise outside of these is none: below, no clock and no network is so even; above, what was taken for noise is a
wait."""
USUAL_NOISE = 0.12
"""What is believed of the noise before anything was seen."""
_USUAL_PACE = 0.25
"""The same of an answer's time: it depends on what others do meanwhile. Both give way to a route's own calls after a
few of them."""
_FIXED_STEPS = 2.0
"""The fixed part of a prompt in steps that make one token: one computes it, one more is the way there and back. Without
that way it is about 1 step in the reference server's recorded runs, 1.5 in vLLM's."""
_CERTAIN = 1.645
"""Half width of the 90 % interval of a normal distribution, in standard deviations."""
_ENOUGH, _WIDEST = 12, 2.0
"""Calls below the curve that an interval is calibrated by, and how far at most."""
_ODD = 2.0
"""An answer so many standard deviations from what is expected counts the less, the further it is."""
_CACHED = 0.05
"""What a cached token costs beside an uncached one where the route has not shown it: 5 % in vLLM's recorded runs."""


@fixed()
class Model:
    """How a route's calls spend their time."""

    curve: Curve
    noise: float
    """Standard deviation of a prompt's work, as a share of it."""
    floor: float
    """The same, s, whatever the prompt."""
    pace_noise: float = _USUAL_PACE
    """Standard deviation of an answer's time, as a share of it."""
    habits: tuple[Habits, ...] = (Habits(),) * CLASSES
    shape: Shape = field(default_factory=Shape)
    doubt: array[float] = field(default_factory=lambda: array("d"))
    """Covariance of the curve's coefficients."""

    def sd(self, work: float, answer: float = 0.0) -> float:
        """Standard deviation of a prompt's ``work`` and of its ``answer``, s, on a curve that is known."""
        return sqrt((self.noise * work) ** 2 + self.floor**2 + (self.pace_noise * answer) ** 2)

    def prompt_sd(self, tokens: float, cached: float, media: float) -> float:
        """Standard deviation of what the curve says of a prompt, s. Written out, for it is asked of each call."""
        doubt = self.doubt
        if not doubt:
            return 0.0
        fixed, token, square, hit, image = doubt[0], doubt[9], doubt[18], doubt[27], doubt[36]
        squared = tokens * tokens
        total = (
            fixed
            + tokens * (2 * doubt[1] + tokens * token)
            + squared * (2 * (doubt[2] + tokens * doubt[10]) + squared * square)
        )
        if cached:
            total += cached * (2 * (doubt[3] + tokens * doubt[11] + squared * doubt[19]) + cached * hit)
        if media:
            total += media * (2 * (doubt[4] + tokens * doubt[12] + squared * doubt[20]) + media * image)
            total += 2 * media * cached * doubt[28]
        if cached and not self.curve.knows_cached:
            total += (_CACHED * self.curve.per_token * cached) ** 2
        return sqrt(total) if total > 0 else 0.0

    def answer_sd(self, x: Sequence[float]) -> float:
        """The same of a whole answer, with all the curve's terms, ``x``."""
        prompt, answer, both = self.parts(x)
        return sqrt(max(0.0, prompt + answer + 2 * both))

    def parts(self, x: Sequence[float]) -> tuple[float, float, float]:
        """The variances, s², of what the curve says of a prompt and of its answer, and their covariance: where prompts
        and answers are hard to tell apart, one is too long by what the other is too short."""
        doubt, size, split = self.doubt, curves.TERMS, curves.ANSWER
        prompt = answer = both = 0.0
        for at in range(0, len(doubt), size):
            one = x[at // size]
            if not one:
                continue
            behind = one * sum(map(mul, doubt[at + split : at + size], x[split:]))
            if at < split * size:
                prompt += one * sum(map(mul, doubt[at : at + split], x))
                both += behind
            else:
                answer += behind
        if not self.curve.knows_cached:
            prompt += (_CACHED * self.curve.per_token * x[curves.CACHED]) ** 2
        return prompt, answer, both


def fit_model(
    rows: Sequence[Row],
    calm: Sequence[Row],
    before: Model | None,
    hop: float,
    blur: float,
    least_per_token: float = 0.0,
    breathe: Callable[[], object] = curves.nothing,
) -> Model:
    """The model of ``rows``, the last calls of a route; ``calm``: earlier ones that did not wait: they speak for the
    curve and the noise, but not for how often calls wait. ``before``: the model until now, to begin with. ``breathe``
    is called again and again, after some hundred µs of work each time."""
    return _Learner(rows, calm, before, hop, blur, least_per_token, breathe).learn()


class _Call:
    """One call in the rounds."""

    __slots__ = ("answer", "counts", "kind", "moments", "prompt", "time", "x")

    def __init__(self, row: Row, hop: float, counts: bool) -> None:
        whole = row[PACE] == WHOLE
        answer = curves.answer_terms(row[N], row[B], row[X]) if whole else (0.0, 0.0, 0.0)
        self.x = (*curves.terms(row[U], row[K], row[BESIDE], row[MEDIA]), *answer)
        self.time = row[S]
        self.kind = int(row[CLASS])
        self.moments = [max(0.0, moment - hop) for moment in row[M1 : M1 + MOMENTS] if moment >= 0]
        self.counts = counts
        """It speaks for how often calls wait."""
        self.prompt = self.answer = 0.0


class _Learner:
    """The rounds over one route's calls."""

    def __init__(
        self,
        rows: Sequence[Row],
        calm: Sequence[Row],
        before: Model | None,
        hop: float,
        blur: float,
        least_per_token: float,
        breathe: Callable[[], object],
    ) -> None:
        known = set(rows)
        every = [*rows, *(row for row in calm if row not in known)]
        self.calls = [_Call(row, hop, number < len(rows)) for number, row in enumerate(every)]
        self.answers = [
            ((0.0,) * curves.ANSWER + curves.answer_terms(row[N], row[B], row[X]), row[PACE] * row[N])
            for row in every
            if row[PACE] > 0 and row[N] >= 1
        ]
        self.knows_cached = sum(1 for row in every if row[K] > 0) >= curves.REUSED
        self.least = (0.0, least_per_token, *((0.0,) * (curves.TERMS - 2)))
        self.pace_noise = _USUAL_PACE if before is None else before.pace_noise
        self.breathe = breathe
        self._begin(before, blur)
        self.most_floor = 2e-3 + 2 * blur + 0.5 * hop
        self.least_blur = max(blur, 1e-3)
        self.trust: list[float] = []

    def _begin(self, before: Model | None, blur: float) -> None:
        calls = self.calls
        if before is None:
            design = [call.x for call in calls]
            times = [call.time for call in calls]
            design += [x for x, _ in self.answers]
            times += [time for _, time in self.answers]
            self.edge = curves.quantile_curve(design, times, _EDGE, self.least, self.breathe)
        else:
            self.edge = before.curve.coefficients()
        self._place()
        prompts = sorted(call.prompt for call in calls)
        self.usual_step = max(2e-3, 0.5 * prompts[len(prompts) // 2])  # half a step that computes a usual prompt
        over = [max(0.0, call.time - call.prompt - call.answer) for call in calls if call.counts]
        self.usual_scale = max(1e-3, sum(over) / len(over))
        if before is None:
            self.habits = [Habits(scale=self.usual_scale)] * CLASSES
            self.noise, self.floor = USUAL_NOISE, max(5e-4, 0.3 * blur)
            self.shape = Shape(blur=max(blur, 1e-3), brief=self.usual_step)
        else:
            self.habits = list(before.habits)
            self.noise, self.floor, self.shape = before.noise, before.floor, before.shape

    def _place(self) -> None:
        """What the curve says of each call."""
        edge, split = self.edge, curves.ANSWER
        for call in self.calls:
            x = call.x
            call.prompt = max(1e-5, sum(c * cell for c, cell in zip(edge[:split], x, strict=False)))
            call.answer = sum(c * cell for c, cell in zip(edge[split:], x[split:], strict=True)) if x[split] else 0.0

    def learn(self) -> Model:
        design = [call.x for call in self.calls] + [x for x, _ in self.answers]
        belief = [0.0] * curves.TERMS
        belief[0], belief[curves.ANSWER] = 1.0, -_FIXED_STEPS
        design.append(tuple(belief))
        for _ in range(_ROUNDS):
            targets, self.trust = self._round()
            answers, trust = self._answers()
            trust.append(self._sure_of_fixed())
            self.edge = curves.weighted_nonnegative(design, [*targets, *answers, 0.0], self.trust + trust, self.least)
            self.trust += trust
            self._place()
        wider = self._wider()
        none = sum(habit.none for habit in self.habits) / len(self.habits)
        curve = Curve.of(self.edge, self.noise, 1.0 - none, self.knows_cached, self._knows_answers())
        doubt = curves.covariance(design, self.trust, self.edge)
        noise, floor, pace_noise = wider * self.noise, wider * self.floor, wider * self.pace_noise
        return Model(curve, noise, floor, pace_noise, tuple(self.habits), self.shape, doubt)

    def _wider(self) -> float:
        """By how much the noise has to be wider for its 90 % interval to hold 90 % of the calls below the curve, which
        cannot have waited (split conformal prediction: Lei et al., JASA 113 (2018)). 1 where it holds them."""
        off: list[float] = []
        for call in self.calls:
            r = call.time - call.prompt - call.answer
            if r < 0:
                square = (self.noise * call.prompt) ** 2 + self.floor**2 + (self.pace_noise * call.answer) ** 2
                off.append(-r / sqrt(square))
        off.sort()
        at = int(0.9 * (len(off) + 1))
        return min(_WIDEST, max(1.0, off[at] / _CERTAIN)) if len(off) >= _ENOUGH else 1.0

    def _round(self) -> tuple[list[float], list[float]]:
        """One round: what each call's work took, and how far to trust that (one over its variance). Noise, habits and
        shape are learned on the way."""
        shape, habits = self.shape, self.habits
        sums = [[0.0] * 6 for _ in range(CLASSES)]  # none, own, brief, long, stretched; seconds of long waits
        tried = [0.0] * CLASSES
        stretches, stretched = _FEW, _FEW * 0.3
        moved, moved_square = 2 * _FEW, 2 * _FEW * self.least_blur**2
        briefs, brief_seconds = _FEW, _FEW * self.usual_step
        targets: list[float] = []
        trust: list[float] = []
        below: list[tuple[float, float]] = []
        behind: list[tuple[float, float]] = []
        for number, call in enumerate(self.calls):
            if not number % _BREATH:
                self.breathe()
            time, moments = call.time, call.moments
            c = call.prompt + call.answer
            s2 = (self.noise * call.prompt) ** 2 + self.floor**2 + (self.pace_noise * call.answer) ** 2
            s = sqrt(s2)
            r = time - c
            way = habits[call.kind]
            none, brief, long, slow, until = weights(r, c, s, moments, way, shape)
            weight = none / s2
            goal = none * time / s2
            own = seconds = 0.0
            if until:
                b2 = s2 + shape.blur**2
                drawn = shape.blur**2 / b2
                for m, p in zip(moments, until, strict=True):
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
                elif call.counts:
                    stretches += slow
                    stretched += slow * mean / c
            targets.append(goal / weight if weight > 0 else c)
            trust.append(weight)
            if r < 0 and not call.answer:
                below.append((r * r, call.prompt))
            elif r < 0:
                behind.append((max(0.0, r * r - s2 + (self.pace_noise * call.answer) ** 2), call.answer))
            if call.counts:
                tally = sums[call.kind]
                for at, part in enumerate((none, own, brief, long, slow, seconds)):
                    tally[at] += part
                tried[call.kind] += bool(until)
        self.habits = habits_of(sums, tried, self.usual_scale)
        self.noise, self.floor = _noise(below, self.noise, self.most_floor)
        self.pace_noise = self._pace_noise(behind)
        if len(below) < len(behind):  # whole answers do not show which of the two it was
            self.noise = min(_MOST_NOISE, max(self.noise, self.pace_noise))
        self.shape = Shape(
            min(2.0, max(0.05, stretched / stretches)),
            min(max(self.least_blur, sqrt(moved_square / moved)), 4 * self.least_blur + 2e-3),
            min(2 * self.usual_step, max(1e-3, brief_seconds / briefs)),
        )
        return targets, trust

    def _sure_of_fixed(self) -> float:
        """How sure it is beforehand that the fixed part is some steps long: as sure as a few calls that differ from it
        by half a usual prompt's time. Streams show it themselves; whole answers leave it to be mixed up with the rest.
        """
        if len(self.answers) >= curves.REUSED or not any(call.answer for call in self.calls):
            return 0.0
        return _FEW / self.usual_step**2

    def _answers(self) -> tuple[list[float], list[float]]:
        """The times of the streams' answers, and how far each is trusted."""
        split, edge = curves.ANSWER, self.edge
        times: list[float] = []
        trust: list[float] = []
        for x, time in self.answers:
            expected = sum(c * cell for c, cell in zip(edge[split:], x[split:], strict=True))
            sd = max(1e-3, self.pace_noise * max(expected, 0.5 * time))
            times.append(time)
            trust.append(min(1.0, _ODD * sd / max(abs(time - expected), 1e-9)) / (sd * sd))
        return times, trust

    def _pace_noise(self, behind: Sequence[tuple[float, float]]) -> float:
        """How far answers' times scatter: of whole answers what lies below the curve, of streams either side."""
        split, edge = curves.ANSWER, self.edge
        total, number = _FEW * _USUAL_PACE**2, _FEW
        for square, answer in behind:
            total += min(1.0, square / (answer * answer))
            number += 1
        for x, time in self.answers:
            expected = max(1e-4, sum(c * cell for c, cell in zip(edge[split:], x[split:], strict=True)))
            total += min(1.0, (time / expected - 1) ** 2)
            number += 1
        return max(_LEAST_NOISE, sqrt(total / number))

    def _knows_answers(self) -> bool:
        """Whether the calls show what an output token takes: streams do, whole answers of different lengths as well."""
        outputs = [call.x[curves.ANSWER] for call in self.calls if call.x[curves.ANSWER]]
        return len(self.answers) >= curves.REUSED or (len(outputs) >= 2 * _FEW and curves.spread(outputs) >= 2)


def habits_of(sums: Sequence[Sequence[float]], tried: Sequence[float], scale: float) -> list[Habits]:
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
    share = _FEW * USUAL_NOISE**2 + sum(max(0.0, square - f2) / (c * c) for square, c in large)
    share /= _FEW + len(large)
    return min(_MOST_NOISE, max(_LEAST_NOISE, sqrt(share))), max(3e-4, sqrt(f2))
