"""One route's memory and what it makes of a call: where its time to the first token went, and how sure that is.

Bounded: a window of calls that the model is fitted to, a few earlier ones that did not wait, a ring of ended calls for
the traffic, a handful of numbers. Everything a call costs here is a scan of that ring and some dozen operations;
models are fitted elsewhere (``estimate/fitting.py``).
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from math import hypot, sqrt
from typing import TYPE_CHECKING

from llmtrace.estimate import curve as curves
from llmtrace.estimate.anchors import Anchors
from llmtrace.estimate.calibration import Calibration
from llmtrace.estimate.concurrency import Concurrency, InFlight, Traffic
from llmtrace.estimate.curve import Curve
from llmtrace.estimate.expectation import COLUMNS, MOMENTS, WHOLE, Model
from llmtrace.estimate.limit import Limit
from llmtrace.estimate.mixture import BUSY, HOT, Steps, Wait, posterior
from llmtrace.estimate.prefixes import Survival
from llmtrace.estimate.sample import Sample
from llmtrace.estimate.sharing import Sharing
from llmtrace.estimate.store import Saved
from llmtrace.estimate.tokens import PER_CHAR, Ratios
from llmtrace.phases.merged import ANSWERS_ALIKE, NOT_FITTED, few_calls, narrow_spread, undecided
from llmtrace.phases.model import Estimate, Unknown

if TYPE_CHECKING:
    from llmtrace.estimate.fitting import Fitted, Window

WINDOW = 96
"""Calls that the model is fitted to."""
FIT_EVERY = 16
LOOK_EVERY = 4
"""Calls between two looks whether the route has changed."""
_TAKEN_UP = 0.6
"""A call cannot have been taken up so late that less than this share of its curve's cost was left."""
_CERTAIN = 1.645
"""Half width of the 90 % interval of a normal distribution, in standard deviations."""
_CERTAIN_SIDE = 0.95
"""The end of a 90 % interval that has one side."""
_WAY = 0.7
"""Of the way's jitter that the headers show, so much is on the way behind them."""
_BUSY_PACE = 1.5
"""A call whose tokens came so much slower than on a calm engine shared it with others."""
_UNDECIDED = 0.8
"""Where the 90 % interval of the wait spans so much of the stretch that it lies in, the two are not told apart: what
may be anything is no estimate."""
_ANSWERS = 3
"""Of so many streams, one is looked at for what went on beside its answer: in the window are enough of them then."""
_NEW = 0.05
"""Weight of the latest call in the usual prompt's length: that of some 20 calls."""
_STEP_NS = 1_000_000


class Route:
    """What is remembered of one route."""

    __slots__ = (
        "_calm",
        "_cells",
        "_fit_asked",
        "_learned",
        "_look_due",
        "_next",
        "_usual",
        "_waited",
        "_waited_at",
        "anchors",
        "borrowed",
        "calibration",
        "calm_step",
        "doubted",
        "fit_due",
        "hop",
        "jitter",
        "least",
        "limits",
        "lower_bound",
        "model",
        "most",
        "points",
        "ratios",
        "sharing",
        "spread",
        "survival",
        "traffic",
        "unsaved",
    )

    def __init__(self) -> None:
        self._cells = array("f", bytes(4 * COLUMNS * WINDOW))
        self._calm = array("f")
        """Calls that did not wait, from before the window."""
        self.points = 0
        """Calls in the window."""
        self.unsaved = 0
        """The last so many of them are in no file yet."""
        self._next = 0
        self._learned = 0
        self.fit_due = 0
        self.spread = float("inf")
        """Of the calls' uncached tokens, 90th over 10th percentile, as the last fit saw it."""
        self.traffic = Traffic()
        self.anchors = Anchors()
        self.model: Model | None = None
        self.hop = 0.0
        """To the engine and back, beyond what the admission anchor shows, s."""
        self.jitter = 0.0
        """Of the way there and back, s: one standard deviation of the headers' delay, where they are an anchor."""
        self.calm_step = 0.0
        """One step of an engine that is not busy, s: the low end of the seconds per output token."""
        self.lower_bound = False
        self.survival = Survival()
        self.ratios = Ratios()
        self.limits = Limit()
        self.sharing = Sharing()
        self.calibration = Calibration()
        self._usual = 0.0
        """Uncached tokens of a usual prompt."""
        self.least = self.most = 1.0
        """By which factor the work may be another than the model says, by the last calls."""
        self.doubted, self.borrowed = 1.0, False
        self._look_due, self._fit_asked = 0, False
        self._waited = 0.0
        """Probability that the last call waited."""
        self._waited_at = 0
        """When that one got its first token, ns."""

    @property
    def curve(self) -> Curve | None:
        """What a prompt costs; None before the first fit."""
        return None if self.model is None else self.model.curve

    @property
    def limit(self) -> int | None:
        """Calls that the engine runs at once, where that has shown."""
        return self.limits.known

    # --- a call's end ---------------------------------------------------------------------------------------------
    def end(self, sample: Sample, in_flight: InFlight, least: int, least_spread: float = 0.0) -> Estimate | Unknown:
        """What is to be said of a call that has ended, or why nothing is; then it is learned from.

        ``least``: calls asked for; ``least_spread``: how far their uncached tokens have to spread.
        """
        ready = self._ready(sample)
        around = self.traffic.around(
            in_flight,
            in_flight.start,
            ready,
            sample.first,
            max(_STEP_NS, int(self.calm_step * 5e8)),
            self.ratios.per_char or PER_CHAR,
        )
        model = self.model
        work = answer = 0.0
        if model is not None:
            work = model.curve.cost(sample.uncached, sample.cached, around.beside, sample.media)
        freed = self._freed(around, ready)
        beside = joined = 0.0
        output = sample.tokens - 1
        if sample.whole or not self._learned % _ANSWERS:
            beside, joined = self._meanwhile(sample, around, ready if freed is None else freed)
        else:
            output = 0  # nothing is learned from this stream's answer
        if model is not None and sample.whole:
            answer = model.curve.answer(max(0, sample.tokens - 1), beside, joined)
        moments = self._moments(sample, around, ready, freed, work + answer)
        kind = self._kind(sample, around, ready, freed is not None)
        wait: Wait | None = None
        if model is not None and (model.curve.knows_answers or not sample.whole):
            wait = self._wait(model, sample, around, ready, moments, work, answer, (beside, joined), kind)
        estimate: Estimate | Unknown
        if self._learned < least:
            estimate = few_calls(self._learned, least)
        elif model is None:
            estimate = narrow_spread(self.spread, least_spread) if self.spread < least_spread else NOT_FITTED
        elif wait is None:
            estimate = ANSWERS_ALIKE
        elif sample.whole:
            estimate = self._split_whole(model, wait, sample, ready, work, answer)
        else:
            estimate = self._split(model, wait, sample, around, ready, work)
        if sample.exact:
            self._learn(sample, around, ready, moments, kind, work + answer, wait, (max(0, output), beside, joined))
        return estimate

    def _ready(self, sample: Sample) -> int:
        """When the request was at the engine's door, as far as known; a whole answer's headers do not tell."""
        if sample.whole:
            return min(sample.start + int(self.anchors.admission * 1e9), sample.first)
        return self.anchors.ready(sample.start, sample.headers, sample.event, sample.first)

    def _freed(self, around: Concurrency, ready: int) -> int | None:
        """When the slot was freed that the call had to wait for; None where it had one, or the limit is not known."""
        if self.limit is not None and around.ahead >= self.limit:
            must_end = around.ahead - self.limit
            if must_end < len(around.ends):
                return max(ready, around.ends[must_end])
        return None

    def _meanwhile(self, sample: Sample, around: Concurrency, began: int) -> tuple[float, float]:
        """What else went on while the call's answer was made: other calls in flight on average, and the uncached
        tokens of those that began then. Of this client's own calls; of a limited engine, those that had a slot."""
        if not sample.whole:
            began = sample.first
        most = float("inf") if self.limit is None else self.limit - 1
        ahead = around.ahead - bisect_right(around.ends, began)
        now = min(most, self.traffic.open - 1)
        tokens, gone = self.traffic.since(began, sample.start)
        ahead_still = max(0, ahead - gone)
        joined = tokens + max(0.0, now - ahead_still) * self._usual
        return (min(most, ahead) + now) / 2, joined

    def _moments(self, sample: Sample, around: Concurrency, ready: int, freed: int | None, work: float) -> list[float]:
        """When the call may have been taken up, by this client's own traffic: s after it was ready, the last ones."""
        latest = sample.first - int(_TAKEN_UP * work * 1e9)
        earliest = ready if freed is None else freed
        seen = around.firsts
        if sample.whole and self.limit is not None:  # only the slot that it waited for, as far as that is sure
            at, earliest = max(0, around.ahead - self.limit), ready
            beside = [*around.ends[max(0, at - 1) : at], *around.ends[at + 1 : at + 2]]
            seen = [] if self.limits.sure else beside
        elif sample.whole:
            seen = around.ends
        moments: list[float] = []
        for moment in reversed(seen):
            if moment <= earliest or len(moments) >= MOMENTS - (freed is not None):
                break
            if moment <= latest:
                moments.append((moment - ready) / 1e9)
        if freed is not None and freed <= sample.first:
            moments.append((freed - ready) / 1e9)
        return moments

    def _kind(self, sample: Sample, around: Concurrency, ready: int, freed: bool) -> int:
        """The call's class: see ``mixture.CLASSES``."""
        kind = BUSY if around.ahead else 0
        crowded = bool(self.calm_step) and _pace(sample) > _BUSY_PACE * self.calm_step
        after = self._waited > 0.5 and ready - self._waited_at < sample.first - ready
        if freed or crowded or after:
            kind |= HOT
        return kind

    def _wait(
        self,
        model: Model,
        sample: Sample,
        around: Concurrency,
        ready: int,
        moments: list[float],
        work: float,
        answer: float,
        meanwhile: tuple[float, float],
        kind: int,
    ) -> Wait:
        rest = max(0, sample.first - ready) / 1e9 - work - answer
        hop = self.hop
        if sample.whole:
            x = curves.terms(sample.uncached, sample.cached, around.beside, sample.media)
            x += curves.answer_terms(max(0, sample.tokens - 1), *meanwhile)
            doubt = model.answer_sd(x)
        else:
            doubt = model.prompt_sd(sample.uncached + around.beside, sample.cached, sample.media)
        sd = hypot(model.sd(work, answer), doubt)
        moments = [max(0.0, moment - hop) for moment in moments]
        # The step that ran when it came: another's prompt, which ended with that one's first token, or a plain one, of
        # which half was left on average.
        step = max(self.calm_step, _pace(sample)) / 2
        limit = self.limit
        if around.firsts and around.ahead > around.decoding and (limit is None or around.decoding < limit):
            step = (around.firsts[0] - ready) / 1e9
        steps, sharing = None, self.sharing
        if (share := sharing.share) and sharing.step > 0.0:
            steps = Steps(share, sharing.step, _pace(sample))
        return posterior(rest, work + answer, sd, moments, model.habits[kind], model.shape, step, steps)

    def _split(
        self, model: Model, wait: Wait, sample: Sample, around: Concurrency, ready: int, work: float
    ) -> Estimate | Unknown:
        whole = max(0, sample.first - sample.start) / 1e9
        left = max(0, sample.first - ready) / 1e9
        hop = min(self.hop, left)
        admission = min(whole, (ready - sample.start) / 1e9 + hop)
        left -= hop
        length = min(wait.mean, left)
        step_wait = min(length, wait.step)
        # Whether the step that ran counts as queue, and how long the way was, nobody saw.
        edge = _CERTAIN * sqrt((0.4 * hop) ** 2 + (_WAY * self.jitter) ** 2 + (0.3 * self.calm_step) ** 2)
        # Nor how much of what every call costs, beyond one step, was the way in front of the prompt's step: of anything
        # between none, as is estimated, and all of it, 95 % is the interval's end.
        later = hypot(edge, _CERTAIN_SIDE * max(0.0, model.curve.fixed - hop - self.calm_step))
        low = length - min(wait.low, length) + edge
        high = max(length, min(wait.high, left)) - length + later
        if around.beside:
            # Those whose first tokens came in the same step may have begun before it joined them: their tokens then
            # cost it less than all that they took.
            high += min(model.curve.per_token * around.beside, left - length)
        if self.lower_bound:  # what is the same for all calls may be a wait of all of them
            high += max(0.0, min(model.curve.fixed - hop - self.calm_step, left - length - high))
        low, high = max(low, (self.most - 1) * work), max(high, (1 - min(self.least, self.doubted)) * work)
        low, high = self.calibration.factor * low, self.calibration.factor * high
        if min(low, length) + min(high, left - length) - edge - later > _UNDECIDED * left:
            return undecided(length - low, length + high, left, self.points)
        return Estimate(
            prefill=left - length,
            queue=length - step_wait,
            step_wait=step_wait,
            admission=admission,
            admission_uncertainty=_CERTAIN * 0.4 * hop,
            per_token=model.curve.per_token,
            uncertainty=max(low, high),
            queue_uncertainty=max(low, high),
            queue_low=low,
            queue_high=high,
            prefill_low=high,
            prefill_high=low,
            calls=self.points,
            lower_bound=self.lower_bound,
            limit=self.limit,
            anchor=self.anchors.name,
        )

    def _split_whole(
        self, model: Model, wait: Wait, sample: Sample, ready: int, work: float, answer: float
    ) -> Estimate | Unknown:
        """The parts of a whole answer, of which only the end was seen: what did not wait is shared out between prompt
        and answer as the curve says, and what it does not explain as each of them is unsure."""
        left = max(0, sample.first - ready) / 1e9
        hop = min(self.hop, left)
        admission = (ready - sample.start) / 1e9 + hop
        left -= hop
        length = min(wait.mean, left)
        doubt = model.prompt_sd(sample.uncached, sample.cached, sample.media)
        prompt_square = model.sd(work) ** 2 + doubt * doubt
        answer_square = (model.pace_noise * answer) ** 2 + 1e-9
        share = prompt_square / (prompt_square + answer_square)
        over = left - length - work - answer
        prefill = min(max(0.0, work + over * share), left - length)
        decode = left - length - prefill
        either = _CERTAIN * sqrt(prompt_square * answer_square / (prompt_square + answer_square))
        low = length - min(wait.low, length)
        high = max(length, min(wait.high, left)) - length
        if not self.anchors.headers_are_admission:  # how long the way in was, nobody saw
            low = hypot(low, _CERTAIN_SIDE * hop)
        low, high = max(low, (self.most - 1) * (work + answer)), max(high, (1 - self.least) * (work + answer))
        edge = _CERTAIN * self.calm_step
        low, high = self.calibration.factor * low, self.calibration.factor * high
        if min(low, length) + min(high, left - length) > _UNDECIDED * left:
            return undecided(length - low, length + high, left, self.points)
        return Estimate(
            prefill=prefill,
            queue=length - min(length, wait.step),
            step_wait=min(length, wait.step),
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
            calls=self.points,
            lower_bound=self.lower_bound,
            limit=self.limit,
            anchor=self.anchors.name,
        )

    # --- learning -------------------------------------------------------------------------------------------------
    def _learn(
        self,
        sample: Sample,
        around: Concurrency,
        ready: int,
        moments: list[float],
        kind: int,
        work: float,
        wait: Wait | None,
        answer: tuple[float, float, float],
    ) -> None:
        start, first, headers, event = sample.start, sample.first, sample.headers, sample.event
        seconds = max(0, first - ready) / 1e9
        base = self._next * COLUMNS
        padded = [*moments, -1.0, -1.0, -1.0]
        self._cells[base : base + COLUMNS] = array(
            "f",
            (
                sample.uncached,
                sample.cached,
                around.beside,
                seconds,
                kind,
                WHOLE if sample.whole else _pace(sample),
                -1.0 if headers is None else (headers - start) / 1e9,
                -1.0 if event is None else (event - start) / 1e9,
                max(0, first - start) / 1e9,
                *padded[:MOMENTS],
                *answer,
                sample.media,
            ),
        )
        self._usual += (sample.uncached - self._usual) * max(_NEW, 1 / (self._learned + 1))
        self._next = (self._next + 1) % WINDOW
        self.points = min(self.points + 1, WINDOW)
        self._learned += 1
        self.unsaved = min(self.unsaved + 1, WINDOW)
        model = self.model
        if model is None or wait is None:
            return
        self._waited, self._waited_at = wait.waited, first
        prompt = model.curve.cost(sample.uncached, sample.cached, around.beside, sample.media)
        if around.ahead and around.whole and self.limits.looks(around.ahead, self._learned):
            if sample.whole:  # by then its answer had been made too, which the curve knows well
                scale = 2 * model.sd(prompt, work - prompt) + self.calm_step
            else:
                scale = work * (1 + model.noise) + self.calm_step
            self.limits.watch(around, ready, first, work, scale)
        if around.firsts and not sample.whole and not around.beside:
            self.sharing.watch((first - around.firsts[-1]) / 1e9, work - self.hop, model.sd(work))

    @property
    def due(self) -> bool:
        """Whether there is enough new for another fit, or for a look whether the route has changed."""
        return self._learned >= self.fit_due or (self.model is not None and self._learned >= self._look_due)

    def asked(self) -> None:
        """A fit, or a look, has been asked for: the next one is due in a while."""
        self._look_due = self._learned + LOOK_EVERY
        if self._learned >= self.fit_due:
            self.fit_due, self._fit_asked = self._learned + FIT_EVERY, True

    def snapshot(self) -> Window:
        """What a fit needs, copied."""
        from llmtrace.estimate.fitting import Window  # here: see ``Baselines._fit``

        due = self._fit_asked or self.model is None
        self._fit_asked = False
        turn = self._next * COLUMNS if self.points == WINDOW else 0
        cells = self._cells[turn : self.points * COLUMNS] + self._cells[:turn]
        return Window(
            cells,
            self._calm[:],
            due,
            self.model,
            self.hop,
            self.calm_step,
            self.lower_bound,
            self.spread,
            self.doubted,
            self.borrowed,
            self.anchors,
        )

    def take(self, fitted: Fitted) -> None:
        """Use what a fit found."""
        self.model, self.hop, self.calm_step = fitted.model, fitted.hop, fitted.calm_step
        self.spread = fitted.spread
        self.jitter = fitted.anchors.jitter
        self.lower_bound, self.anchors = fitted.lower_bound, fitted.anchors
        self._calm = fitted.calm
        self.least, self.most = fitted.least, fitted.most
        self.doubted, self.borrowed = fitted.doubted, fitted.borrowed
        if fitted.forget:
            keep = min(self.points, fitted.forget)
            rows = [self._row((self._next - keep + i) % WINDOW) for i in range(keep)]
            for i, row in enumerate(rows):
                self._cells[i * COLUMNS : (i + 1) * COLUMNS] = row
            self.points, self._next = keep, keep % WINDOW
            self.unsaved = min(self.unsaved, keep)
            self.limits = Limit()

    def news(self) -> Saved | None:
        """What is in no file yet; from now on it counts as saved. None: nothing."""
        survival = self.survival.news()
        if not self.unsaved and not survival:
            return None
        rows = [self._row((self._next - self.unsaved + i) % WINDOW).tolist() for i in range(self.unsaved)]
        self.unsaved = 0
        return Saved(
            0.0,
            [[float(f"{cell:.6g}") for cell in row] for row in rows],
            self.limits.news(),
            survival,
            self.survival.block,
        )

    def unsave(self, news: Saved) -> None:
        """What ``news`` told could not be saved: it is told again the next time."""
        self.unsaved = min(self.points, self.unsaved + len(news.rows))
        self.survival.unsave(news.survival)

    def adopt(self, saved: Saved) -> None:
        """Begin with what a file holds, as if it had been seen."""
        rows = saved.rows
        if saved.limit:
            self.limits.recall(saved.limit)
        if saved.survival:
            self.survival.recall(saved.survival, saved.block)
        for i, row in enumerate(rows[-WINDOW:]):
            self._cells[i * COLUMNS : (i + 1) * COLUMNS] = array("f", row)
        self.points = self._learned = min(len(rows), WINDOW)
        self._next = self.points % WINDOW

    def _row(self, at: int) -> array[float]:
        return self._cells[at * COLUMNS : (at + 1) * COLUMNS]


def _pace(sample: Sample) -> float:
    """Seconds per output token of a call, 0 where it is not known."""
    if sample.whole or sample.tokens < 2 or sample.end <= sample.first:
        return 0.0
    return (sample.end - sample.first) / 1e9 / (sample.tokens - 1)
