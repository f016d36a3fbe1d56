"""Who runs next: a queue that really waits, a few slots, one thread that owns the model.

First come, first served. Up to `max_running` requests run at once and take turns step by step (a chunk of a prompt or
one token), so that a neighbour's prefill is felt in everybody's tokens. A cancelled request leaves at once while it
waits, and before its next step while it runs.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from llmtrace.observe.clock import now
from llmtrace.reference.runner import Generation, Piece, Request, Runner
from llmtrace.reference.timings import Timings

__all__ = ["Ended", "Job", "QueueFull", "Scheduler", "SchedulerCounters"]

_log = logging.getLogger("llmtrace.reference")


class QueueFull(Exception):
    """No room in the queue. `retry_after`: seconds until there may be some."""

    def __init__(self, waiting: int, retry_after: float) -> None:
        super().__init__(f"{waiting} requests are waiting already")
        self.retry_after = retry_after


@dataclass(frozen=True)
class Ended:
    """The last thing that a job tells."""

    outcome: str
    """`completed`, `cancelled` or `error`."""
    error: BaseException | None = None


@dataclass
class SchedulerCounters:
    """Since the start."""

    outcomes: dict[str, int] = field(default_factory=dict[str, int])
    finish_reasons: dict[str, int] = field(default_factory=dict[str, int])
    rejected: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    tokens_after_cancel: int = 0
    """Output tokens computed for requests that had been cancelled by then."""
    phase_seconds: dict[str, float] = field(default_factory=dict[str, float])
    phase_counts: dict[str, int] = field(default_factory=dict[str, int])


class Job:
    """One request on its way. `tell` is called from the scheduler's thread with each piece and, last, one `Ended`."""

    def __init__(self, request: Request, timings: Timings, tell: Callable[[Piece | Ended], None]) -> None:
        self.request = request
        self.timings = timings
        self.tell = tell
        self.outcome: str | None = None
        """Set once, when the job has ended."""
        self.generation: Generation | None = None
        self.cancelled = False


class Scheduler:
    """Owns the model's thread."""

    def __init__(self, runner: Runner, *, max_running: int = 1, max_queue: int = 64) -> None:
        self.runner = runner
        self.max_running = max(1, max_running)
        self.max_queue = max(0, max_queue)
        self.counters = SchedulerCounters()
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._condition = threading.Condition()
        self._stopping = False
        self._usual_s = 0.5  # how long a request runs, s: a moving mean, for retry-after
        self._thread = threading.Thread(target=self._run, name="llmtrace-reference", daemon=True)

    # For any thread

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Cancel everything and end the thread; waits at most `timeout` s for the step that is under way."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    def submit(self, *jobs: Job) -> None:
        """Put these at the end of the queue, all or none. Raises `QueueFull`."""
        with self._condition:
            free = self.max_running - len(self._running)
            if self._stopping or len(self._waiting) + len(jobs) > self.max_queue + max(0, free):
                self.counters.rejected += 1
                rounds = (len(self._waiting) + 1) / self.max_running
                raise QueueFull(len(self._waiting), min(30.0, max(0.1, rounds * self._usual_s)))
            self._waiting.extend(jobs)
            self._condition.notify()

    def cancel(self, job: Job) -> None:
        """Nobody wants this one any more. Does nothing when it has ended."""
        with self._condition:
            if job.outcome is not None or job.cancelled:
                return
            job.cancelled = True
            job.timings.cancelled = now()
            waited = job in self._waiting
            if waited:
                self._waiting.remove(job)
        if waited:
            self._end(job, Ended("cancelled"))

    # The model's thread

    def _run(self) -> None:
        while True:
            with self._condition:
                while not (self._waiting or self._running or self._stopping):
                    self._condition.wait()
                if self._stopping:
                    left = [*self._running, *self._waiting]
                    self._running.clear()
                    self._waiting.clear()
                    break
                while self._waiting and len(self._running) < self.max_running:
                    self._running.append(self._waiting.popleft())
                turn = list(self._running)
            for job in turn:
                ended = self._step(job)
                if ended is not None:
                    self._running.remove(job)
                    self._end(job, ended)
        for job in left:
            job.timings.cancelled = job.timings.cancelled or now()
            self._end(job, Ended("cancelled"))

    def _step(self, job: Job) -> Ended | None:
        """One turn; what happened if it was the last."""
        if job.cancelled:
            return Ended("cancelled")
        try:
            if job.generation is None:
                job.generation = self.runner.start(job.request, job.timings)
            for piece in job.generation.step():
                if job.cancelled:
                    return Ended("cancelled")
                if piece.finish is not None:
                    self._count(self.counters.finish_reasons, piece.finish)
                    if job.generation.done:
                        job.generation.settle()  # the last piece goes out with all times known
                job.tell(piece)
            return Ended("completed") if job.generation.done else None
        except Exception as error:
            # One request's crash is that request's: the others go on.
            _log.warning("request failed: %s: %s", type(error).__name__, error)
            return Ended("error", error)

    def _end(self, job: Job, ended: Ended) -> None:
        timings = job.timings
        if job.generation is not None:
            try:
                job.generation.close()
            except Exception as error:  # a device in an error state
                _log.warning("cannot close a request: %s: %s", type(error).__name__, error)
            job.generation = None
        if timings.finished is None:
            timings.finished = max(now(), timings.arrived)
        job.outcome = ended.outcome
        counters = self.counters
        with self._condition:
            self._count(counters.outcomes, ended.outcome)
            counters.prompt_tokens += timings.prompt_tokens
            counters.output_tokens += timings.output_tokens
            if (cancelled := timings.cancelled) is not None:
                counters.tokens_after_cancel += sum(moment > cancelled for moment in timings.tokens)
            for phase, seconds in timings.seconds().items():
                counters.phase_seconds[phase] = counters.phase_seconds.get(phase, 0.0) + seconds
                self._count(counters.phase_counts, phase)
            if ended.outcome == "completed" and timings.scheduled is not None:
                self._usual_s += 0.2 * ((timings.finished - timings.scheduled) / 1e9 - self._usual_s)
        try:
            job.tell(ended)
        except Exception as error:  # the listener's loop has gone
            _log.debug("nobody listens any more: %s", error)

    @staticmethod
    def _count(table: dict[str, int], key: str) -> None:
        table[key] = table.get(key, 0) + 1
