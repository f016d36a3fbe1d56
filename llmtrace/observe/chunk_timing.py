"""The times at which each chunk was asked for and came: bounded memory, exact count, sum and maximum.

The hot loop appends two numbers a chunk to ``block``; each time the block is full it is folded: sums, maxima and a
thinned sample of the gaps stay. Quantiles come from the sample, which is every gap until ``SAMPLE`` of them were seen
and every 2nd, 4th, 8th ... after that.
"""

from __future__ import annotations

from array import array
from itertools import chain
from operator import sub

from llmtrace.observe.internal_errors import note

BLOCK = 256
"""Chunks between two folds (about 20 KiB of times)."""
SAMPLE = 2048
"""Gaps kept for quantiles."""
READY_NS = 200_000
"""A pull that waited less than this found its chunk ready: the model was ahead of the application."""
LONG_HOLD_NS = 2_000_000
READY_AFTER_HOLD_NS = 1_000_000
READY_SHARE = 20
READY_MOST_NS = 5_000_000
"""After a hold of 2 ms or more, so does one that waited less than 1 ms or a 20th of the hold (5 ms at most): taking a
ready chunk off the socket and parsing it costs the client 0.1 to 1 ms, the more the longer it slept."""
LAST = 24
"""The number of last chunks whose own times stay until the end; as many of the chunks themselves stay too."""
STALL_MIN_NS = 100_000_000
STALL_FACTOR = 4


def ready_within(hold: int) -> int:
    """The wait (ns) up to which a chunk pulled after ``hold`` ns was lying ready."""
    if hold < LONG_HOLD_NS:
        return READY_NS
    return max(READY_AFTER_HOLD_NS, min(hold // READY_SHARE, READY_MOST_NS))


class ChunkTiming:
    """The times of the pulls of one stream. All durations are in nanoseconds."""

    count = 0
    """Chunks in folded blocks."""
    first_asked: int | None = None
    first_arrival: int | None = None
    buffered_head = 0
    """Chunks that lay ready, one after the other, when the application began to read."""
    consumer_wait = 0
    """Time in which the application held a stream whose next chunk was ready."""
    gap_count = 0
    gap_sum = 0
    gap_max = 0
    last_arrival_folded: int | None = None
    begun = 0
    """The number of pulls up to and with that of the first token: the gaps before it are not in the sample."""
    _stride = 1
    _skip = 0

    def __init__(self) -> None:
        self.block: list[int] = []
        """Times of the current block: asked, arrived, asked, arrived, ..."""
        self.gaps: array[int] = array("q")
        """Sample of the gaps between arrivals that the model (or the network) set, not the application."""
        self.long_gaps: array[int] = array("q")
        """Every gap over 100 ms (at most SAMPLE of them): the candidates for stalls."""
        self._last: list[int] = []
        self._ordered: list[int] | None = None

    @property
    def last_arrival(self) -> int | None:
        """The arrival of the last chunk in monotonic nanoseconds; None if no chunk has come."""
        return self.block[-1] if self.block else self.last_arrival_folded

    @property
    def total(self) -> int:
        """Chunks seen so far."""
        return self.count + len(self.block) // 2

    def fold(self, handed_over: int | None = None) -> None:
        """Add the block to the sums and empty it.

        ``handed_over``: when the application got the stream, in monotonic nanoseconds.
        """
        if not self.block:
            return
        try:
            self._fold(handed_over)
        except Exception as error:
            note("summing up a stream", error)
        kept_times = 2 * LAST + 2  # and the arrival before them
        self._last = (
            self.block[-kept_times:] if len(self.block) >= kept_times else (self._last + self.block)[-kept_times:]
        )
        del self.block[:]

    def _fold(self, handed_over: int | None) -> None:
        asked, arrived = self.block[0::2], self.block[1::2]
        early = max(0, self.begun - max(self.count, 1))
        self.count += len(asked)
        if self.first_arrival is None:
            self.first_asked, self.first_arrival = asked[0], arrived[0]
            hold = asked[0] - handed_over if handed_over is not None else 0
            if arrived[0] - asked[0] < ready_within(hold):
                self.consumer_wait += max(0, hold)
                waits = map(sub, arrived, asked)
                limit = ready_within(hold)
                self.buffered_head = next((i for i, wait in enumerate(waits) if wait >= limit), len(asked))
            before = arrived[0]
            del asked[0], arrived[0]
        else:
            before = self.last_arrival_folded or arrived[0]
        if not arrived:
            self.last_arrival_folded = before
            return
        self.last_arrival_folded = arrived[-1]
        gaps = list(map(sub, arrived, chain((before,), arrived)))
        # An application takes a few microseconds with each chunk: whether one of them took long is told without a loop.
        if max(map(sub, asked, chain((before,), arrived))) > READY_NS:
            # Where the application paused while the next chunk lay ready, the gap is its own, not the model's.
            paced: list[int] = []
            for i, (gap, ask, arrive) in enumerate(zip(gaps, asked, arrived, strict=False)):
                wait = arrive - ask
                hold = gap - wait
                if hold > READY_NS and wait < ready_within(hold):
                    self.consumer_wait += hold
                elif i >= early:
                    paced.append(gap)
            gaps = paced
        elif early:
            gaps = gaps[early:]
        if gaps:
            self._take(gaps)

    def _take(self, gaps: list[int]) -> None:
        self._ordered = None
        self.gap_count += len(gaps)
        self.gap_sum += sum(gaps)
        longest = max(gaps)
        self.gap_max = max(self.gap_max, longest)
        if longest > STALL_MIN_NS:
            room = SAMPLE - len(self.long_gaps)
            self.long_gaps.extend([gap for gap in gaps if gap > STALL_MIN_NS][:room])
        stride = self._stride
        sampled = gaps[self._skip :: stride]
        self._skip = (self._skip - len(gaps)) % stride
        self.gaps.extend(sampled)
        while len(self.gaps) > SAMPLE:
            self.gaps = self.gaps[::2]
            self._stride *= 2

    def quantiles(self, *ranks: float) -> list[float] | None:
        """The quantiles of the gaps in seconds; None where the model set no gap."""
        ordered = self.ordered()
        if not ordered:
            return None
        top = len(ordered) - 1
        return [ordered[round(rank * top)] / 1e9 for rank in ranks]

    def ordered(self) -> list[int]:
        """The sampled gaps (ns) by length; sorted once, however often it is asked for after the stream's end."""
        if self._ordered is None:
            self._ordered = sorted(self.gaps)
        return self._ordered

    @property
    def every_gap(self) -> bool:
        """Whether the sample holds every gap, in order, and the application itself made less than a tenth of them."""
        return self._stride == 1 and self.gap_count >= 0.9 * (self.total - max(self.begun, 1))

    def last(self, count: int) -> list[int | None]:
        """The gaps (ns) before the last ``count`` folded pulls, at most ``LAST``; None: the model did not set it."""
        asked, arrived = self._last[0::2], self._last[1::2]
        gaps: list[int | None] = []
        for i in range(max(0, len(asked) - min(count, LAST)), len(asked)):
            wait, hold = arrived[i] - asked[i], asked[i] - arrived[i - 1] if i else 0
            own = hold > READY_NS and wait < ready_within(hold)
            gaps.append(None if i == 0 or own else wait + hold)
        return gaps

    def stall_bar(self) -> float:
        """The length (ns) beyond which a gap is a stall."""
        median = self.quantiles(0.5)
        return max(STALL_MIN_NS, STALL_FACTOR * median[0] * 1e9) if median else STALL_MIN_NS

    def stalls(self) -> tuple[int, float]:
        """The number of gaps longer than max(4 x median, 100 ms), and their summed length in seconds."""
        bar = self.stall_bar()
        stalled = [gap for gap in self.long_gaps if gap > bar]
        return len(stalled), sum(stalled) / 1e9


NO_CHUNKS = ChunkTiming()
"""The timing of calls that are not streamed: always empty. Whoever times a stream takes ``Call.begin_chunks``."""
