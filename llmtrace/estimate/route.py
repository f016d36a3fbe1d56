"""One route's memory and what it makes of a call: where its time to the first token went, and how sure that is.

Bounded: a window of calls for the curve, a ring of ended calls for the traffic, a handful of numbers. Everything a
call costs here is a scan of that ring and a few dozen operations; curves are fitted elsewhere.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from dataclasses import dataclass, replace
from math import sqrt

from llmtrace.estimate import curve as curves
from llmtrace.estimate.anchors import Anchors
from llmtrace.estimate.concurrency import Concurrency, InFlight, Traffic
from llmtrace.estimate.curve import Curve
from llmtrace.estimate.prefixes import Survival
from llmtrace.estimate.sample import Sample
from llmtrace.estimate.store import Saved
from llmtrace.phases.merged import MOSTLY_CACHED, NOT_FITTED, few_calls, narrow_spread
from llmtrace.phases.model import Estimate, Unknown

WINDOW = 96
"""Calls that the curve is fitted to."""
FIT_EVERY = 16
IDLE, BUSY, AFTER = 0, 1, 2
"""How a call's own stretch began: on an idle engine (as far as the client knows), while others ran, or right after
another call's first token or end, so that the way to and from the engine cancels out."""
_TAKEN_UP = 0.75
"""A call cannot have been taken up so late that less than this share of its curve's cost was left."""
MOST_SLOTS = 48
"""The greatest limit on concurrency that is looked for."""
_BELIEVED, _DOUBTED, _SIGNS_MOST = -1.5, -0.5, 8.0
"""A limit is believed once it explains the times of so many calls (wholly; more in part) that nothing else does, and
no longer when so few are left; more than the last are not remembered, so that it can go again."""
_SIGNS_FADE = 0.98
_MANY_AHEAD = 12
"""With more calls ahead, one in four is looked at for the limit: each possible one costs a step."""
_NOISE = 3.0
_STRETCH = 4.0
_DISPATCH_LEAST, _DISPATCH_MOST = 0.25, 0.75
"""The way from the headers' sender to the engine and back, as a share of the headers' own delay."""
_ALONE = 0.1
"""Up to this share of the calls that found no other of this client's may have waited, for it to count as alone."""
_OWN, _WAY, _UNEXPLAINED = 0.35, 0.7, 0.3
"""How sure a stretch is that was seen: one standard deviation, as shares of the curve's scatter, of the way's jitter,
and of what the stretch has beyond curve and scatter."""
_CERTAIN = 1.645
"""Half width of the 90 % interval of a normal distribution, in standard deviations."""
_SHIFTED_DOWN = 8
_SHIFTED_UP = 24
"""So many calls in a row on one side of the curve, and the route is another than it was."""
_STEP_NS = 1_000_000
COLUMNS = 9
# Uncached, cached, others' tokens beside; seconds from its begin to the first token and how it began; seconds per
# output token; delays of headers, first event and first token.
_U, _K, _O, _S, _HOW, _ITL, _HEAD, _EVENT, _TOTAL = range(COLUMNS)


class Route:
    """What is remembered of one route."""

    __slots__ = (
        "_above",
        "_below",
        "_cells",
        "_learned",
        "_next",
        "_per_char",
        "_recalled",
        "_signs",
        "alone",
        "anchors",
        "calm_step",
        "curve",
        "dispatch_latency",
        "fit_due",
        "jitter",
        "limit",
        "lower_bound",
        "points",
        "spread",
        "survival",
        "traffic",
        "unsaved",
    )

    def __init__(self) -> None:
        self._cells = array("f", bytes(4 * COLUMNS * WINDOW))
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
        self.curve: Curve | None = None
        self.dispatch_latency = 0.0
        """To the engine and back, beyond what the admission anchor shows, s: it is in every call's time but in none
        of those that began right after another one."""
        self.jitter = 0.0
        """Of the way there and back, s: one standard deviation of the headers' delay, where they are an anchor."""
        self.calm_step = 0.0
        """One step of an engine that is not busy, s: the low end of the seconds per output token."""
        self.lower_bound = False
        self.alone = False
        """Calls that found no other of this client's there did not wait: no other client shares the engine."""
        self.survival = Survival()
        self._per_char = 0.25
        self._recalled = False  # the limit is from a file
        self.limit: int | None = None
        """Calls that the engine runs at once, where that has shown."""
        self._signs = array("f", bytes(4 * (MOST_SLOTS + 1)))  # for (below 0) and against each limit
        self._below = self._above = 0

    # --- a call's end ---------------------------------------------------------------------------------------------
    def end(self, sample: Sample, in_flight: InFlight, least: int, least_spread: float = 0.0) -> Estimate | Unknown:
        """What is to be said of a call that has ended, or why nothing is; then it is learned from.

        ``least``: calls asked for; ``least_spread``: how far their uncached tokens have to spread.
        """
        ready = self.anchors.ready(sample.start, sample.headers, sample.event, sample.first)
        around = self.traffic.around(
            in_flight,
            in_flight.start,
            ready,
            sample.first,
            max(_STEP_NS, int(self.calm_step * 5e8)),
            self._per_char,
        )
        curve = self.curve
        own = 0.0 if curve is None else curve.cost(sample.uncached, sample.cached)
        began, how, freed = self._taken_up(sample, around, ready, own)
        if curve is not None and around.beside:
            own += curve.per_token * around.beside
        estimate: Estimate | Unknown
        if self.points < least:
            estimate = few_calls(self.points, least)
        elif curve is None:
            estimate = narrow_spread(self.spread, least_spread) if self.spread < least_spread else NOT_FITTED
        elif not curve.knows_cached and curves.mostly_cached(sample.uncached, sample.cached):
            estimate = MOSTLY_CACHED
        else:
            estimate = self._split(curve, sample, around, ready, began, how, freed, own)
        if sample.exact:
            self._learn(sample, around, ready, began, how, own, in_flight)
        return estimate

    def _taken_up(self, sample: Sample, around: Concurrency, ready: int, own: float) -> tuple[int, int, int | None]:
        """When the call's own stretch began, how, and when the slot that it waited for was freed (None: it had one).

        ``own``: what the call costs by the curve, s.
        """
        freed: int | None = None
        if self.limit is not None and around.ahead >= self.limit:
            must_end = around.ahead - self.limit
            if must_end < len(around.ends):
                freed = max(ready, around.ends[must_end])
        latest = sample.first - int(_TAKEN_UP * own * 1e9)
        earliest = ready if freed is None else freed
        possible = bisect_right(around.firsts, latest)
        if possible and around.firsts[possible - 1] > earliest:
            return around.firsts[possible - 1], AFTER, freed
        if freed is not None:
            return min(freed, sample.first), AFTER, freed
        return ready, (BUSY if around.ahead else IDLE), None

    def _split(
        self,
        curve: Curve,
        sample: Sample,
        around: Concurrency,
        ready: int,
        began: int,
        how: int,
        freed: int | None,
        own: float,
    ) -> Estimate:
        limit = self.limit
        whole = max(0, sample.first - sample.start) / 1e9
        admission = min(whole, (ready - sample.start) / 1e9)
        left = max(0, sample.first - ready) / 1e9
        dispatch_latency = min(self.dispatch_latency, left)
        spread = curve.scatter * own
        noise = _NOISE * spread
        running_step = max(self.calm_step, _pace(sample))
        step_wait = queue = 0.0
        doubt = 0.0  # one standard deviation of where prefill began
        if how == AFTER:
            waited = max(0.0, (began - ready) / 1e9)
            prefill = left - waited
            # The step that ran when it came: another's prompt, which ended with that one's first token, or a plain
            # one, of which half was left on average.
            seen = around.firsts[0] if around.firsts and around.firsts[0] <= began else None
            computing = around.ahead > around.decoding and (limit is None or around.decoding < limit)
            step_wait = (seen - ready) / 1e9 if seen is not None and computing else running_step / 2
            step_wait = min(step_wait, waited)
            queue = waited - step_wait
            # Whether the step in between counts as queue, and how much of the running one was left, engines differ in.
            doubt = 0.3 * self.calm_step + (0.5 * running_step if around.decoding else 0.0)
            unexplained = prefill - own
        else:
            admission, left = admission + dispatch_latency, left - dispatch_latency
            prefill = left
            excess = prefill - own
            doubt = 0.4 * dispatch_latency
            if how == BUSY and around.decoding:
                step_wait = max(0.0, min(excess, running_step))
                prefill -= step_wait
                excess -= step_wait
                doubt = sqrt(doubt * doubt + (running_step / 3.4) ** 2)
            unexplained = excess
            if excess > noise and not (how == BUSY and self.alone):
                # Nothing of this client's own explains it. An engine busy with others' prompts shows in the call's
                # own decode too: its prefill is taken to be stretched as much.
                stretch = min(_STRETCH, running_step / self.calm_step) if self.calm_step else 1.0
                stretched = own * stretch if stretch > 1.5 else own
                queue = prefill - stretched if prefill - stretched > noise else 0.0
                prefill -= queue
                unexplained -= queue
                doubt = sqrt(doubt * doubt + spread * spread + (0.3 * (stretched - own)) ** 2)
        # What is longer than the curve says, and not known to be a queue, may be one all the same.
        more = _UNEXPLAINED * unexplained if unexplained > noise else 0.0
        doubt = sqrt(doubt * doubt + (_OWN * spread) ** 2 + (_WAY * self.jitter) ** 2 + more * more)
        return Estimate(
            prefill=prefill,
            queue=queue,
            step_wait=step_wait,
            admission=min(admission, whole),
            admission_uncertainty=_CERTAIN * 0.4 * dispatch_latency,
            per_token=curve.per_token,
            uncertainty=_CERTAIN * doubt,
            queue_uncertainty=_CERTAIN * doubt,
            calls=self.points,
            lower_bound=self.lower_bound,
            limit=limit,
            anchor=self.anchors.name,
        )

    # --- learning -------------------------------------------------------------------------------------------------
    def _learn(
        self,
        sample: Sample,
        around: Concurrency,
        ready: int,
        began: int,
        how: int,
        own: float,
        in_flight: InFlight,
    ) -> None:
        start, first, headers, event = sample.start, sample.first, sample.headers, sample.event
        seconds = max(0, first - began) / 1e9
        base = self._next * COLUMNS
        self._cells[base : base + COLUMNS] = array(
            "f",
            (
                sample.uncached,
                sample.cached,
                around.beside,
                seconds,
                how,
                _pace(sample),
                -1.0 if headers is None else (headers - start) / 1e9,
                -1.0 if event is None else (event - start) / 1e9,
                max(0, first - start) / 1e9,
            ),
        )
        self._next = (self._next + 1) % WINDOW
        self.points = min(self.points + 1, WINDOW)
        self._learned += 1
        self.unsaved = min(self.unsaved + 1, WINDOW)
        if in_flight.size and sample.uncached:
            self._per_char += 0.1 * ((sample.uncached + sample.cached) / in_flight.size - self._per_char)
        if self.curve is not None:
            ahead = around.ahead
            if ahead and around.whole and (ahead <= _MANY_AHEAD or not self._learned & 3):
                self._watch_limit(self.curve, sample, around, ready, own)
            if how != AFTER:
                self._watch_shift(self.curve, seconds, own, how)

    def _watch_limit(self, curve: Curve, sample: Sample, around: Concurrency, ready: int, own: float) -> None:
        """For each possible limit: does it explain when this call was taken up better than no limit does?"""
        ahead, ends, first = around.ahead, around.ends, sample.first
        due = first - own * 1e9
        scale = 1e9 * (own * (1 + curve.scatter) + self.dispatch_latency + self.calm_step)
        latest = first - _TAKEN_UP * 1e9 * own
        possible = bisect_right(around.firsts, latest)
        free = around.firsts[possible - 1] if possible else ready
        without = min(1.0, abs(due - free) / scale)
        signs = self._signs
        known, best, least = self.limit, None, 0.0
        if known is not None and known > ahead:
            best, least = known, signs[known]
        ended = len(ends)
        for limit in range(1, min(ahead, MOST_SLOTS) + 1):
            off = 1.0
            if (must_end := ahead - limit) < ended:
                moment = ends[must_end]
                off = abs(due - (moment if moment > free else free)) / scale
                off = min(off, 1.0)
            sign = signs[limit] * _SIGNS_FADE + off - without
            if sign < least:
                best, least = limit, sign
            signs[limit] = sign if -_SIGNS_MOST < sign < _SIGNS_MOST else (_SIGNS_MOST if sign > 0 else -_SIGNS_MOST)
        self.limit = best if least <= (_BELIEVED if known is None else _DOUBTED) else None

    def _watch_shift(self, curve: Curve, seconds: float, own: float, how: int) -> None:
        """Count calls in a row that lie on one side of the curve by more than scatter can explain."""
        usual = own + self.dispatch_latency
        band = max(_NOISE * curve.scatter, 0.1) * usual
        self._below = self._below + 1 if seconds < usual - band else 0
        if how == IDLE:
            self._above = self._above + 1 if seconds > usual + band else 0
        if self._below >= _SHIFTED_DOWN or self._above >= _SHIFTED_UP:
            self.fit_due = 0

    @property
    def due(self) -> bool:
        """Whether there is enough new for another fit."""
        return self._learned >= self.fit_due

    def asked(self) -> None:
        """A fit has been asked for: the next one is due in a while."""
        self.fit_due = self._learned + FIT_EVERY

    def snapshot(self) -> Window:
        """What a fit needs, copied."""
        shifted = 0
        if self._below >= _SHIFTED_DOWN:
            shifted = self._below
        elif self._above >= _SHIFTED_UP:
            shifted = self._above
        turn = self._next * COLUMNS if self.points == WINDOW else 0
        cells = self._cells[turn : self.points * COLUMNS] + self._cells[:turn]
        return Window(cells, shifted, self.curve, self.dispatch_latency, self.anchors)

    def take(self, fitted: Fitted) -> None:
        """Use what a fit found."""
        self.curve, self.dispatch_latency, self.calm_step = fitted.curve, fitted.dispatch_latency, fitted.calm_step
        self.spread = fitted.spread
        self.jitter = fitted.anchors.jitter
        self.lower_bound, self.anchors, self.alone = fitted.lower_bound, fitted.anchors, fitted.alone
        if fitted.forget:
            self._below = self._above = 0
            keep = min(self.points, fitted.forget)
            rows = [self._row((self._next - keep + i) % WINDOW) for i in range(keep)]
            for i, row in enumerate(rows):
                self._cells[i * COLUMNS : (i + 1) * COLUMNS] = row
            self.points, self._next = keep, keep % WINDOW
            self.unsaved = min(self.unsaved, keep)
            self._forget_limit()

    def _forget_limit(self) -> None:
        self.limit, self._signs = None, array("f", bytes(4 * (MOST_SLOTS + 1)))

    def news(self) -> Saved | None:
        """What is in no file yet; from now on it counts as saved. None: nothing."""
        survival = self.survival.news()
        if not self.unsaved and not survival:
            return None
        rows = [self._row((self._next - self.unsaved + i) % WINDOW).tolist() for i in range(self.unsaved)]
        self.unsaved = 0
        limit = self.limit
        return Saved(
            0.0,
            [[float(f"{cell:.6g}") for cell in row] for row in rows],
            0 if limit is None and self._recalled else limit,
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
        if saved.limit and saved.limit <= MOST_SLOTS:
            self.limit, self._recalled = saved.limit, True
            self._signs[saved.limit] = 2 * _BELIEVED
        if saved.survival:
            self.survival.recall(saved.survival, saved.block)
        for i, row in enumerate(rows[-WINDOW:]):
            self._cells[i * COLUMNS : (i + 1) * COLUMNS] = array("f", row)
        self.points = self._learned = min(len(rows), WINDOW)
        self._next = self.points % WINDOW

    def _row(self, at: int) -> array[float]:
        return self._cells[at * COLUMNS : (at + 1) * COLUMNS]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Window:
    """What one fit works on."""

    cells: array[float]
    """Oldest call first."""
    shifted: int
    """The last so many lie all on one side of the curve (0: they do not)."""
    curve: Curve | None
    dispatch_latency: float
    anchors: Anchors


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Fitted:
    """What one fit found."""

    curve: Curve | None
    dispatch_latency: float
    calm_step: float
    lower_bound: bool
    anchors: Anchors
    alone: bool = False
    forget: int = 0
    """Only the last so many calls still count (0: all)."""
    spread: float = float("inf")
    """Of the calls' uncached tokens, 90th over 10th percentile."""


def fit(window: Window, min_calls: int, min_spread: float, least_per_token: float = 0.0) -> Fitted:
    """Fit curve, dispatch_latency and anchors to a window of calls. Takes a few ms; for a thread of its own."""
    flat, forget = window.cells.tolist(), 0
    rows = [tuple(flat[at : at + COLUMNS]) for at in range(0, len(flat), COLUMNS)]
    if window.shifted:
        rows, forget = rows[-window.shifted :], window.shifted
        min_calls = min(min_calls, _SHIFTED_DOWN)
    paces = sorted(row[_ITL] for row in rows if row[_ITL] > 0)
    calm = paces[len(paces) // 10] if paces else 0.0
    anchors = replace(window.anchors)
    uncached = [row[_U] for row in rows]
    spread = curves.spread(uncached)
    if len(rows) < min_calls or spread < min_spread:
        kept = window.curve if window.curve is not None and window.shifted else None
        return Fitted(kept, window.dispatch_latency, calm, False, anchors, spread=spread)
    anchors.learn([(row[_U], row[_HEAD], row[_EVENT], row[_TOTAL]) for row in rows])
    idle = [row for row in rows if row[_HOW] == IDLE]
    chosen, dispatch_latency = rows, window.dispatch_latency
    if len(idle) >= max(12, min_calls // 2) and curves.spread([row[_U] for row in idle]) >= min_spread / 2:
        chosen = idle
    points = [(r[_U], r[_K], r[_O], r[_S] + (dispatch_latency if r[_HOW] == AFTER else 0.0)) for r in chosen]
    curve = curves.fit(points, least_per_token)
    alone = chosen is idle and curve.queued <= _ALONE
    if window.curve is not None and window.shifted and curve.per_token < 1.15 * window.curve.per_token:
        old, now = window.curve, curve.fixed
        if now > old.fixed + window.dispatch_latency:
            # The same slope on a higher level: not other hardware but a queue that does not empty.
            return Fitted(old, window.dispatch_latency, calm, True, anchors)
    # One step is the least that a prompt can cost; what the fixed part holds beyond it is the way on to the engine and
    # back. The headers have come through the same server: about half of their time is taken to be the scale of it.
    over = max(0.0, curve.fixed - calm) if calm else 0.0
    dispatch_latency = 0.0
    if anchors.headers_are_admission and calm:
        dispatch_latency = min(
            max(over, _DISPATCH_LEAST * anchors.admission), _DISPATCH_MOST * anchors.admission, curve.fixed
        )
    bound = over - dispatch_latency > max(0.5 * calm, 0.2 * curve.cost(sorted(uncached)[len(uncached) // 2]))
    shifted = replace(curve, fixed=max(0.0, curve.fixed - dispatch_latency))
    return Fitted(shifted, dispatch_latency, calm, bound, anchors, alone, forget)


def _pace(sample: Sample) -> float:
    """Seconds per output token of a call, 0 where it is not known."""
    if sample.tokens < 2 or sample.end <= sample.first:
        return 0.0
    return (sample.end - sample.first) / 1e9 / (sample.tokens - 1)
