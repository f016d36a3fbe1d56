"""What a client's own earlier calls say about the split that nobody reports: network, queue and prefill.

Routes are remembered in a bounded table; a call costs one look around its route's traffic. Curves are fitted on a
thread of their own, which starts when there is something to fit and goes when there has not been for a while.
"""

from __future__ import annotations

import os
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

from llmtrace.estimate import store
from llmtrace.estimate.concurrency import InFlight
from llmtrace.estimate.curve import Curve
from llmtrace.estimate.prefixes import COUNTS, Expected, Prompt, expected
from llmtrace.estimate.route import WINDOW, Route
from llmtrace.estimate.rows import COLUMNS
from llmtrace.estimate.sample import Sample
from llmtrace.estimate.tokens import Ratios, Tokens, loaded_tokenizer, reckon
from llmtrace.estimate.worker import Fitter, breathe
from llmtrace.observe import internal_errors
from llmtrace.observe.answer import Usage
from llmtrace.observe.process import Lock, after_fork, at_exit
from llmtrace.phases.merged import NOT_ESTIMATED
from llmtrace.phases.model import Estimate, Unknown

__all__ = ["MIN_CALLS", "MIN_SPREAD", "ROUTES", "Baselines", "InFlight"]

MIN_CALLS = 30
MIN_SPREAD = 4.0
"""Uncached tokens, 90th over 10th percentile: below it slope and intercept cannot be told apart."""
_LEAST = 8
ROUTES = 256
"""Routes remembered; the least recently used one goes first."""
_SAVE_EVERY_S = 30.0
_LATER = 256
"""Calls that wait to be learned from, of all routes: of what comes faster than that, the oldest go unlearned."""
_MOST_TEXT = 65_536
"""Characters of a prompt that are counted at most."""


class Baselines:
    """Routes by key, least recently used first out. Safe to call from several threads, and across a fork."""

    def __init__(
        self,
        min_calls: int = MIN_CALLS,
        min_spread: float = MIN_SPREAD,
        *,
        background: bool = True,
        path: str | os.PathLike[str] | None = None,
        least_per_token: float = 0.0,
        tokenizer: Callable[[str], int] | None = None,
    ) -> None:
        """``background``: fit on a thread of its own; else in ``end``, for tests and replays that want one order.

        ``path``: a file to begin with and to save to. ``least_per_token``: s per prompt token that the hardware needs
        at least, measured elsewhere. ``tokenizer``: counts a text's tokens, on the thread that fits; without it
        tiktoken does, where the application has loaded it.
        """
        self.path = None if path is None else Path(path)
        self.least_per_token = least_per_token
        self.min_calls = min_calls
        self.min_spread = min_spread
        self._tokenizer = tokenizer
        self._first_fit = max(_LEAST, min_calls // 2)
        """Calls before the first fit: earlier than anything is said, so that the limit can show meanwhile."""
        self._background = background
        self._routes: OrderedDict[Hashable, Route] = OrderedDict()
        self._ratios: dict[str, Ratios] = {}
        """By provider, for its routes whose calls have not told any."""
        self._later: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque(maxlen=_LATER)
        """What is to be learned, on the thread that fits."""
        self._lock = Lock()
        self._fitter = Fitter(self._fit)
        _living.add(self)
        after_fork(self._forked)
        self._saved_at = time.monotonic()
        if self.path is not None:
            self._load(self.path)

    def begin(
        self,
        key: Hashable,
        start: int,
        size: int = 0,
        before: tuple[bool, bool] | None = None,
    ) -> InFlight:
        """A call of route ``key`` sets out at ``start`` (monotonic ns), its prompt ``size`` characters long.

        What is returned is to be told of the call's first token, as it comes.

        ``before``: whether the headers, and the first event, come before the prompt is computed, as far as that is
        known of this provider; believed until the route's own calls say otherwise.
        """
        with self._lock:
            route = self._route(key)
            if before is not None and route.model is None and not route.seen:
                route.anchors.headers, route.anchors.event = before
            return route.traffic.begin(start, size)

    def end(
        self,
        key: Hashable,
        in_flight: InFlight,
        end: int,
        sample: Sample | Unknown = NOT_ESTIMATED,
        step_apart: bool = False,
        upstream: str | None = None,
    ) -> Estimate | Unknown:
        """The call is over. ``sample``: what was seen of it, or why nothing can be estimated and learned from it.

        ``step_apart``: the engine's own queue leaves out the step that ran when the call came. ``upstream``: where the
        gateway says that it sent the call. Once a route's calls went to several, each of these has a curve of its own
        as soon as it has calls enough; until then it is judged by all of the route's.

        Returns the split of its time to the first token, or why there is none.
        """
        due: list[Hashable] = []
        with self._lock:
            route = self._route(key)
            if isinstance(sample, Unknown):
                estimate = sample
                route.traffic.end(in_flight, None, end, 0)
            else:
                estimate = None
                if upstream is not None and route.sends_to(upstream) and isinstance(key, tuple):
                    own = self._route((*key, f"upstream={upstream}"))
                    own.traffic = route.traffic
                    told = self._judge((*key, f"upstream={upstream}"), own, sample, in_flight, due)
                    estimate = told if own.model is not None and own.seen > self.min_calls else None
                if estimate is None:
                    estimate = self._judge(key, route, sample, in_flight, due)
                route.traffic.end(in_flight, None if sample.whole else sample.first, end, sample.uncached)
        if step_apart and isinstance(estimate, Estimate):
            estimate.step_apart = True
        if not self._background:
            self._learn()
        for each in due:
            if self._background:
                self._fitter.ask(each)
            else:
                self._fit(each)
        return estimate

    def _judge(
        self, key: Hashable, route: Route, sample: Sample, in_flight: InFlight, due: list[Hashable]
    ) -> Estimate | Unknown:
        """What one route says of a call, which it learns from later. ``due``: gets its key where it is to be fitted."""
        estimate, lesson = route.end(sample, in_flight, self.min_calls, self.min_spread)
        self._later.append((route.learn, (lesson,)))
        if route.seen >= self._first_fit and route.due:
            route.asked()
            due.append(key)
        return estimate

    def graded(self, key: Hashable, error: float, low: float, high: float) -> None:
        """The engine told the queue of a call whose estimate was ``error`` s longer, with an interval that ends ``low``
        s below and ``high`` s above it: later intervals are calibrated by that."""
        with self._lock:
            if (route := self._routes.get(key)) is not None:
                self._later.append((route.calibration.learn, (error, low, high)))
        if not self._background:
            self._learn()

    def _learn(self) -> None:
        """Learn all that waits for it, one at a time: whoever ends a call meanwhile waits for one at most."""
        while True:
            with self._lock:
                if not self._later:
                    return
                learn, lesson = self._later.popleft()
                learn(*lesson)

    def tokens(self, key: Hashable, prompt: Prompt | None, provider: str, usage: Usage, chunks: int) -> Tokens | None:
        """The tokens of a call that has ended, told or reckoned; None where neither is possible. What was told is
        learned from.

        ``provider``: ``gen_ai.provider.name``; ``chunks``: of the stream, 0 where it was none.
        """
        with self._lock:
            route = self._route(key)
            elsewhere = self._ratios.get(provider)
            if elsewhere is None:
                elsewhere = Ratios()
                if len(self._ratios) < ROUTES:
                    self._ratios[provider] = elsewhere
            characters = 0 if prompt is None or prompt.aside else prompt.text_size
            route.ratios.learn(characters, chunks, usage)
            elsewhere.learn(characters, chunks, usage)
            return reckon(usage, prompt, chunks, route.ratios, elsewhere, route.survival, provider)

    def wants_text(self, key: Hashable, model: str | None) -> bool:
        """Whether this call's prompt is to be counted, for a route whose calls tell no usage."""
        if self._tokenizer is None and loaded_tokenizer(model) is None:
            return False
        with self._lock:
            return self._route(key).ratios.wants_text()

    def take_text(self, key: Hashable, model: str | None, texts: Sequence[str]) -> None:
        """Have a prompt counted at the next fit. Its text is let go of then."""
        if sum(map(len, texts)) <= _MOST_TEXT:
            with self._lock:
                self._route(key).ratios.text = texts, model

    def _count(self, key: Hashable) -> None:
        """Count the prompt that waits for it."""
        with self._lock:
            route = self._routes.get(key)
            waiting = None if route is None else route.ratios.text
            if route is not None:
                route.ratios.text = None
        if waiting is None:
            return
        texts, model = waiting
        tokenizer = self._tokenizer or loaded_tokenizer(model)
        if tokenizer is None:
            return
        try:
            tokens = tokenizer("\n".join(texts))
        except Exception as error:
            internal_errors.note("counting a prompt's tokens", error)
            return
        with self._lock:
            if (route := self._routes.get(key)) is not None:
                route.ratios.counted(sum(map(len, texts)), tokens)

    def cached(
        self, key: Hashable, prompt: Prompt, provider: str, input_tokens: int, cached_tokens: int | None
    ) -> Expected:
        """The tokens of a prompt that should have come from the cache; then what came of it is learned.

        ``provider``: ``gen_ai.provider.name``; ``cached_tokens``: what it reported, None where it does not say.
        """
        with self._lock:
            survival = self._route(key).survival
            likely = expected(prompt, survival, provider, input_tokens)
            if likely.possible and cached_tokens is not None:
                survival.learn(prompt.gap, cached_tokens * 2 >= likely.possible, cached_tokens)
        return likely

    def drop(self, key: Hashable, in_flight: InFlight) -> None:
        """The call is over and nothing is to be learned from it; does nothing where ``end`` was told already."""
        with self._lock:
            route = self._routes.get(key)
            if route is not None:
                route.traffic.drop(in_flight)

    def save(self) -> bool:
        """Add what was learned since the last time to the file; False where that failed (it is tried again)."""
        if self.path is None:
            return False
        self._learn()
        with self._lock:
            self._saved_at = time.monotonic()
            gains = ((key, route.news()) for key, route in self._routes.items() if isinstance(key, tuple))
            news = {key: gained for key, gained in gains if gained is not None}
        if not news or store.add(self.path, news, COLUMNS, COUNTS, WINDOW, ROUTES):
            return True
        with self._lock:
            for key, gained in news.items():
                if (route := self._routes.get(key)) is not None:
                    route.unsave(gained)
        return False

    def _load(self, path: Path) -> None:
        for key, saved in store.load(path, COLUMNS, COUNTS).items():
            route = self._routes[key] = Route()
            route.adopt(saved)
            if route.points >= self._first_fit and self._background:
                self._fitter.ask(key)
            elif route.points >= self._first_fit:
                self._fit(key)

    def settle(self, timeout: float = 10.0) -> bool:
        """Learn all that waits for it, and wait until all fits asked for are done; False where that takes longer than
        ``timeout`` s."""
        self._learn()
        return self._fitter.settle(timeout)

    def route(self, key: Hashable) -> Route | None:
        """What is remembered of route ``key``, to look at; with all that was to be learned."""
        self._learn()
        with self._lock:
            return self._routes.get(key)

    def curve(self, key: Hashable) -> Curve | None:
        """What a prompt costs on route ``key``; None before the first fit."""
        with self._lock:
            route = self._routes.get(key)
            return None if route is None else route.curve

    def _route(self, key: Hashable) -> Route:
        route = self._routes.get(key)
        if route is not None:
            self._routes.move_to_end(key)
            return route
        route = self._routes[key] = Route()
        if len(self._routes) > ROUTES:
            self._routes.popitem(last=False)
        return route

    def _fit(self, key: Hashable) -> None:
        from llmtrace.estimate import fitting  # here, on the thread that fits: no program's start waits for it

        self._count(key)
        self._learn()
        with self._lock:
            route = self._routes.get(key)
            window = None if route is None or route.points < self._first_fit else route.snapshot()
        if window is None:
            return
        fitted = fitting.fit(window, self._first_fit, self.min_spread, self.least_per_token, breathe)
        with self._lock:
            route = self._routes.get(key)
            if route is not None:
                route.take(fitted)
        if self.path is not None and time.monotonic() - self._saved_at > _SAVE_EVERY_S:
            self.save()

    def _forked(self) -> None:
        """In a forked child: the parent's calls and its fitting thread are not here."""
        self._fitter = Fitter(self._fit)
        self._learn()
        for route in self._routes.values():
            route.traffic.forget()
            route.news()  # the parent saves it


_living: weakref.WeakSet[Baselines] = weakref.WeakSet()


def _at_exit() -> None:
    for baselines in list(_living):
        baselines.save()


at_exit(_at_exit)
