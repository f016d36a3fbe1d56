"""What a route's earlier calls say about the split that nobody reports: prefill against queue.

TTFT - network = queue + a + b x uncached tokens, with queue >= 0. Since a queue only ever adds, the line runs along the
lower edge of the cloud: the 10 % quantile, fitted with non-negative a and b. Before there is enough evidence (calls,
and spread in prompt length) there is no estimate, and the caller says queue_prefill.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

MIN_CALLS = 30
MIN_SPREAD = 4.0
"""Uncached tokens, 90th over 10th percentile: below it slope and intercept cannot be told apart."""
WINDOW = 128
"""Calls remembered per route: two numbers each."""
ROUTES = 256
"""Routes remembered; the least recently used one goes first."""
REFIT_EVERY = 64
QUANTILE = 0.1
_STEPS = 12


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the route's lower envelope says of one call. All in seconds."""

    prefill: float
    per_token: float
    """The envelope's slope b, s per uncached token."""
    noise: float
    """A queue shorter than this cannot be told from the route's own scatter."""
    uncertainty: float
    """Half width of the 90 % interval of the split."""
    calls: int


class Route:
    """The envelope of one route, over its last ``WINDOW`` calls."""

    __slots__ = ("_fit", "_fit_due", "_learned", "_next", "points")

    def __init__(self) -> None:
        self.points: list[tuple[float, float]] = []
        self._next = 0
        self._learned = 0
        self._fit_due = 0
        self._fit: tuple[float, float, float] | None = None

    def learn(self, uncached: int, wait: float) -> None:
        """Take in one call: uncached prompt tokens, and TTFT less network in s."""
        point = (float(uncached), wait)
        if len(self.points) < WINDOW:
            self.points.append(point)
        else:
            self.points[self._next] = point
            self._next = (self._next + 1) % WINDOW
        self._learned += 1

    def estimate(self, uncached: int, min_calls: int = MIN_CALLS, min_spread: float = MIN_SPREAD) -> Estimate | None:
        """The split of a call with so many uncached tokens, None while there is too little evidence."""
        calls = len(self.points)
        if calls < min_calls:
            return None
        if self._learned >= self._fit_due:
            self._fit_due = self._learned + REFIT_EVERY
            self._fit = self._refit(min_spread)
        if self._fit is None:
            return None
        fixed, slope, scatter = self._fit
        prefill = fixed + slope * uncached
        return Estimate(
            prefill=prefill,
            per_token=slope,
            noise=3 * scatter * prefill,
            uncertainty=1.645 * scatter * prefill,
            calls=calls,
        )

    def _refit(self, min_spread: float) -> tuple[float, float, float] | None:
        tokens = sorted(tokens for tokens, _ in self.points)
        low, high = tokens[len(tokens) // 10], tokens[len(tokens) * 9 // 10]
        if high < min_spread * max(low, 1.0):
            return None
        fixed, slope = lower_line(self.points)
        # Scatter, as a share of the line: the median distance of the nearer half of the calls, so that queued ones,
        # which lie far above, do not count.
        near = sorted(abs(wait / max(fixed + slope * tokens, 1e-9) - 1) for tokens, wait in self.points)
        return fixed, slope, near[len(near) // 4] * 1.5


def lower_line(points: list[tuple[float, float]], quantile: float = QUANTILE) -> tuple[float, float]:
    """Non-negative (intercept, slope) of the low-quantile line, by iteratively reweighted least squares.

    Each step weighs a point by its check-loss weight over its distance: (quantile above the line, 1 - quantile below).
    """
    fixed, slope = 0.0, 0.0
    weights = [1.0] * len(points)
    floor = max(1e-9, max(wait for _, wait in points) * 1e-4)
    for _ in range(_STEPS):
        w = sum(weights)
        x = sum(weight * tokens for weight, (tokens, _) in zip(weights, points, strict=False)) / w
        y = sum(weight * wait for weight, (_, wait) in zip(weights, points, strict=False)) / w
        xx = sum(weight * (tokens - x) ** 2 for weight, (tokens, _) in zip(weights, points, strict=False))
        xy = sum(weight * (tokens - x) * (wait - y) for weight, (tokens, wait) in zip(weights, points, strict=False))
        slope = max(0.0, xy / xx) if xx > 0 else 0.0
        fixed = y - slope * x
        if fixed < 0:
            squares = sum(weight * tokens * tokens for weight, (tokens, _) in zip(weights, points, strict=False))
            products = sum(weight * tokens * wait for weight, (tokens, wait) in zip(weights, points, strict=False))
            fixed, slope = 0.0, max(0.0, products / squares) if squares > 0 else 0.0
        for i, (tokens, wait) in enumerate(points):
            off = wait - fixed - slope * tokens
            weights[i] = (quantile if off > 0 else 1 - quantile) / max(abs(off), floor)
    return fixed, slope


class Baselines:
    """Routes by key, least recently used first out. Safe to call from several threads."""

    def __init__(self, min_calls: int = MIN_CALLS, min_spread: float = MIN_SPREAD) -> None:
        self.min_calls = min_calls
        self.min_spread = min_spread
        self._routes: OrderedDict[tuple[object, ...], Route] = OrderedDict()
        self._lock = threading.Lock()

    def estimate(self, key: tuple[object, ...], uncached: int) -> Estimate | None:
        """The estimate for a call on route ``key``; None where there is not enough evidence."""
        with self._lock:
            route = self._routes.get(key)
            if route is None:
                return None
            return route.estimate(uncached, self.min_calls, self.min_spread)

    def learn(self, key: tuple[object, ...], uncached: int, wait: float) -> None:
        """Take in a call of route ``key``: uncached prompt tokens, TTFT less network in s."""
        with self._lock:
            route = self._routes.get(key)
            if route is None:
                route = self._routes[key] = Route()
                if len(self._routes) > ROUTES:
                    self._routes.popitem(last=False)
            else:
                self._routes.move_to_end(key)
            route.learn(uncached, wait)
