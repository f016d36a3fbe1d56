"""What is remembered of one route for the diagnosis: its habits, about 75 KiB when all windows are full."""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections import deque
from math import log
from typing import Final

from llmtrace.diagnosis.history import FEW_LONG, MANY, Changes, Level, Line
from llmtrace.diagnosis.shift import Shift
from llmtrace.diagnosis.upstreams import Upstreams
from llmtrace.diagnosis.verdict import LEAST_S
from llmtrace.diagnosis.whole import Plane

PACE_SHARE: Final = 0.2
"""No cause is named for a pace that rose by less than this share."""
PACE_ALARM: Final = 10.5
"""Evidence that tokens came more slowly: with 9, as for other quantities, most of the false alarms were of these."""
SURGE: Final = 3.0
"""Nor for a prompt with less than so many times the usual fresh tokens."""
WILD: Final = 12.0
"""Standard deviations of room for what the network does: its delays have long tails."""
LATE: Final = 6
"""Whole answers that came late, by which is told whether they waited or their tokens were slow."""
ENDS: Final = 64
"""Calls that ended meanwhile are counted up to so many."""


class Route:
    """The habits of one route (provider, host, port, model)."""

    __slots__ = (
        "alongside",
        "among",
        "answers",
        "beside",
        "bursts",
        "cached",
        "calls",
        "change",
        "changed",
        "changed_by",
        "ends",
        "evenness",
        "fingerprints",
        "fresh",
        "gathered",
        "headers",
        "high_headers",
        "high_pace",
        "high_queue",
        "high_wait",
        "hit",
        "idle",
        "last_end",
        "late",
        "least_gap",
        "named",
        "outside",
        "pace",
        "passing",
        "queue",
        "retries",
        "rtt",
        "setup",
        "slow",
        "totals",
        "upstreams",
        "waits",
        "waits_untold",
    )

    def __init__(self) -> None:
        self.calls = 0
        self.among: Route | None = None
        """Of one upstream's history: that of all of the route's calls."""
        self.last_end: int | None = None
        self.idle = 0.0
        """Seconds between the previous call's end and this call's begin."""
        self.ends = array("q")
        """When the last calls ended, monotonic ns, in order."""
        self.waits = Line(LEAST_S, 0.25, every=61, few_long=FEW_LONG)
        """Uncached tokens -> wait, s, less the queue that the server reports, or one that was named."""
        self.high_wait = Shift(rows=True)
        """Waits beyond that line, queues with them, s."""
        self.waits_untold = Level(LEAST_S, 0.25)
        """The wait of calls without usage, s."""
        self.queue = Level(LEAST_S, 0.25)
        """As the server reports it, or the estimate, s."""
        self.high_queue = Shift()
        self.outside = Level(LEAST_S, 0.25, sigmas=WILD)
        """Of the wait, what the server's own times leave, s."""
        self.headers = Level(LEAST_S, 0.25, sigmas=WILD)
        self.high_headers = Shift(modes=True)
        self.setup = Level(LEAST_S, 0.5)
        self.rtt = Level(0.01, 0.5)
        self.fresh = Level(log(SURGE), sigmas=4.6, alarm=0.7)
        """The logarithm of the tokens that nobody could expect to be cached. Two calls in a row need not go as far."""
        self.hit = False
        """Whether any call had cached tokens."""
        self.cached = Level(64.0)
        """Cached tokens."""
        self.pace = Line(0.0, PACE_SHARE, reach=1.5, bend=0.5, every=53)
        """Prompt tokens -> decode time per token, s."""
        self.high_pace = Shift(alarm=PACE_ALARM)
        """Decode time per token beyond the usual, as a share of that, by the root of the tokens."""
        self.evenness = Level(0.2, sigmas=3.0)
        """Median gap by mean gap."""
        self.bursts = 0
        """In which of the last four streams the chunks lay ready together, a bit each."""
        self.gathered = 0
        """And in which of them they were gathered on the way."""
        self.slow = False
        """Whether the last call's tokens came unusually slowly."""
        self.least_gap = 1.0
        """The shortest median gap of its streams lately, s."""
        self.alongside = Level(1.0, 0.5, sigmas=3.0)
        """The application's own calls at the same time."""
        self.beside = 0.0
        """Those that were under way as a call ended: the mean of the last ones."""
        self.passing = 0.0
        """And those beside a call for each second of it."""
        self.totals = Plane(LEAST_S, 0.25, every=59)
        """Prompt and output tokens of an answer in one piece -> its time, s."""
        self.late = deque[tuple[float, int]](maxlen=LATE)
        """Of the last whole answers that came late: by how much, s, and how many tokens they had."""
        self.fingerprints = Changes()
        self.answers = Changes()
        self.upstreams: Upstreams | None = None
        """Who answered behind a gateway, where one tells that."""
        self.change = 0.0
        """The evidence that the route changed, added up."""
        self.changed: int | None = None
        """The number of the call at which it did."""
        self.changed_by: tuple[float, str] = (0.0, "")
        """By what score, and which signs agreed."""
        self.named: dict[str, int] = {}
        """In which of the last eight calls each cause was named, a bit each; nothing of those that were not."""
        self.retries = 0
        """Which of the last eight calls were retried, a bit each."""

    def ended(self, begin: int, end: int) -> int:
        """Note that a call ran from ``begin`` to ``end``; how many others of the route ended meanwhile."""
        ends, last = self.ends, self.last_end
        self.last_end = end
        if last is None or begin > ends[-1]:  # nothing ended since it began
            meanwhile = 0
            ends.append(end)
        else:
            meanwhile = min(len(ends) - bisect_left(ends, begin), ENDS)
            insort(ends, end)
        if len(ends) > 2 * ENDS:
            del ends[:ENDS]
        self.idle = 0.0 if last is None else (begin - last) / 1e9
        return meanwhile

    def waits_long(self, over: float) -> float:
        """Take in a wait of ``over`` s beyond the usual; how strong it is that the last calls waited long, by what it
        takes to be told, 0 where that is not reached. While this is the young history of one upstream, what befalls all
        of them shows in all their calls together."""
        strength = self.high_wait.strength if self.high_wait.high(over) else 0.0
        if self.among is not None and self.waits.count < MANY and self.among.high_wait.high(over):
            strength = max(strength, self.among.high_wait.strength)
        return strength

    def retried(self, yes: bool) -> int:
        """Note whether this call was retried; how many of the last eight were."""
        self.retries = (self.retries << 1 | yes) & 0xFF
        return self.retries.bit_count()

    def new_regime(self) -> None:
        """The route changed: what its timings were says nothing of what they are."""
        for habit in (
            self.waits,
            self.waits_untold,
            self.queue,
            self.outside,
            self.headers,
            self.rtt,
            self.totals,
            self.pace,
        ):
            habit.restart()
        for shift in (self.high_queue, self.high_wait, self.high_headers, self.high_pace):
            shift.restart()
        self.fingerprints.restart()
        self.change = 0.0
        self.changed = self.calls
