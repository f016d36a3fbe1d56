"""Decides which request runs next: a queue that really waits, rows that free up, one thread that owns the model.

Continuous batching: between any two iterations of the runner, requests that wait are let in as far as there is a row
for them and room for their keys and values, strictly in the order in which they came; nobody overtakes, so nobody
starves. A cancelled request leaves at once while it waits, and before the next piece of its work while it runs.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from llmtrace.observe.clock import now
from llmtrace.reference._errors import RunnerError
from llmtrace.reference.generation import Generation, Piece, Request
from llmtrace.reference.runner import Runner
from llmtrace.reference.timings import Timings

__all__ = ["Job", "QueueClosed", "QueueFull", "Result", "Scheduler", "SchedulerCounters"]

_log = logging.getLogger("llmtrace.reference")


_BROKEN = ("device-side assert", "illegal memory access", "unspecified launch failure", "device is lost")
"""What CUDA says where nothing more can be computed in this process."""


class QueueFull(Exception):
    """The queue is full. `retry_after`: seconds until there may be room."""

    def __init__(self, waiting: int, retry_after: float) -> None:
        super().__init__(f"{waiting} requests are waiting already")
        self.retry_after = retry_after


class QueueClosed(Exception):
    """Nobody is taken any more. `code`: `stopping`, or `broken` where only a restart helps."""

    def __init__(self, says: str, code: str) -> None:
        super().__init__(says)
        self.code = code


@dataclass(frozen=True)
class Result:
    """The last message of a job."""

    outcome: str
    """`completed`, `cancelled` or `error`."""
    error: BaseException | None = None


@dataclass
class SchedulerCounters:
    """Counters since the start."""

    outcomes: dict[str, int] = field(default_factory=dict[str, int])
    finish_reasons: dict[str, int] = field(default_factory=dict[str, int])
    rejected: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    tokens_after_cancel: int = 0
    """Output tokens computed for requests that had been cancelled by then."""
    steps: int = 0
    """Iterations of the runner."""
    prefill_others: float = 0.0
    """Of the ended requests' prefill, the time that went into others' tokens, s."""
    decode_others: float = 0.0
    """Of the ended requests' decode, the time that went into others' prompts, s."""
    phase_seconds: dict[str, float] = field(default_factory=dict[str, float])
    phase_counts: dict[str, int] = field(default_factory=dict[str, int])


class Job:
    """One request on its way. `tell` is called from the scheduler's thread with each piece and, last, one `Result`."""

    def __init__(self, request: Request, timings: Timings, tell: Callable[[Piece | Result], None]) -> None:
        self.request = request
        self.timings = timings
        self.tell = tell
        self.outcome: str | None = None
        """`completed`, `cancelled` or `error`; set once, when the job has ended."""
        self.generation: Generation | None = None
        self.cancelled = False


class Scheduler:
    """Owns the model's thread."""

    def __init__(self, runner: Runner, *, max_queue: int = 64) -> None:
        self.runner = runner
        self.max_running = runner.max_running
        self.max_queue = max(0, max_queue)
        self.counters = SchedulerCounters()
        self._waiting: deque[Job] = deque()
        self._running: dict[Generation, Job] = {}
        self._condition = threading.Condition()
        self.stopping = False
        """Whether it was told to stop: nobody is let in any more."""
        self.broken: str | None = None
        """The error after which the device computes nothing any more."""
        self._dead = False
        self._deadline = 0
        self._usual_s = 0.5  # how long a request runs, s: a moving mean, for retry-after
        self._thread = threading.Thread(target=self._run, name="llmtrace-reference", daemon=True)

    # For any thread

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float = 5.0, *, grace: float = 0.0) -> None:
        """Admit nobody any more, end what waits at once and what runs after `grace` s, and end the thread.

        Waits at most `timeout` s longer, for the step that is under way; if that takes longer still, its requests are
        told that they are over. A further call changes nothing of the time that they have.
        """
        with self._condition:
            if not self.stopping:
                self.stopping = True
                self._deadline = now() + round(grace * 1e9)
            left = max(0, self._deadline - now()) / 1e9
            self._condition.notify()
        if self.stuck:
            return
        if self._thread.is_alive():
            self._thread.join(left + timeout)
        if self._thread.is_alive():
            self._end_all(Result("cancelled"))

    @property
    def alive(self) -> bool:
        """Whether the thread lives, and the device has not failed for good."""
        return self._thread.is_alive() and not self._dead and self.broken is None

    @property
    def stuck(self) -> bool:
        """Whether a step goes on whose requests have been told that they are over."""
        return self._dead and self._thread.is_alive()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    def submit(self, *jobs: Job) -> None:
        """Put the jobs at the end of the queue, all or none. Raises `QueueFull` and `QueueClosed`."""
        with self._condition:
            free = self.max_running - len(self._running)
            if self.stopping:
                raise QueueClosed("the server is stopping: send the request again", "stopping")
            if self._dead or self.broken is not None:
                raise QueueClosed("the server computes nothing any more: restart it", "broken")
            if len(self._waiting) + len(jobs) > self.max_queue + max(0, free):
                self.counters.rejected += 1
                rounds = (len(self._waiting) + 1) / self.max_running
                raise QueueFull(len(self._waiting), min(30.0, max(0.1, rounds * self._usual_s)))
            self._waiting.extend(jobs)
            self._condition.notify()

    def cancel(self, job: Job) -> None:
        """Cancel a job. Does nothing when it has ended."""
        with self._condition:
            if job.outcome is not None or job.cancelled:
                return
            job.cancelled = True
            job.timings.cancelled = now()
            if job.generation is not None:
                job.generation.cancelled = True
            waited = self._take(job)
            if waited:
                job.generation = None  # the runner is its own thread's
            self._condition.notify()
        if waited:
            self._end(job, Result("cancelled"))

    # The model's thread

    def _run(self) -> None:
        last = Result("cancelled")
        try:
            self._serve()
        except BaseException as error:  # a fault of ours: nobody may hang
            _log.exception("the model's thread ends with an error")
            last = Result("error", _as_exception(error))
        self._end_all(last)

    def _end_all(self, last: Result) -> None:
        """End all that has not ended, and take nobody any more. Any thread may do so."""
        with self._condition:
            self._dead = True
            unfinished = [*self._running.values(), *self._waiting]
            self._waiting.clear()
        for job in unfinished:
            if last.outcome == "cancelled":
                job.timings.cancelled = job.timings.cancelled or now()
            self._end(job, last)

    def _serve(self) -> None:
        while True:
            with self._condition:
                while not (self._waiting or self._running or self.stopping):
                    self._condition.wait()
                if self.stopping and (not self._running or now() >= self._deadline):
                    break
                turned_away = list(self._waiting) if self.stopping else []
                for job in turned_away:
                    self._take(job)
            for job in turned_away:
                job.timings.cancelled = job.timings.cancelled or now()
                self._end(job, Result("cancelled"))
            self._drop_cancelled()
            self._let_in()
            if not self._running:
                continue
            self.counters.steps += 1
            try:
                self.runner.step(self._pass_on)
            except BaseException as error:  # a fault of ours, or a device in an error state: nobody may hang
                failure = _as_exception(error)
                self._look_at(failure)
                _log.exception("a step failed; the requests that were running end with an error")
                for job in list(self._running.values()):
                    self._end(job, Result("error", failure))

    def _look_at(self, error: Exception) -> None:
        """Note an error that leaves the device unusable for this process: an assert in a kernel, a lost device."""
        says = str(error)
        accelerators = type(error).__name__ == "AcceleratorError" and "captur" not in says  # a graph, not the device
        if accelerators or any(each in says for each in _BROKEN):
            self.broken = f"{type(error).__name__}: {says.splitlines()[0][:200]}"

    def _drop_cancelled(self) -> None:
        for job in [job for job in self._running.values() if job.cancelled]:
            self._end(job, Result("cancelled"))

    def _let_in(self) -> None:
        """Admit jobs from the head of the queue while there is room; one that does not fit holds up those behind it."""
        while True:
            with self._condition:
                job = self._waiting[0] if self._waiting else None
            if job is None:
                return
            try:
                generation = job.generation or self.runner.start(job.request, job.timings)
                admitted = self.runner.admit(generation)
            except Exception as error:
                with self._condition:
                    taken = self._take(job)
                if taken:
                    self._end(job, Result("error", error))
                continue
            with self._condition:
                taken = job in self._waiting
                if taken:
                    job.generation = generation
                if taken and admitted:
                    self._take(job)
                    self._running[generation] = job
            if not taken and admitted:  # it was cancelled meanwhile, and has been told so
                self.runner.leave(generation)
            if not admitted:
                return

    def _take(self, job: Job) -> bool:
        """Take a job off the queue; returns whether it was still in it. The lock must be held."""
        if job not in self._waiting:
            return False
        self._waiting.remove(job)
        return True

    def _pass_on(self, generation: Generation, news: Piece | Exception) -> None:
        """Pass a token or an error on to its job; the runner calls this in the middle of a step."""
        job = self._running.get(generation)
        if job is None:
            return
        if isinstance(news, Exception):
            self._look_at(news)
            self._end(job, Result("error", news))
            return
        if job.cancelled:
            return  # it leaves before the next step
        if news.finish is not None:
            self._count(self.counters.finish_reasons, news.finish)
        job.tell(news)
        if generation.done:
            self._end(job, Result("completed"))

    def _end(self, job: Job, ended: Result) -> None:
        with self._condition:
            if job.outcome is not None:
                return
            job.outcome = ended.outcome
        timings = job.timings
        if job.generation is not None:
            try:
                if ended.outcome != "completed" and threading.current_thread() is self._thread:
                    self.runner.leave(job.generation)
            except BaseException as error:  # a device in an error state
                _log.warning("cannot close a request: %s: %s", type(error).__name__, error)
            self._running.pop(job.generation, None)
        if timings.finished is None:
            timings.finished = max(now(), timings.arrived)
        counters = self.counters
        with self._condition:
            self._count(counters.outcomes, ended.outcome)
            counters.prompt_tokens += timings.prompt_tokens
            counters.output_tokens += timings.output_tokens
            counters.prefill_others += timings.prefill_others / 1e9
            counters.decode_others += timings.decode_others / 1e9
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


def _as_exception(error: BaseException) -> Exception:
    """The same as an `Exception`, which a panic in a library written in Rust is not."""
    return error if isinstance(error, Exception) else RunnerError(f"{type(error).__name__}: {error}")
