"""The recorder of one call, from request to end. Knows no provider and no OpenTelemetry.

A call ends exactly once, whoever is first: the stream's last pull, a close, an exception, the garbage collector, a
flush or the interpreter's exit. Ending pops it from the table of open calls, which is atomic; whoever pops it emits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from llmtrace.observe.chunk_timing import LAST, NO_CHUNKS, ChunkTiming
from llmtrace.observe.clock import epoch_offset, now
from llmtrace.observe.internal_errors import note
from llmtrace.observe.process import after_fork
from llmtrace.observe.transport import Attempt

COMPLETED: Final = "completed"
CLOSED_EARLY: Final = "closed_early"
ABANDONED: Final = "abandoned"
CANCELLED: Final = "cancelled"
TIMED_OUT: Final = "timed_out"
ERROR: Final = "error"
NEVER_CONSUMED: Final = "never_consumed"

NOTHING, REASONING, OUTPUT = 0, 1, 2
"""The contents of a chunk: no token (role, usage, keep-alive), hidden or shown reasoning, output."""

_OPENING = 8
_ENDS = 256

_open: dict[int, Call] = {}


def open_calls() -> list[Call]:
    """The calls that have started and not ended, oldest first."""
    return list(_open.values())


def open_count() -> int:
    """How many calls have started and not ended."""
    return len(_open)


def forget_open_calls() -> None:
    """Drop every open call without ending it: in a forked child they belong to the parent process."""
    _open.clear()


after_fork(forget_open_calls)


def start_time() -> tuple[int, int]:
    """The start of a call that begins now, in monotonic ns, and the offset in ns from monotonic to epoch times.

    The start is at most 999 ns early, so that its part below a microsecond is the greatest there is, 999
    (``llmtrace.phases.stagger.call_start`` says why).
    """
    moment = now()
    return moment - (moment + 1) % 1000, epoch_offset()


class ChoiceEnds(deque[Any]):
    """Keeps the last chunks of a stream of several choices, and of the chunks before them those that end a choice."""

    def __init__(self, recent: int, ends: Callable[[Any], bool]) -> None:
        super().__init__(maxlen=recent)
        self.early: list[Any] = []
        self._end = ends

    def append(self, chunk: Any) -> None:
        """Add a chunk; the oldest is dropped."""
        try:
            if len(self) == self.maxlen and len(self.early) < _ENDS and self._end(self[0]):
                self.early.append(self[0])
        except Exception as error:
            note("reading a chunk", error)
        super().append(chunk)

    def clear(self) -> None:
        """Drop all chunks."""
        self.early.clear()
        super().clear()


class Call:
    """The recorder of one call. Times are in monotonic nanoseconds; None where the moment was not seen."""

    # Defaults stand on the class: a call that ends quickly then costs little to make.
    returned: int | None = None
    """When the client handed the response or the stream to the application."""
    end: int | None = None
    outcome: str | None = None
    error: BaseException | None = None
    first_chunk: int | None = None
    first_token: int | None = None
    first_token_index = 0
    first_token_asked: int | None = None
    """When the pull that brought it began."""
    before_first_token: int | None = None
    """When the chunk before it came; None where it was the first."""
    on_first_token: Callable[[int], None] | None = None
    """Called with the time of the first token (monotonic ns), as it comes."""
    first_reasoning: int | None = None
    first_output: int | None = None
    idle: dict[int, float]
    """Seconds since data last came in, by the time of a pull to which the application was late."""
    opening: tuple[Any, ...] = ()
    """The first chunks that were looked at, a few at most: the id and the model of the answer stand in them."""
    kept: list[Any] | None = None
    """Every chunk, only where content is captured."""
    more: Callable[[], Sequence[Any]] | None = None
    """Reads facts off the stream object at the end; they are read after the chunks."""
    body: Any = None
    """Raw bytes kept by a tap, for streams that the application reads without the client's parser."""
    answer: Any = None
    """The whole answer, for a call that was not streamed."""
    running: Callable[[], bool] | None = None
    """Set once timing is spliced into the client's stream: whether a pull is under way now."""
    app_closed: int | None = None
    """When the application closed the response from elsewhere while a pull was under way."""

    def __init__(
        self,
        sink: Callable[[Call], None],
        classify_chunk: Callable[[Any], int],
        *,
        streaming: bool,
        recent: int = LAST,
        start: int | None = None,
        offset: int | None = None,
    ) -> None:
        """``sink`` is called once, at the end; ``classify_chunk`` reads a chunk.

        ``recent``: how many of the last chunks to keep for the end. ``start`` and ``offset``: the values of
        ``start_time``, where the call has begun already.
        """
        if start is None or offset is None:
            start, offset = start_time()
        self.start = start
        self.epoch_offset = offset
        """Nanoseconds to add to this call's monotonic times to get epoch times."""
        self.sink = sink
        self.classify_chunk = classify_chunk
        self.streaming = streaming
        """Whether the application asked for a stream."""
        self.state: Any = None
        """A ``calls.state.CallState``: what is kept with the call until it ends (its span, its request)."""
        self.attempts: list[Attempt] = []
        self.idle = {}
        self.chunk_timing: ChunkTiming = ChunkTiming() if streaming else NO_CHUNKS
        self.recent: deque[Any] = deque(maxlen=recent)
        """The last chunks: their text shows the pace, and finish reasons, usage and timings stand in them."""
        _open[id(self)] = self

    def begin_chunks(self) -> ChunkTiming:
        """The ``ChunkTiming`` to time a stream with.

        A call that did not ask for a stream gets one now: it may get one.
        """
        if self.chunk_timing is NO_CHUNKS:
            self.chunk_timing = ChunkTiming()
        return self.chunk_timing

    def to_epoch(self, monotonic_ns: int) -> int:
        """The epoch time in nanoseconds of a monotonic time within this call."""
        return monotonic_ns + self.epoch_offset

    @property
    def is_open(self) -> bool:
        """Whether the call has not ended yet (always False for calls that were inherited by a fork)."""
        return id(self) in _open

    def finish(self, outcome: str, at: int | None = None, error: BaseException | None = None) -> None:
        """End the call once; later ends are ignored. ``at`` is a monotonic time, now if it is not given."""
        if _open.pop(id(self), None) is None:
            return
        self.end = now() if at is None else at
        self.outcome = outcome
        self.error = error
        self.sink(self)

    def look(self, chunk: Any, at: int) -> bool:
        """Classify ``chunk``, which arrived ``at`` (monotonic ns), and note the moment if it is the first of its kind.

        Returns True once output has begun; later chunks need not be looked at.
        """
        if self.first_chunk is None:
            self.first_chunk = at
        if len(self.opening) < _OPENING:
            self.opening += (chunk,)
        try:
            kind = self.classify_chunk(chunk)
        except Exception as error:
            note("reading a chunk", error)
            return False
        if kind == NOTHING:
            return False
        if self.first_token is None:
            self.first_token = at
            if self.on_first_token is not None:
                self.on_first_token(at)
            if self.idle:
                self.late(at)
            block = self.chunk_timing.block
            self.first_token_index = self.chunk_timing.count - 1 + len(block) // 2
            self.chunk_timing.begun = self.first_token_index + 1
            self.first_token_asked = block[-2]
            self.before_first_token = block[-3] if len(block) > 3 else self.chunk_timing.last_arrival_folded
        if kind == REASONING:
            if self.first_reasoning is None:
                self.first_reasoning = at
            return False
        self.first_output = at
        return True

    def last_seen(self) -> int:
        """The last moment at which something happened, in monotonic ns: last chunk, else hand-over, else start."""
        last = self.chunk_timing.last_arrival
        if last is not None:
            return last
        if self.returned is not None:
            return self.returned
        return self.start

    def late(self, asked: int) -> None:
        """Ask the kernel when data last came in, since the application is late to a pull before the first token.

        The kernel is asked again once that token is there: if no data came in between, the token lay ready, however
        long the pull took. ``asked``: when the pull began, in monotonic ns.
        """
        try:
            idle = self.attempts[-1].since_last_data() if self.attempts else None
            if idle is not None:
                self.idle[asked] = idle
        except Exception as error:
            note("asking the kernel", error)

    def release(self) -> None:
        """Drop all references to the application's objects, so that they live no longer than they would without us."""
        self.kept = self.body = self.answer = self.error = self.state = self.running = self.more = None
        self.on_first_token = None
        self.opening = ()
        self.recent.clear()  # not replaced: the splice still holds its append
        for attempt in self.attempts:
            attempt.release()
        self.attempts = []
