"""The orders in which a device can answer, played on the CPU: late, out of order, never, and not before it was asked.

The stream computes only when somebody waits for it, so that whoever reads a result before reads what was there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from llmtrace.observe.clock import now
from llmtrace.reference import LoadedModel
from llmtrace.reference.clock import CudaClock
from llmtrace.reference.runner import Generation, Piece, Request, Runner
from llmtrace.reference.sampling import Sampling
from llmtrace.reference.scheduler import Scheduler
from tests.support.late import Late

if TYPE_CHECKING:
    import torch
else:
    torch = Late("torch")

Work = Callable[[], None]


class Stream:
    """Work in its order, done when somebody waits."""

    def __init__(self) -> None:
        self.queue: deque[tuple[str, Work]] = deque()

    def put(self, kind: str, work: Work) -> None:
        self.queue.append((kind, work))

    def synchronize(self) -> None:
        while self.queue:
            self.queue.popleft()[1]()


class Event:
    """Reached when the stream gets to it; `late` times it says that it has not been, all the same."""

    def __init__(self, late: float = 0) -> None:
        self.at: int | None = None
        self.late = late
        self._stream: Stream | None = None

    def record(self, stream: Stream) -> None:
        self._stream = stream
        stream.put("event", self._reach)

    def _reach(self) -> None:
        self.at = now()

    def query(self) -> bool:
        self.late -= 1
        return self.at is not None and self.late < 0

    def synchronize(self) -> None:
        assert self._stream is not None
        self._stream.synchronize()

    def elapsed_time(self, end: Event) -> float:
        if self.at is None or end.at is None or max(self.late, end.late) == float("inf"):
            raise RuntimeError("Both events must be completed before calculating elapsed time.")
        return (end.at - self.at) / 1e6


class Device:
    """Has the runner compute on a stream of this kind, and take its times from `event`."""

    def __init__(self, runner: Runner, event: Callable[[], Event] = Event) -> None:
        engine = runner._engine
        self.stream = stream = Stream()
        self.fails: Exception | None = None
        """Raised once, when a step has been launched."""
        engine._ios.compute_stream = stream
        model_runner, processor = engine._processor.model_runner, engine._processor
        forward, prepare = model_runner._forward_process_and_sample, processor.prepare_next_batch

        def launch(*arguments: Any) -> None:
            stream.put("step", lambda: forward(*arguments))
            if self.fails is not None:
                error, self.fails = self.fails, None
                raise error

        def lay_out() -> bool:
            assert torch.cpu.current_stream() is stream, "what is laid out elsewhere may come too late"
            assert not any(kind == "step" for kind, _ in stream.queue), "an earlier step still reads its layout"
            return prepare()

        model_runner._forward_process_and_sample, processor.prepare_next_batch = launch, lay_out
        runner.clock = CudaClock(event, tries=2, stream=stream, patience=0.02)


def prompt_of(loaded: LoadedModel, tokens: int) -> list[int]:
    made = torch.Generator().manual_seed(tokens)
    return torch.randint(5, loaded.vocabulary, (tokens,), generator=made).tolist()


def run(runner: Runner, lengths: tuple[int, ...] = (40, 9)) -> tuple[list[list[int]], list[Generation]]:
    asked = [Request(prompt_of(runner.loaded, length), 8, Sampling(0), ignore_eos=True) for length in lengths]
    generations = [runner.start(request) for request in asked]
    for generation in generations:
        runner.admit(generation)
    told: dict[Generation, list[int]] = {generation: [] for generation in generations}

    def tell(generation: Generation, news: Piece | Exception) -> None:
        if isinstance(news, Piece):
            told[generation].append(news.token)

    while runner.running:
        runner.step(tell)
    return list(told.values()), generations


def adds_up(generation: Generation) -> None:
    timings = generation.timings
    phases = timings.phases()
    assert phases[0].start == timings.arrived
    assert all(left.end == right.start for left, right in pairwise(phases))
    assert phases[-1].end == timings.finished
    assert timings.tokens == sorted(timings.tokens)


@pytest.fixture(scope="module")
def wanted(small: LoadedModel) -> list[list[int]]:
    return run(Runner(small, max_running=2))[0]


def test_a_result_is_read_when_it_is_there(small: LoadedModel, wanted: list[list[int]]) -> None:
    runner = Runner(small, max_running=2)
    device = Device(runner)
    tokens, generations = run(runner)
    assert tokens == wanted
    assert not device.stream.queue
    for generation in generations:
        adds_up(generation)
        assert generation.timings.timed_by == "cuda"
    # That this stream would show a result that was read too early:
    runner._engine._ios.retrieve_device_outputs = lambda: None
    with pytest.raises(AssertionError, match="earlier step"):
        run(runner)


def test_an_event_that_completes_late_is_waited_for(small: LoadedModel, wanted: list[list[int]]) -> None:
    runner = Runner(small, max_running=2)
    Device(runner, lambda: Event(late=3))
    tokens, generations = run(runner)
    assert tokens == wanted
    for generation in generations:
        adds_up(generation)
        assert generation.timings.timed_by == "cuda"


@pytest.mark.parametrize("lost", ["all", "every third"])
def test_where_events_never_complete_the_hosts_times_stand(
    lost: str, small: LoadedModel, wanted: list[list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    """Never, or out of order: the last one has, and one before it has not."""
    made: list[Event] = []

    def event() -> Event:
        never = len(made) % 3 == 2 or lost == "all"
        made.append(Event(late=float("inf") if never else 0))
        return made[-1]

    runner = Runner(small, max_running=2)
    device = Device(runner, event)
    for _ in range(2):
        before = now()
        tokens, generations = run(runner)
        assert tokens == wanted
        for generation in generations:
            adds_up(generation)
            timings = generation.timings
            assert timings.timed_by == "host"
            assert timings.clock_error == 0
            assert before < timings.tokens[0]
            assert timings.finished is not None
            assert timings.finished < now()
    assert [record.message for record in caplog.records if "clock cannot be read" in record.message] != []
    assert len([record for record in caplog.records if "clock" in record.message]) == 1, "said once"
    recorded = len(made)
    run(runner)
    assert len(made) == recorded, "nor asked again"
    assert not device.stream.queue


def test_a_step_that_failed_half_launched_is_over_before_the_next(small: LoadedModel, wanted: list[list[int]]) -> None:
    runner = Runner(small, max_running=2)
    device = Device(runner)
    device.fails = torch.OutOfMemoryError("CUDA out of memory")
    tokens, generations = run(runner)
    assert tokens == wanted
    for generation in generations:
        adds_up(generation)


def test_a_capture_that_fails_is_no_broken_device(small: LoadedModel) -> None:
    scheduler = Scheduler(Runner(small))
    broken = type("AcceleratorError", (RuntimeError,), {})
    scheduler._look_at(broken("CUDA error: operation not permitted when stream is capturing"))
    assert scheduler.broken is None
    scheduler._look_at(broken("CUDA error: device-side assert triggered\nand more"))
    assert scheduler.broken == "AcceleratorError: CUDA error: device-side assert triggered"
