"""One route's memory and what it makes of a call: where its time to the first token went, and how sure that is.

Bounded: a window of calls that the model is fitted to, a few earlier ones that did not wait, a ring of ended calls for
the traffic, a handful of numbers. Everything a call costs here is a scan of that ring and some dozen operations;
models are fitted elsewhere (``estimate/fitting.py``).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from math import sqrt
from typing import TYPE_CHECKING

from llmtrace.estimate import curve as curves
from llmtrace.estimate.anchors import Anchors
from llmtrace.estimate.calibration import Calibration
from llmtrace.estimate.concurrency import Concurrency, InFlight, Traffic
from llmtrace.estimate.curve import Curve
from llmtrace.estimate.expectation import Model
from llmtrace.estimate.limit import Limit
from llmtrace.estimate.mixture import BUSY, HOT, Steps, Wait, posterior
from llmtrace.estimate.prefixes import Survival
from llmtrace.estimate.rows import MOMENTS, WHOLE, Ring, pack, unpack
from llmtrace.estimate.sample import Sample
from llmtrace.estimate.sharing import Sharing
from llmtrace.estimate.split import edges, split_stream, split_whole
from llmtrace.estimate.store import Saved
from llmtrace.estimate.tokens import PER_CHAR, Ratios
from llmtrace.phases.merged import ANSWERS_ALIKE, NOT_FITTED, few_calls, narrow_spread
from llmtrace.phases.model import Estimate, Unknown

if TYPE_CHECKING:
    from llmtrace.estimate.fitting import Fitted, Window

WINDOW = 96
"""Calls that the model is fitted to."""
FIT_EVERY = 16
LOOK_EVERY = 2
"""Calls between two looks whether the route has changed."""
_TAKEN_UP = 0.6
"""A call cannot have been taken up so late that less than this share of its curve's cost was left."""
_BUSY_PACE = 1.5
"""A call whose tokens came so much slower than on a calm engine shared it with others."""
_ANSWERS = 3
"""Of so many streams, one is looked at for what went on beside its answer: in the window are enough of them then."""
_NEW = 0.05
"""Weight of the latest call in the usual prompt's length: that of some 20 calls."""
_STEP_NS = 1_000_000
_LONG = 8.0
"""No step takes longer than so many usual prompts: the recorded runs' longest are five to seven."""

Lesson = tuple[Sample, Concurrency, int, Sequence[float], int, float, float, float, "Wait | None", float, float, float]
"""What ``Route.end`` leaves to ``Route.learn``: the call, what was around it, when it was ready (ns), the moments that
it may have waited for, its class and pace, what the curve says of its prompt and its answer (s), its wait, and the
answer's terms."""


class Route:
    """What is remembered of one route."""

    __slots__ = (
        "_calm",
        "_fit_asked",
        "_look_due",
        "_rows",
        "_upstream",
        "_usual",
        "_waited",
        "_waited_at",
        "anchors",
        "borrowed",
        "calibration",
        "calm_step",
        "doubted",
        "edges",
        "fit_due",
        "hop",
        "least",
        "limits",
        "lower_bound",
        "model",
        "most",
        "ratios",
        "seen",
        "sharing",
        "spread",
        "survival",
        "traffic",
        "unsaved",
    )

    def __init__(self) -> None:
        self._rows = Ring(WINDOW)
        self._calm = pack(())
        """Calls that did not wait, from before the window."""
        self.unsaved = 0
        """The last so many of the rows are in no file yet."""
        self.seen = 0
        """Calls that ended, those among them that are still to be learned from; those from a file."""
        self.fit_due = 0
        self.spread = float("inf")
        """Of the calls' uncached tokens, 90th over 10th percentile, as the last fit saw it."""
        self.traffic = Traffic()
        self.anchors = Anchors()
        self.model: Model | None = None
        self.hop = 0.0
        """To the engine and back, beyond what the admission anchor shows, s."""
        self.calm_step = 0.0
        """One step of an engine that is not busy, s: the low end of the seconds per output token."""
        self.edges = 0.0, 0.0
        """See ``split.edges``."""
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
        self._upstream: str | bool | None = None
        """Where its calls went, as far as a gateway told; True: to several upstreams."""
        self._waited = 0.0
        """Probability that the last call waited."""
        self._waited_at = 0
        """When that one got its first token, ns."""

    @property
    def points(self) -> int:
        """Calls that the next fit rests on."""
        return self._rows.count

    @property
    def curve(self) -> Curve | None:
        """What a prompt costs; None before the first fit."""
        return None if self.model is None else self.model.curve

    @property
    def limit(self) -> int | None:
        """Calls that the engine runs at once, where that has shown."""
        return self.limits.known

    def sends_to(self, upstream: str) -> bool:
        """Whether its calls go to several upstreams, now that one went to this one."""
        if self._upstream is None:
            self._upstream = upstream
        elif self._upstream is not True and self._upstream != upstream:
            self._upstream = True
        return self._upstream is True

    # --- a call's end ---------------------------------------------------------------------------------------------
    def end(
        self, sample: Sample, in_flight: InFlight, least: int, least_spread: float = 0.0
    ) -> tuple[Estimate | Unknown, Lesson]:
        """What is to be said of a call that has ended, or why nothing is; and what is to be learned from it, later.

        ``least``: calls asked for; ``least_spread``: how far their uncached tokens have to spread. This is what the
        application waits for: all that need not be known of the next call at once is left to ``learn``.
        """
        model, whole, first = self.model, sample.whole, sample.first
        if whole:  # its headers do not tell when it was at the engine's door
            ready = min(sample.start + int(self.anchors.admission * 1e9), first)
        else:
            ready = self.anchors.ready(sample.start, sample.headers, sample.event, first)
        step = int(self.calm_step * 5e8)
        around = self.traffic.around(
            in_flight,
            in_flight.start,
            ready,
            first,
            step if step > _STEP_NS else _STEP_NS,
            self.ratios.per_char or PER_CHAR,
        )
        freed = self._freed(around, ready)
        output, beside, joined = sample.tokens - 1, 0.0, 0.0
        if whole or not self.seen % _ANSWERS:
            beside, joined = self._meanwhile(sample, around, ready if freed is None else freed)
        if output < 0 or (not whole and self.seen % _ANSWERS):
            output = 0  # of this stream's answer nothing is learned
        work = answer = 0.0
        if model is not None:
            work = model.curve.cost(sample.uncached, sample.cached, around.beside, sample.media)
            if whole:
                answer = model.curve.answer(output, beside, joined)
        moments: Sequence[float] = ()
        if whole or freed is not None or around.firsts:
            moments = self._moments(sample, around, ready, freed, work + answer)
        pace = 0.0 if whole else _pace(sample)
        kind = BUSY if around.ahead else 0
        if (
            freed is not None
            or pace > _BUSY_PACE * self.calm_step > 0.0
            or (self._waited > 0.5 and ready - self._waited_at < first - ready)
        ):
            kind |= HOT
        wait: Wait | None = None
        if model is not None and (model.curve.knows_answers or not whole):
            doubt = self._doubt(model, sample, around, (output, beside, joined))
            wait = self._wait(model, sample, around, ready, moments, work, answer, doubt, pace, kind)
            if sample.exact:
                self._waited, self._waited_at = wait.waited, first
        estimate: Estimate | Unknown
        if self.seen < least:
            estimate = few_calls(self.seen, least)
        elif model is None:
            estimate = narrow_spread(self.spread, least_spread) if self.spread < least_spread else NOT_FITTED
        elif wait is None:
            estimate = ANSWERS_ALIKE
        elif whole:
            estimate = split_whole(
                self, model, wait, sample, around.beside, ready, work, answer, (output, beside, joined)
            )
        else:
            estimate = split_stream(self, model, wait, sample, around.beside, ready, work)
        if sample.exact:
            self.seen += 1
            self._usual += (sample.uncached - self._usual) * max(_NEW, 1 / self.seen)
        return estimate, (sample, around, ready, moments, kind, pace, work, answer, wait, output, beside, joined)

    def _freed(self, around: Concurrency, ready: int) -> int | None:
        """When the slot was freed that the call had to wait for; None where it had one, or the limit is not known."""
        limit = self.limits.known
        if limit is not None and around.ahead >= limit:
            must_end, ends = around.ahead - limit, around.ends
            if must_end < len(ends):
                return max(ready, ends[must_end])
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
        most = MOMENTS - (freed is not None)
        for moment in reversed(seen):
            if moment <= earliest or len(moments) >= most:
                break
            if moment <= latest:
                moments.append((moment - ready) / 1e9)
        if freed is not None and freed <= sample.first:
            moments.append((freed - ready) / 1e9)
        return moments

    def _doubt(self, model: Model, sample: Sample, around: Concurrency, answer: tuple[float, float, float]) -> float:
        """Standard deviation of what the curve says of the call, s."""
        if not sample.whole:
            return model.prompt_sd(sample.uncached + around.beside, sample.cached, sample.media)
        x = curves.terms(sample.uncached, sample.cached, around.beside, sample.media)
        return model.answer_sd(x + curves.answer_terms(*answer))

    def _wait(
        self,
        model: Model,
        sample: Sample,
        around: Concurrency,
        ready: int,
        moments: Sequence[float],
        work: float,
        answer: float,
        doubt: float,
        pace: float,
        kind: int,
    ) -> Wait:
        """The posterior of the call's wait."""
        rest = (sample.first - ready) / 1e9 if sample.first > ready else 0.0
        every = work + answer
        square = (model.noise * work) ** 2 + model.floor**2 + doubt * doubt
        if answer:
            square += (model.pace_noise * answer) ** 2
        hop = self.hop
        if hop and moments:
            moments = [moment - hop if moment > hop else 0.0 for moment in moments]
        # The step that ran when it came: another's prompt, which ended with that one's first token, or a plain one, of
        # which half was left on average.
        step = (self.calm_step if self.calm_step > pace else pace) / 2
        if around.firsts and around.ahead > around.decoding:
            limit = self.limits.known
            if limit is None or around.decoding < limit:
                until = (around.firsts[0] - ready) / 1e9
                if until <= model.curve.cost(_LONG * self._usual):  # else that one waited as well
                    step = until
        steps, sharing = None, self.sharing
        if sharing.step > 0.0 and (share := sharing.share):
            steps = Steps(share, sharing.step, pace)
        elif pace > _BUSY_PACE * self.calm_step > 0.0:
            # Nobody knows whether its steps were shared; then they were as long as the ones in which its tokens came.
            steps = Steps(sharing.doubt, pace, pace)
        return posterior(rest - every, every, sqrt(square), moments, model.habits[kind], model.shape, step, steps)

    # --- learning -------------------------------------------------------------------------------------------------
    def learn(self, lesson: Lesson) -> None:
        """Take in what ``end`` left to be learned. Nobody waits for this."""
        sample, around, ready, moments, kind, pace, prompt, answer, wait, output, beside, joined = lesson
        if not sample.exact:
            return
        start, first, headers, event = sample.start, sample.first, sample.headers, sample.event
        self._rows.put(
            (
                sample.uncached,
                sample.cached,
                around.beside,
                max(0, first - ready) / 1e9,
                kind,
                WHOLE if sample.whole else pace,
                -1.0 if headers is None else (headers - start) / 1e9,
                -1.0 if event is None else (event - start) / 1e9,
                max(0, first - start) / 1e9,
                *(*moments, -1.0, -1.0, -1.0)[:MOMENTS],
                output,
                beside,
                joined,
                sample.media,
            )
        )
        self.unsaved = min(self.unsaved + 1, WINDOW)
        model = self.model
        if model is None or wait is None:
            return
        if around.ahead and around.whole and self.limits.looks(around.ahead, self.seen):
            if sample.whole:  # by then its answer had been made too, which the curve knows well
                scale = 2 * model.sd(prompt, answer) + self.calm_step
            else:
                scale = prompt * (1 + model.noise) + self.calm_step
            self.limits.watch(around, ready, first, prompt + answer, scale)
        if around.firsts and not sample.whole and not around.beside:
            self.sharing.watch((first - around.firsts[-1]) / 1e9, prompt - self.hop, model.sd(prompt))

    @property
    def due(self) -> bool:
        """Whether there is enough new for another fit, or for a look whether the route has changed."""
        return self.seen >= self.fit_due or (self.model is not None and self.seen >= self._look_due)

    def asked(self) -> None:
        """A fit, or a look, has been asked for: the next one is due in a while."""
        self._look_due = self.seen + LOOK_EVERY
        if self.seen >= self.fit_due:
            self.fit_due, self._fit_asked = self.seen + FIT_EVERY, True

    def snapshot(self) -> Window:
        """What a fit needs, copied."""
        from llmtrace.estimate.fitting import Window  # here: see ``Baselines._fit``

        due = self._fit_asked or self.model is None
        self._fit_asked = False
        return Window(
            self._rows.last(),
            unpack(self._calm),
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
        self.lower_bound, self.anchors = fitted.lower_bound, fitted.anchors
        self._calm = pack(fitted.calm)
        self.least, self.most = fitted.least, fitted.most
        self.doubted, self.borrowed = fitted.doubted, fitted.borrowed
        if (model := self.model) is not None:
            # Where no headers show it, what varies from call to call whatever the prompt is taken for the way's jitter.
            jitter = self.anchors.jitter if self.anchors.headers_are_admission else model.floor
            self.edges = edges(self.hop, jitter, self.calm_step, model.curve.fixed)
        if fitted.forget:
            self._rows.keep(fitted.forget)
            self.unsaved = min(self.unsaved, self.points)
            self.limits = Limit()

    def news(self) -> Saved | None:
        """What is in no file yet; from now on it counts as saved. None: nothing."""
        survival = self.survival.news()
        if not self.unsaved and not survival:
            return None
        rows = [[float(f"{cell:.6g}") for cell in row] for row in self._rows.last(self.unsaved)]
        self.unsaved = 0
        return Saved(
            0.0,
            rows,
            self.limits.news(),
            survival,
            self.survival.block,
            [[float(f"{cell:.6g}") for cell in row] for row in unpack(self._calm)],
            self.calibration.news(),
        )

    def unsave(self, news: Saved) -> None:
        """What ``news`` told could not be saved: it is told again the next time."""
        self.unsaved = min(self.points, self.unsaved + len(news.rows))
        self.survival.unsave(news.survival)

    def adopt(self, saved: Saved) -> None:
        """Begin with what a file holds, as if it had been seen."""
        if saved.limit:
            self.limits.recall(saved.limit)
        if saved.survival:
            self.survival.recall(saved.survival, saved.block)
        for row in saved.rows[-WINDOW:]:
            self._rows.put(row)
        self._calm = pack(saved.calm)
        self.calibration.recall(saved.graded)
        self.seen = self.points


def _pace(sample: Sample) -> float:
    """Seconds per output token of a call, 0 where it is not known."""
    if sample.whole or sample.tokens < 2 or sample.end <= sample.first:
        return 0.0
    return (sample.end - sample.first) / 1e9 / (sample.tokens - 1)
