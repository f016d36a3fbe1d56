"""The queue, the slots, and requests that leave early."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import pairwise

import pytest

from llmtrace.observe.clock import now
from llmtrace.reference import LoadedModel
from llmtrace.reference.runner import Piece, Request, Runner
from llmtrace.reference.sampling import Sampling
from llmtrace.reference.scheduler import Job, QueueClosed, QueueFull, Result, Scheduler
from llmtrace.reference.timings import Timings
from tests.support.waiting import PATIENCE, wait_for


class Listener:
    """What a job tells, and a way to wait for it."""

    def __init__(self, tokens: int = 8, fault: int | None = None, held_at: int | None = None) -> None:
        self.held_at = held_at
        """The piece at which the scheduler is held up, until ``go``: it has not run on, however late a test is."""
        self.go = threading.Event()
        self.pieces: list[Piece] = []
        self.ended: Result | None = None
        self.begun = threading.Event()
        self.held = threading.Event()
        self.over = threading.Event()
        asked = Request([5, 6, 7, 8], tokens, Sampling(temperature=0), ignore_eos=True, fault=fault)
        self.job = Job(asked, Timings(arrived=now()), self.tell)

    def tell(self, news: Piece | Result) -> None:
        if isinstance(news, Result):
            assert self.ended is None, "a job ends once"
            self.ended = news
            self.over.set()
        else:
            self.pieces.append(news)
            self.begun.set()
            if len(self.pieces) == self.held_at:
                self.held.set()
                self.go.wait(PATIENCE)

    def wait(self) -> str:
        assert self.over.wait(PATIENCE), "the job never ended"
        assert self.ended is not None
        return self.ended.outcome


@pytest.fixture
def make(small: LoadedModel) -> Iterator[object]:
    made: list[Scheduler] = []

    def start(max_running: int = 1, max_queue: int = 64, **options: int) -> Scheduler:
        scheduler = Scheduler(Runner(small, max_running=max_running, **options), max_queue=max_queue)
        scheduler.start()
        made.append(scheduler)
        return scheduler

    yield start
    for scheduler in made:
        scheduler.stop()


def test_one_slot_serves_in_order_and_the_wait_is_queue(make) -> None:
    scheduler = make(max_running=1)
    listeners = [Listener(tokens=12) for _ in range(4)]
    scheduler.submit(*(each.job for each in listeners))
    assert [each.wait() for each in listeners] == ["completed"] * 4
    timings = [each.job.timings for each in listeners]
    for before, after in pairwise(timings):
        assert after.scheduled >= before.finished
    waits = [each.seconds()["queue"] for each in timings]
    assert waits == sorted(waits)
    assert waits[3] > sum(each.seconds()["decode"] for each in timings[:3])
    assert scheduler.counters.outcomes == {"completed": 4}
    assert scheduler.counters.output_tokens == 48


def test_two_requests_share_their_steps(make) -> None:
    scheduler = make(max_running=2)
    first, second = Listener(tokens=40), Listener(tokens=40)
    scheduler.submit(first.job, second.job)
    first.wait()
    second.wait()
    one, two = first.job.timings, second.job.timings
    shared = set(one.tokens) & set(two.tokens)
    assert len(shared) >= 38, "one step makes a token for each, at one moment"
    assert one.batch.count(2) == two.batch.count(2) == len(shared)
    assert [piece.token for piece in first.pieces] == [piece.token for piece in second.pieces]


def test_beyond_the_queue_is_refused_with_a_time_to_come_back(make) -> None:
    scheduler = make(max_running=1, max_queue=2)
    running = Listener(tokens=400, held_at=1)
    scheduler.submit(running.job)
    assert running.held.wait(PATIENCE)
    waiting = [Listener(), Listener()]
    scheduler.submit(*(each.job for each in waiting))
    with pytest.raises(QueueFull) as caught:
        scheduler.submit(Listener().job)
    assert 0 < caught.value.retry_after <= 30
    assert scheduler.counters.rejected == 1
    scheduler.cancel(running.job)
    running.go.set()
    assert [each.wait() for each in waiting] == ["completed", "completed"]


def test_a_cancelled_request_stops_within_one_step(make) -> None:
    scheduler = make(max_running=1)
    long = Listener(tokens=500, held_at=20)
    scheduler.submit(long.job)
    assert long.held.wait(PATIENCE)
    scheduler.cancel(long.job)
    long.go.set()
    assert long.wait() == "cancelled"
    timings = long.job.timings
    assert timings.cancelled is not None
    assert sum(moment > timings.cancelled for moment in timings.tokens) <= 1
    assert scheduler.counters.tokens_after_cancel <= 1
    assert timings.output_tokens < 500
    scheduler.cancel(long.job)  # once more does nothing
    assert scheduler.counters.outcomes == {"cancelled": 1}


def test_a_request_cancelled_in_the_queue_leaves_at_once(make) -> None:
    scheduler = make(max_running=1)
    running, waiting = Listener(tokens=500, held_at=1), Listener()
    scheduler.submit(running.job, waiting.job)
    assert running.held.wait(PATIENCE)
    scheduler.cancel(waiting.job)
    assert waiting.over.is_set(), "it did not wait for the one that runs"
    assert waiting.wait() == "cancelled"
    assert [name for name, *_ in waiting.job.timings.phases()] == ["queue"]
    assert waiting.pieces == []
    scheduler.cancel(running.job)
    running.go.set()
    running.wait()


def test_a_crash_ends_its_own_request_only(make) -> None:
    scheduler = make(max_running=2)
    bad, good = Listener(tokens=20, fault=3), Listener(tokens=20)
    scheduler.submit(bad.job, good.job)
    assert bad.wait() == "error"
    assert isinstance(bad.ended.error, RuntimeError)
    assert good.wait() == "completed"
    assert len(good.pieces) == 20


def test_stopping_ends_everything(make) -> None:
    scheduler = make(max_running=1)
    listeners = [Listener(tokens=500, held_at=1), Listener(tokens=500)]
    scheduler.submit(*(each.job for each in listeners))
    assert listeners[0].held.wait(PATIENCE)
    stopping = threading.Thread(target=scheduler.stop)
    stopping.start()
    wait_for(lambda: scheduler.stopping)
    listeners[0].go.set()
    stopping.join()
    assert [each.wait() for each in listeners] == ["cancelled", "cancelled"]
    with pytest.raises(QueueClosed):
        scheduler.submit(Listener().job)


def test_within_its_grace_what_runs_may_end_and_what_waits_may_not(make) -> None:
    scheduler = make(max_running=1)
    running, waiting = Listener(tokens=20, held_at=1), Listener()
    scheduler.submit(running.job, waiting.job)
    assert running.held.wait(PATIENCE)
    stopping = threading.Thread(target=scheduler.stop, kwargs={"grace": PATIENCE})
    stopping.start()
    wait_for(lambda: scheduler.stopping)
    running.go.set()
    stopping.join()
    assert [running.wait(), waiting.wait()] == ["completed", "cancelled"]


def test_a_device_that_asserted_is_not_alive_any_more(make) -> None:
    scheduler = make(max_running=1)
    runner = scheduler.runner

    def broken(*_: object) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered\nand more")

    runner._engine._processor.model_runner.compute_batch = broken
    one = Listener()
    scheduler.submit(one.job)
    assert one.wait() == "error"
    assert scheduler.broken == "RuntimeError: CUDA error: device-side assert triggered"
    assert not scheduler.alive
    with pytest.raises(QueueClosed) as caught:
        scheduler.submit(Listener().job)
    assert caught.value.code == "broken"


class Panic(BaseException):
    """What a library written in Rust raises, which is no `Exception`."""


def test_a_panic_in_a_step_ends_those_who_were_in_it_and_nobody_else(make) -> None:
    scheduler = make(max_running=1)
    step = scheduler.runner.step

    def panics(tell) -> None:
        scheduler.runner.step = step
        raise Panic("called `unwrap()` on a `None` value")

    scheduler.runner.step = panics
    bad, good = Listener(), Listener()
    scheduler.submit(bad.job, good.job)
    assert [bad.wait(), good.wait()] == ["error", "completed"]
    assert isinstance(bad.ended.error, Exception)
    assert "unwrap" in str(bad.ended.error)
    assert scheduler.alive


def test_where_the_models_thread_dies_nobody_waits_for_it(make) -> None:
    scheduler = make(max_running=1)
    running, waiting = Listener(tokens=400, held_at=1), Listener()
    scheduler.submit(running.job, waiting.job)
    assert running.held.wait(PATIENCE)

    def dies() -> None:
        raise Panic("the thread's end")

    scheduler._drop_cancelled = dies
    running.go.set()
    assert [running.wait(), waiting.wait()] == ["error", "error"]
    assert not scheduler.alive
    with pytest.raises(QueueClosed) as caught:
        scheduler.submit(Listener().job)
    assert caught.value.code == "broken"


def test_a_step_that_goes_on_and_on_holds_up_no_end(make) -> None:
    scheduler = make(max_running=1)
    running, waiting = Listener(tokens=400, held_at=1), Listener()
    scheduler.submit(running.job, waiting.job)
    assert running.held.wait(PATIENCE)  # the step waits for the listener, who waits for the test
    scheduler.stop(timeout=0)
    assert [running.wait(), waiting.wait()] == ["cancelled", "cancelled"]
    assert scheduler.stuck
    assert running.job.timings.finished is not None
    scheduler.stop()  # once more waits for nothing
    running.go.set()
    wait_for(lambda: not scheduler.stuck)
    assert scheduler.counters.outcomes == {"cancelled": 2}
    assert len(running.pieces) == 1


def test_the_counters_hold_every_phase(make) -> None:
    scheduler = make(max_running=1)
    one = Listener(tokens=4)
    scheduler.submit(one.job)
    one.wait()
    assert set(scheduler.counters.phase_seconds) == {"queue", "prefill", "decode"}
    assert scheduler.counters.phase_seconds["decode"] == pytest.approx(one.job.timings.seconds()["decode"])
