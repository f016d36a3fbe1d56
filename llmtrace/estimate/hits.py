"""Did the prompt come from the provider's cache, where the provider does not say? A verdict from timing alone.

Of two things the client is certain without being told: a prompt whose beginning it never sent before cannot hit (on its
own account), and one that it did send before may. So each route keeps two samples of paces, *fresh* and *repeated*. No
outcome is ever learned from, for none is known. If repeats run no faster than fresh prompts, nothing is claimed; if
they do, the repeats are a mixture: some hit, the rest are as slow as fresh ones.

A slow call says little: a queue makes a hit look like a miss, while nothing makes a miss look like a hit. So several
calls with one prefix are judged together: each slow one counts only as much against the cache as the route's own share
of repeats that miss, and a fast one outweighs it.

A pace is the time to the first token, less network, over what the prompt would have cost without a cache (the route's
curve); where all prompts are about as long, the seconds do.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterable, Sequence
from math import exp, inf, log, pi, sqrt
from typing import NamedTuple

from llmtrace.estimate.routes import RouteTable

SAMPLE = 128
"""Paces kept of each kind: 4 bytes each."""
LEAST = 20
"""Paces of each kind before anything is said."""
GAP = 0.25
"""Repeats must run ahead of fresh prompts by so much somewhere (difference of their distribution functions)."""
CHANCE = 1e-4
"""Probability with which chance alone may make that gap, at each look."""
SURE, SURE_OF_SEVERAL = 0.5, 2 / 3
"""No hit is claimed below this probability: of one call, of several with one prefix."""
TOGETHER = 3
"""Calls with one prefix that are judged together."""
PREFIXES = 8
"""Prefixes of a route whose last calls are remembered; the least recently used one goes first."""
_STALE = 16
_CELLS = 64
_LEAST_DENSITY = 1e-2
"""Of every pace there may be some: no single call makes certain."""
_ROOT2PI = sqrt(2.0 * pi)


class Verdict(NamedTuple):
    """What the times say of calls that shared a prefix."""

    probability: float
    """That the prefix came from the cache: for the one call, or for the calls together."""
    prior: float
    """Share of the repeats that hit on this route."""
    calls: int
    """Calls judged together."""
    evidence: int
    """Paces that the verdict rests on."""

    @property
    def hit(self) -> bool:
        """Whether a hit is claimed: for one call where that is likelier than not, and its own time speaks for it; for
        several where their times together make it twice as likely as not."""
        return self.probability >= (max(SURE, self.prior) if self.calls == 1 else SURE_OF_SEVERAL)


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
        logs = [log(pace) for pace in usable]
        return Verdict(
            probability=self._model.probability(logs[0]) if len(logs) == 1 else self._model.cached(logs),
            prior=self._model.share,
            calls=len(usable),
            evidence=len(self._fresh.values) + len(self._repeated.values),
        )


class Told(NamedTuple):
    """What is said of one call; None where there is no telling."""

    hit: float | None = None
    """Probability that it hit."""
    prefix: float | None = None
    """Probability that its prefix lies in the cache, by the last ``TOGETHER`` calls that had it, this one included."""


NOTHING_TOLD = Told()


class RouteHits:
    """The samples of many routes, least recently used first out. Safe to call from several threads."""

    def __init__(self) -> None:
        self._routes = RouteTable(_Route)

    def judge(self, key: Hashable, pace: float, prefix: int | None) -> Told:
        """Whether a call on route ``key`` hit; then it is learned from.

        ``prefix``: what names the beginning that was sent before (64 bits), None where there is none: nothing is said
        of such a prompt, which cannot have hit on this client's account.
        """
        with self._routes.lock:
            return self._routes.route(key).judge(pace, prefix)


class _Route:
    """One route's samples, and the last paces of each of its prefixes."""

    __slots__ = ("_hits", "_last", "_prefixes")

    def __init__(self) -> None:
        self._hits = Hits()
        self._prefixes = array("q")  # least recently used first
        self._last = array("f")  # TOGETHER paces for each of them, oldest first; 0: none yet

    def judge(self, pace: float, prefix: int | None) -> Told:
        verdict = NOTHING_TOLD
        if prefix is not None:
            last = self._latest(prefix, pace)
            if (alone := self._hits.verdict([pace])) is not None:
                together = self._hits.verdict(last) if min(last) > 0 else None
                verdict = Told(alone.probability, None if together is None else together.probability)
        self._hits.learn(pace, prefix is not None)
        return verdict

    def _latest(self, prefix: int, pace: float) -> array[float]:
        """The prefix's last paces, this one included."""
        names, paces = self._prefixes, self._last
        row = array("f", bytes(4 * TOGETHER))
        if prefix in names:
            at = names.index(prefix)
            row = paces[at * TOGETHER : (at + 1) * TOGETHER]
            del names[at], paces[at * TOGETHER : (at + 1) * TOGETHER]
        row = row[1:] + array("f", (pace,))
        names.append(prefix)
        paces.extend(row)
        if len(names) > PREFIXES:
            del names[0], paces[:TOGETHER]
        return row


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
    """A sample as a smooth density on a grid: counted into its cells, then a normal kernel over them.

    The kernel's width is Silverman's rule (Density Estimation, 1986, eq. 3.31).
    """

    __slots__ = ("density", "width")

    def __init__(self, ordered: Sequence[float], low: float, cell: float) -> None:
        """``ordered``: sorted; the grid's first cell begins at ``low``, each is ``cell`` wide."""
        count = len(ordered)
        mean = sum(ordered) / count
        deviation = sqrt(sum((value - mean) ** 2 for value in ordered) / count)
        quarters = (ordered[3 * count // 4] - ordered[count // 4]) / 1.34
        self.width = max(0.9 * min(deviation, quarters or deviation) * count**-0.2, cell)
        counted = [0.0] * _CELLS
        for value in ordered:
            counted[min(_CELLS - 1, max(0, int((value - low) / cell)))] += 1.0
        reach = int(3 * self.width / cell) + 1
        kernel = [exp(-0.5 * (step * cell / self.width) ** 2) for step in range(reach + 1)]
        scale = 1.0 / (count * self.width * _ROOT2PI)
        density = [0.0] * _CELLS
        for at, number in enumerate(counted):
            if number:
                for other in range(max(0, at - reach), min(_CELLS, at + reach + 1)):
                    density[other] += number * kernel[abs(other - at)] * scale
        self.density = density


class _Mixture(NamedTuple):
    """Repeats = ``share`` of hits, and the rest like fresh prompts. As tables over the logarithm of the pace."""

    share: float
    low: float
    cell: float
    hit: Sequence[float]
    """Probability that a repeat with such a pace hit."""
    weight: Sequence[float]
    """What such a pace says for a cached prefix: the logarithm of how much likelier it is with one."""

    def probability(self, pace: float) -> float:
        """That the call with this pace (its logarithm) hit."""
        return self._at(self.hit, pace)

    def cached(self, paces: Iterable[float]) -> float:
        """That the prefix of all of these calls lies in the cache, each of them hitting on its own account; before
        they were looked at, either was as likely."""
        total = sum(self._at(self.weight, pace) for pace in paces)
        return 1.0 / (1.0 + exp(-min(max(total, -50.0), 50.0)))

    def _at(self, table: Sequence[float], pace: float) -> float:
        at = (pace - self.low) / self.cell - 0.5
        if at <= 0:
            return table[0]
        left = int(at)
        if left >= _CELLS - 1:
            return table[-1]
        return table[left] + (at - left) * (table[left + 1] - table[left])


def _mixture(fresh: Sequence[float], repeated: Sequence[float]) -> _Mixture | None:
    """The mixture that the samples show; None where repeats do not clearly run ahead of fresh prompts."""
    count, others = len(fresh), len(repeated)
    if min(count, others) < LEAST:
        return None
    fresh, repeated = sorted(fresh), sorted(repeated)
    gap, edge = _widest(fresh, repeated)
    # Smirnov's one-sided bound on what chance does: P(gap > d) = exp(-2 d² nm / (n + m)).
    if gap < max(GAP, sqrt(-log(CHANCE) / 2 * (count + others) / (count * others))):
        return None
    slow = sum(value > edge for value in fresh) / count
    share = 1.0 - sum(value > edge for value in repeated) / others / max(slow, 1e-9)
    share = min(max(share, 0.05), 0.95)
    # The slowest twentieth and the fastest fiftieth may lie anywhere: the grid's last and first cell stand for them.
    low = min(fresh[count // 50], repeated[others // 50])
    cell = max((max(fresh[19 * count // 20], repeated[19 * others // 20]) - low) / (_CELLS - 8), 1e-4)
    low -= 4 * cell
    slower, mixed = _Smooth(fresh, low, cell).density, _Smooth(repeated, low, cell).density
    hit = array("f")
    weight = array("f")
    for alone, both in zip(slower, mixed, strict=True):
        fresher = alone + _LEAST_DENSITY
        missing = (1.0 - share) * fresher
        either = max(both + _LEAST_DENSITY, missing)
        hit.append(1.0 - missing / either)
        weight.append(log(either / fresher))
    turn = min(_CELLS - 1, max(0, int((edge - low) / cell)))
    for at in range(turn - 1, -1, -1):  # what is faster cannot speak less for a hit,
        hit[at], weight[at] = max(hit[at], hit[at + 1]), max(weight[at], weight[at + 1])
    for at in range(turn + 1, _CELLS):  # and what is slower than the edge speaks for none
        hit[at], weight[at] = min(hit[at], hit[at - 1]), min(weight[at], max(0.0, weight[at - 1]))
    return _Mixture(share, low, cell, hit, weight)


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
