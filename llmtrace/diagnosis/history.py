"""A route's habits in bounded memory: robust levels of one quantity, and of one that grows with a driver.

A level knows the middle of its last ``WINDOW`` values, and the room above and below it: ``SIGMAS`` robust standard
deviations, and more where the history itself went further. A score is the distance from the middle by that room: from 1
on a value is beyond what the route did before. So a network with two modes has room for both, and stays silent.

What lies beyond is not learned from, or a long incident would become its own excuse. It is held, and taken in when
it turns out to be a habit: three short visits within a window (a second mode), or 48 calls in a row (a new regime).
Smaller shifts that stay are found by a one-sided CUSUM of the scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, log
from operator import mul
from typing import Generic, TypeVar

T = TypeVar("T")

WINDOW = 128
MIN_CALLS = 30
"""Before so many values nothing is said, except where other evidence asks how far the value is from the usual."""
FEW_CALLS = 5
SIGMAS = 10.0
REACH = 1.3
"""The room is at least so many times the way to the history's own far values."""
MANY = 64
"""From so many values on the farthest one does not count as the history's far value: the second farthest does."""
VISITS = 3
VISIT = 2
"""A run of so many odd values at most is a visit to another mode; longer ones are incidents."""
REGIME = 48
DRIFT = 0.5
ALARM = 1.5
"""The CUSUM: each score (cut at 1.2) adds what it has beyond ``DRIFT``; an alarm is raised at ``ALARM``."""
MEMORY = 0.5
"""It goes no further beyond its alarm: one calm call after an incident, however long, ends the alarm."""
REFRESH = 32
"""Calls between two looks at the whole window, at most; fewer while it is short."""
LONG = 6.0
"""Of prompts so many times as long as the median one each token costs more: a few bend the line for all others."""
FEW_LONG = 0.125
"""Few are up to this share of all."""
TINY = 1e-9
"""Of a history without any spread, whose usual value is 0 besides: no room is narrower, so that scores stay numbers."""
_NO_ITEMS: Sequence[tuple[float, float]] = ()
_QUARTILE = 0.6745
"""Half the interquartile range of the standard normal distribution."""


class Habit(Generic[T]):
    """What levels and lines share: the window, what is held back, the limits, the CUSUM."""

    __slots__ = (
        "_alarm",
        "_edge",
        "_every",
        "_floor",
        "_held",
        "_left",
        "_next",
        "_reach",
        "_run",
        "_share",
        "_sigmas",
        "_since",
        "_visits",
        "below",
        "cusum",
        "items",
        "lone",
        "mid",
        "room",
    )

    def __init__(
        self,
        floor: float,
        share: float = 0.0,
        sigmas: float = SIGMAS,
        reach: float = REACH,
        alarm: float = ALARM,
        every: int = REFRESH,
    ) -> None:
        """``floor``: the least room, in the quantity's unit; ``share``: the least room as a share of the usual.

        ``alarm``: of the CUSUM; ``every``: calls between two looks at the whole window, unlike other habits' of the
        route where a look is dear, so that no call pays for all.
        """
        self._floor = floor
        self._share = share
        self._sigmas = sigmas
        self._reach = reach
        self._alarm = alarm
        self._every = every
        self.restart()

    def restart(self) -> None:
        """Forget everything."""
        self.items: list[T] = []
        """The last values: at most ``WINDOW`` at each look, and those since. (A deque takes 600 bytes while empty,
        and most of a route's habits are never fed.)"""
        self.lone = False
        """Whether the last value asked about was the first unusual one of a young history: a second mode may show."""
        self.mid = 0.0
        self.room = self.below = float("inf")
        self.cusum = 0.0
        self._edge = inf
        """Values up to it are ``near``; no value is while the last ones were high."""
        self._left = self._next = 1
        """Values until the next look at the window, and how many will have been learned by then."""
        self._run = self._visits = self._since = 0
        self._held: list[T] = []

    @property
    def seen(self) -> int:
        """Values learned, all told."""
        return self._next - self._left

    @property
    def count(self) -> int:
        """Values in the window."""
        return len(self.items)

    @property
    def ready(self) -> bool:
        """Whether there is enough history to judge by it alone."""
        return len(self.items) >= MIN_CALLS

    def beyond(self, score: float) -> bool:
        """Whether a value of this score is too high, by itself or because the last ones were high too."""
        self.cusum = min(self._alarm + MEMORY, max(0.0, self.cusum + min(max(score, 0.0), 1.2) - DRIFT))
        self.lone = len(self.items) < MANY and not self._run
        self._mark()
        return len(self.items) >= MIN_CALLS and (score >= 1.0 or (self.cusum >= self._alarm and score > DRIFT))

    def settle(self, item: T, score: float, suspect: bool = False) -> bool:
        """``beyond`` and ``learn`` in one: whether ``item`` was beyond the usual. ``suspect``: it may be an incident's
        even if it was not, and is held back as well."""
        odd = False
        if score > DRIFT:
            odd = self.beyond(score)
        elif self.cusum:
            self.beyond(score)
        self.learn(item, odd or suspect)
        return odd

    def learn(self, item: T, odd: bool) -> None:
        """Take in one call; ``odd``: it was beyond the usual."""
        if odd:
            self._hold(item)
            self._mark()
            return
        if self._run:
            self._calm_again()
            self._mark()
        self.take(item)

    def take(self, item: T) -> None:
        """``learn`` for a value that is ``near``."""
        self.items.append(item)
        self._left -= 1
        if not self._left:
            self._look()

    def _look(self) -> None:
        """Look at the whole window."""
        seen = self._next
        del self.items[:-WINDOW]
        self._left = 1 + max(1, min(self._every, seen // 4))
        self._next = seen + self._left
        self._refresh()
        self._mark()

    def _mark(self) -> None:
        """Have ``near`` know what has changed."""
        self._edge = -inf if self.cusum or self._run else self.mid + DRIFT * self.room

    def _refresh(self) -> None:
        """Middle and rooms anew, from the window."""
        raise NotImplementedError

    def _limits(self, ordered: list[float], usual: float) -> None:
        count = len(ordered)
        self.mid = mid = ordered[count // 2]
        if count < FEW_CALLS:
            return
        far = 1 if count >= MANY else 0
        least = max(self._floor, self._share * abs(usual), TINY)
        wide = self._sigmas * (1 + 10 / count) / _QUARTILE  # few values: their quartiles are uncertain themselves
        self.room = max(wide * (ordered[count * 3 // 4] - mid), self._reach * (ordered[-1 - far] - mid), least)
        self.below = max(wide * (mid - ordered[count // 4]), self._reach * (mid - ordered[far]), least)

    def _hold(self, item: T) -> None:
        if self._visits and self.seen - self._since > WINDOW:
            self._visits, self._held = 0, []
        if not self._run and not self._visits:
            self._since = self.seen
        self._held.append(item)
        self._run += 1
        if self._run >= REGIME:
            held = self._held[-self._run :]
            self.restart()
            self.items.extend(held)
            self._left = 1 + self._every
            self._next = len(held) + self._left
            self._refresh()

    def _calm_again(self) -> None:
        if self._run > VISIT:
            del self._held[-self._run :]
        else:
            self._visits += 1
        self._run = 0
        if self._visits >= VISITS:
            self._visits, held, self._held = 0, self._held, []
            for item in held:
                self.learn(item, False)


class Level(Habit[float]):
    """The habit of one quantity."""

    __slots__ = ()

    def near(self, value: float) -> bool:
        """Whether nobody need look closer: far from the upper limit, in calm times. Cheaper than the score."""
        return value <= self._edge

    def calm(self, value: float) -> bool:
        """``take`` a value that is ``near``, and whether it was."""
        if value > self._edge:
            return False
        self.items.append(value)  # ``take``, without the cost of calling it
        self._left -= 1
        if not self._left:
            self._look()
        return True

    def score(self, value: float) -> float:
        """The distance of ``value`` from the middle, in rooms: above 1 or below -1 it is beyond the usual."""
        off = value - self.mid
        return off / (self.room if off > 0 else self.below)

    def _refresh(self) -> None:
        ordered = sorted(self.items)
        self._limits(ordered, ordered[len(ordered) // 2])


class Line(Habit["tuple[float, float]"]):
    """The habit of a quantity y that grows with a driver x (prompt tokens): slope, and the level of what is left.

    Least squares over the window. The scatter is scaled with the line, since it grows with the quantity.
    """

    __slots__ = ("at", "bend", "curve", "doubt", "error", "few_long", "most", "ref", "slope", "steepest")

    def __init__(
        self,
        floor: float,
        share: float,
        reach: float = REACH,
        bend: float = inf,
        every: int = REFRESH,
        few_long: float = 0.0,
    ) -> None:
        """``bend``: the most that y may rise beyond the largest x seen, as a share of the usual y; ``few_long``: the
        share of all up to which values at ``LONG`` times the median x are left out of the line."""
        self.bend, self.few_long = bend, few_long
        self.doubt = 1.0 if few_long else 0.5
        super().__init__(floor, share, reach=reach, every=every)

    def restart(self) -> None:
        """Forget everything."""
        super().restart()
        self.slope = 0.0
        """y per x; 0 where it cannot be told from the scatter."""
        self.error = 0.0
        """The slope's standard error."""
        self.at = self.most = self.ref = 0.0
        """The mean and the largest x of those that the line is drawn through, the usual y."""
        self.curve = 0.0
        """How much steeper it gets beyond the largest x of the line."""
        self.steepest = 0.0
        """The most that an untold slope can be: all of y, by x."""

    def usual(self, x: float) -> float:
        """What is usual at ``x``."""
        return max(0.0, self.mid + self.slope * x)

    def unsure(self, x: float) -> float:
        """How far the line may be off at ``x``: the slope's error, and its bend beyond what was seen."""
        off = 3 * self.error * abs(x - self.at)
        if x <= self.most:
            return off
        return off + min(
            (x - self.most) * max(self.curve, self.doubt * self.slope or self.steepest), self.bend * self.ref
        )

    def near(self, x: float, y: float) -> bool:
        """Whether nobody need look closer at ``y``; the room is at least this large everywhere on the line."""
        return y - self.slope * x <= self._edge

    def over(self, x: float, y: float) -> float:
        """By how much ``y`` is beyond the usual at ``x``, by how far up the line that lies."""
        usual, ref = self.mid + self.slope * x, self.ref
        return (y - usual) * ref / usual if usual > ref > 0 else y - usual

    def score(self, x: float, y: float) -> float:
        """The distance of ``y`` from the usual at ``x``, in rooms."""
        usual = self.mid + self.slope * x
        off = y - usual
        scale = usual / self.ref if usual > self.ref > 0 else 1.0
        return off / ((self.room if off > 0 else self.below) * scale + self.unsure(x))

    def _refresh(self) -> None:
        items: Sequence[tuple[float, float]] = self.items
        long = self._long() if self.few_long else _NO_ITEMS
        if long:
            least = long[0][0]
            items = [item for item in items if item[0] < least]
        xs, ys = zip(*items, strict=True)
        count = len(xs)
        mean_x, mean_y = sum(xs) / count, sum(ys) / count
        self.at, self.most = mean_x, max(xs)
        spread = sum(map(mul, xs, xs)) - count * mean_x * mean_x
        slope = error = 0.0
        if count >= FEW_CALLS and spread > 1e-9 * max(1.0, mean_x * mean_x):
            together = sum(map(mul, xs, ys)) - count * mean_x * mean_y
            slope = max(0.0, together / spread)
            left = max(0.0, sum(map(mul, ys, ys)) - count * mean_y * mean_y - slope * together)
            error = (left / (count - 2) / spread) ** 0.5
            if slope < 3 * error:
                slope = error = 0.0
        self.slope, self.error = slope, error
        ordered = sorted(ys)
        self.ref = ref = ordered[count // 2]
        if not slope:
            self.steepest = ref / max(1.0, sorted(xs)[count // 2])
            self._limits(ordered, ref)
            self._bend(long)
            return
        fixed = mean_y - slope * mean_x
        least = ref if ref > 0 else inf
        # What is left over at each x, by how far up the line it lies.
        over = [
            (y - usual) / max(1.0, usual / least) for y, usual in zip(ys, [fixed + slope * x for x in xs], strict=True)
        ]
        self._limits(sorted(over), ref)
        self.mid += fixed
        self._bend(long)

    def _long(self) -> Sequence[tuple[float, float]]:
        """Those of far larger x than most, by x, if they are few."""
        ordered = sorted(self.items)
        most = LONG * ordered[len(ordered) // 2][0]
        if ordered[-1][0] <= most or most <= 0:
            return _NO_ITEMS
        long = [item for item in ordered if item[0] > most]
        return long if len(long) <= self.few_long * len(ordered) else _NO_ITEMS

    def _bend(self, long: Sequence[tuple[float, float]]) -> None:
        """How much more each x beyond the others' brought: what the line leaves open there."""
        self.curve = max([(y - self.usual(x)) / (x - self.most) for x, y in long]) if long else 0.0


class Changes:
    """The habit of a name (a fingerprint, a model): how surprising each one is, by a Bayes factor.

    "Drawn as ever" (Dirichlet, 1/2 a name, over the last ``WINDOW``) against "drawn anew, from anything": a name that
    was never seen among a hundred is 100 times likelier anew; one of a set that flaps is not.
    """

    __slots__ = ("_next", "counts", "fresh", "items", "run")

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget everything."""
        self.items: list[str] = []
        self.counts: dict[str, int] = {}
        self.fresh: str | None = None
        self.run = 0
        """Calls in a row with the same name, which was never seen before them."""
        self._next = 0

    def is_only(self, name: str) -> bool:
        """Whether all of the window is ``name``: then it is no surprise, and there is nothing to learn."""
        return self.counts.get(name) == WINDOW and not self.run

    def surprise(self, name: str) -> float:
        """The Bayes factor's logarithm, above 0 where ``name`` speaks for a change."""
        times, kinds, known = self.counts.get(name, 0), len(self.counts) + 1, len(self.items)
        if times * kinds >= known + kinds:
            return 0.0  # commoner than the average name
        return -log((times + 0.5) / (known + 0.5 * kinds) * kinds)

    def learn(self, name: str) -> None:
        """Take in one call's name."""
        at = self._next
        if not self.run and len(self.items) == WINDOW and self.items[at] == name:
            self._next = (at + 1) % WINDOW
            return  # the name that goes is the one that comes
        if name == self.fresh:
            self.run += 1
        elif name in self.counts or not self.items:
            self.fresh, self.run = None, 0
        else:
            self.fresh, self.run = name, 1
        if len(self.items) < WINDOW:
            self.items.append(name)
            self.counts[name] = self.counts.get(name, 0) + 1
            return
        old, self.items[self._next] = self.items[self._next], name
        self._next = (self._next + 1) % WINDOW
        if old == name:
            return
        self.counts[name] = self.counts.get(name, 0) + 1
        self.counts[old] -= 1
        if not self.counts[old]:
            del self.counts[old]
