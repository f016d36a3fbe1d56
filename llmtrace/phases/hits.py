"""Did the prompt come from the provider's cache, where the provider does not say? A verdict from timing alone.

Of two things the client is certain without being told: a prompt whose beginning it never sent before cannot hit (on its
own account), and one that it did send before may. So each route keeps two samples of paces, *fresh* and *repeated*. No
outcome is ever learned from, for none is known. If repeats run no faster than fresh prompts, nothing is claimed; if
they do, the repeats are a mixture: some hit, the rest are as slow as fresh ones.

A slow call says little: a queue makes a hit look like a miss, while nothing makes a miss look like a hit. So several
calls with one prefix are judged by the fastest of them (the minimum filter).

A pace is the time to the first token, less network, over what the prompt would have cost without a cache (the route's
curve); where all prompts are about as long, the seconds do.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import erf, exp, inf, log, pi, sqrt
from threading import Lock

SAMPLE = 128
"""Paces kept of each kind: 4 bytes each."""
LEAST = 20
"""Paces of each kind before anything is said."""
GAP = 0.25
"""Repeats must run ahead of fresh prompts by so much somewhere (difference of their distribution functions)."""
CHANCE = 1e-4
"""Probability with which chance alone may make that gap, at each look."""
SURE = 0.5
"""No hit is claimed below this probability."""
ROUTES = 256
"""Routes remembered."""
_STALE = 16
_PATIENCE_S = 0.01
_ROOT2 = sqrt(2.0)
_ROOT2PI = sqrt(2.0 * pi)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the times say of calls that shared a prefix."""

    probability: float
    """That the prefix came from the cache."""
    prior: float
    """The same before these calls' times were looked at: the share of repeats that hit on this route."""
    calls: int
    """Calls judged together."""
    evidence: int
    """Paces that the verdict rests on."""

    @property
    def hit(self) -> bool:
        """Whether a hit is claimed: it is likelier than not, and these calls' own times speak for it."""
        return self.probability >= max(SURE, self.prior)


class Hits:
    """The two samples of one route, about 1 KiB. Not locked: the caller's business."""

    __slots__ = ("_fresh", "_learned", "_model", "_modelled", "_repeated")

    def __init__(self) -> None:
        self._fresh = _Recent()
        self._repeated = _Recent()
        self._model: _Mixture | None = None
        self._learned = 0
        self._modelled = -_STALE

    def learn(self, pace: float, sent_before: bool) -> None:
        """Take in a call: its pace, and whether this client had sent the prompt's beginning before. Bad paces are
        left out."""
        if 0.0 < pace < inf:
            (self._repeated if sent_before else self._fresh).add(log(pace))
            self._learned += 1

    def verdict(self, paces: Sequence[float]) -> Verdict | None:
        """Whether calls with these paces, which had one prefix in common, hit.

        None: there is no telling, for too few calls were seen, or because on this route repeats are not faster.
        """
        usable = [pace for pace in paces if 0.0 < pace < inf]
        if not usable:
            return None
        if self._learned - self._modelled >= _STALE:
            self._modelled = self._learned
            self._model = _mixture(self._fresh.values, self._repeated.values)
        if self._model is None:
            return None
        return Verdict(
            probability=self._model.probability(log(min(usable)), len(usable)),
            prior=self._model.share,
            calls=len(usable),
            evidence=len(self._fresh.values) + len(self._repeated.values),
        )


class RouteHits:
    """The samples of many routes, least recently used first out. Safe to call from several threads."""

    def __init__(self) -> None:
        self._routes: OrderedDict[Hashable, Hits] = OrderedDict()
        self._lock = Lock()

    def judge(self, key: Hashable, pace: float, sent_before: bool) -> float | None:
        """Probability that a call on route ``key`` hit, None where there is no telling; then it is learned from.

        Nothing is said of a prompt whose beginning was not sent before: it cannot have hit on this client's account.
        """
        if not self._lock.acquire(timeout=_PATIENCE_S):
            return None  # held when this process was forked off, or by somebody who does not get on
        try:
            hits = self._routes.get(key)
            if hits is None:
                hits = self._routes[key] = Hits()
                if len(self._routes) > ROUTES:
                    self._routes.popitem(last=False)
            else:
                self._routes.move_to_end(key)
            verdict = hits.verdict([pace]) if sent_before else None
            hits.learn(pace, sent_before)
            return None if verdict is None else verdict.probability
        finally:
            self._lock.release()


class _Recent:
    """The last ``SAMPLE`` values."""

    __slots__ = ("_next", "values")

    def __init__(self) -> None:
        self.values: array[float] = array("f")
        self._next = 0

    def add(self, value: float) -> None:
        if len(self.values) < SAMPLE:
            self.values.append(value)
        else:
            self.values[self._next] = value
            self._next = (self._next + 1) % SAMPLE


class _Smooth:
    """A sample as a smooth distribution: a normal kernel on each value.

    The kernel's width is Silverman's rule (Density Estimation, 1986, eq. 3.31).
    """

    __slots__ = ("_values", "_width")

    def __init__(self, values: Sequence[float]) -> None:
        ordered = sorted(values)
        count = len(ordered)
        mean = sum(ordered) / count
        deviation = sqrt(sum((value - mean) ** 2 for value in ordered) / count)
        quarters = (ordered[3 * count // 4] - ordered[count // 4]) / 1.34
        self._width = max(0.9 * min(deviation, quarters or deviation) * count**-0.2, 1e-3)
        self._values = ordered

    def density(self, at: float) -> float:
        width = self._width
        total = sum(exp(-0.5 * ((at - value) / width) ** 2) for value in self._values)
        return total / (len(self._values) * width * _ROOT2PI)

    def below(self, at: float) -> float:
        """Share of the distribution below ``at``."""
        scale = self._width * _ROOT2
        return sum(0.5 + 0.5 * erf((at - value) / scale) for value in self._values) / len(self._values)


@dataclass(frozen=True, slots=True)
class _Mixture:
    """Repeats = ``share`` of hits, and the rest like fresh prompts."""

    fresh: _Smooth
    repeated: _Smooth
    share: float

    def probability(self, fastest: float, calls: int) -> float:
        """That the prefix was cached, given the fastest of so many calls: Bayes' rule on the minimum's density.

        The calls are taken to have all hit or all missed.
        """
        missing = 1.0 - self.share
        slow, slow_below = self.fresh.density(fastest), self.fresh.below(fastest)
        fast = max(0.0, self.repeated.density(fastest) - missing * slow)
        fast_below = (self.repeated.below(fastest) - missing * slow_below) / self.share
        if_hit = fast * (1.0 - min(max(fast_below, 0.0), 1.0)) ** (calls - 1)
        if_missed = missing * slow * (1.0 - slow_below) ** (calls - 1)
        if if_hit + if_missed <= 0.0:  # far outside of both: faster than anything fresh, or slower than anything
            return 1.0 if slow_below < 0.5 else 0.0
        return if_hit / (if_hit + if_missed)


def _mixture(fresh: Sequence[float], repeated: Sequence[float]) -> _Mixture | None:
    """The mixture that the samples show; None where repeats do not clearly run ahead of fresh prompts."""
    count, others = len(fresh), len(repeated)
    if min(count, others) < LEAST:
        return None
    gap, edge = _widest(sorted(fresh), sorted(repeated))
    # Smirnov's one-sided bound on what chance does: P(gap > d) = exp(-2 d² nm / (n + m)).
    if gap < max(GAP, sqrt(-log(CHANCE) / 2 * (count + others) / (count * others))):
        return None
    slow = sum(value > edge for value in fresh) / count
    share = 1.0 - sum(value > edge for value in repeated) / others / max(slow, 1e-9)
    return _Mixture(_Smooth(fresh), _Smooth(repeated), min(max(share, 0.05), 0.95))


def _widest(fresh: Sequence[float], repeated: Sequence[float]) -> tuple[float, float]:
    """By how much more of ``repeated`` than of ``fresh`` lies below the best edge, and that edge. Both sorted."""
    best, edge, passed = 0.0, fresh[0], 0
    for rank, value in enumerate(repeated, 1):
        while passed < len(fresh) and fresh[passed] <= value:
            passed += 1
        ahead = rank / len(repeated) - passed / len(fresh)
        if ahead > best:
            best, edge = ahead, value
    return best, edge
