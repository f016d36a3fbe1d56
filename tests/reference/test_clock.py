"""Device marks mapped to the monotonic clock, with a device and a host made of numbers: no wait of ours is in them."""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING

import pytest

from llmtrace.observe import device as anchors
from llmtrace.reference import clock as marks_on
from llmtrace.reference.clock import CudaClock, HostClock, Mark, launch_bound_ratio, make_clock
from tests.evaluation.gpu.checks import clock_errors
from tests.support.late import Late

if TYPE_CHECKING:
    import torch
else:
    torch = Late("torch")


class Host:
    """A monotonic clock of which each reading takes `READING` ns, and which nothing else moves but `skip`."""

    READING = 500

    def __init__(self) -> None:
        self._at = 1_000_000_000

    def __call__(self) -> int:
        self._at += self.READING
        return self._at

    def skip(self, ns: int) -> None:
        self._at += ns


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    """The clock of everything that a device's clock is compared with."""
    clock = Host()
    monkeypatch.setattr(anchors, "now", clock)
    monkeypatch.setattr(marks_on, "now", clock)
    return clock


class Device:
    """A stream that runs `behind` ns after the host, on a clock of its own."""

    def __init__(self, host: Host, behind: int = 0) -> None:
        self._host = host
        self.behind = behind
        self.zero = 123_456_789
        self.rate = 1.0
        self.single = False
        self.synchronised = 0

    def now(self) -> int:
        return round(self._host() * self.rate) + self.zero

    def event(self) -> Event:
        return Event(self)


class Event:
    def __init__(self, device: Device) -> None:
        self._device = device
        self.at = 0
        self.stream = ""

    def record(self, stream: str = "current") -> None:
        self.stream = stream
        self.at = self._device.now() + self._device.behind

    def query(self) -> bool:
        return self._device.now() >= self.at

    def synchronize(self) -> None:
        self._device.synchronised += 1
        while self._device.now() < self.at:
            pass

    def elapsed_time(self, end: Event) -> float:
        exact = (end.at - self.at) / 1e6
        return struct.unpack("f", struct.pack("f", exact))[0] if self._device.single else exact


def test_every_mark_lies_on_the_stream_that_computes(host: Host) -> None:
    device = Device(host)
    made: list[Event] = []

    def event() -> Event:
        made.append(device.event())
        return made[-1]

    clock = CudaClock(event, stream="computing on cuda:1")
    clock.start()
    clock.mark()
    clock.resolve()
    assert {each.stream for each in made} == {"computing on cuda:1"}


def test_marks_wait_for_nothing_and_map_to_when_the_device_got_there(host: Host) -> None:
    device = Device(host)
    clock = CudaClock(device.event)
    clock.start()
    anchoring = device.synchronised
    assert anchoring == CudaClock.TRIES
    device.behind = 3_000_000
    marks = [clock.mark() for _ in range(4)]
    assert device.synchronised == anchoring, "nothing waits for the device"
    assert all(mark.at is None for mark in marks)
    device.behind = 0
    clock.resolve()
    found = [mark.at for mark in marks]
    assert found == sorted(found)
    assert [mark.at - mark.host for mark in marks] == pytest.approx([3_000_000] * 4, abs=clock.error_ns + Host.READING)
    assert 0 < clock.error_ns < 5 * Host.READING
    assert clock.timed_by == "cuda"


def test_a_device_clock_that_runs_fast_is_stretched_between_the_anchors(host: Host) -> None:
    device = Device(host)
    device.rate = 1.02
    clock = CudaClock(device.event)
    clock.start()
    marks = []
    for _ in range(20):
        host.skip(1_000_000)
        marks.append(clock.mark())
    clock.resolve()
    assert clock.drift == pytest.approx(-0.02 / 1.02, abs=1e-4)
    late = [abs(mark.at - mark.host) for mark in marks]
    assert max(late) < 5 * Host.READING, "2 % of 20 ms would be 400 us"


def test_a_long_stretch_is_measured_from_mark_to_mark(host: Host) -> None:
    """A float32 of milliseconds holds no microseconds beyond some seconds: as the driver's is, so is this device's."""
    device = Device(host)
    device.single = True
    clock = CudaClock(device.event)
    clock.start()
    marks = []
    for _ in range(60):
        host.skip(3_000_000_000)
        marks.append(clock.mark())
    clock.resolve()
    late = [abs(mark.at - mark.host) for mark in marks]
    assert max(late) < 2_000, "a float32 of all the 180 s would be off by 7 us"


def test_marks_never_go_back(host: Host) -> None:
    device = Device(host)
    steps = itertools.cycle((0, -50_000))
    clock = CudaClock(device.event)
    marks = []
    for _ in range(6):
        device.behind = next(steps)
        marks.append(clock.mark())
    device.behind = 0
    clock.resolve()
    found = [mark.at for mark in marks]
    assert found == sorted(found)


def test_what_was_resolved_stays_and_the_next_stretch_begins_there(host: Host) -> None:
    clock = CudaClock(Device(host).event)
    first = clock.mark()
    clock.resolve()
    kept = first.at
    second = clock.mark()
    clock.resolve()
    assert first.at == kept
    assert second.at >= kept


def test_nothing_marked_is_nothing_resolved(host: Host) -> None:
    device = Device(host)
    CudaClock(device.event).resolve()
    assert device.synchronised == 0
    HostClock().resolve()


def test_the_host_reads_its_clock_when_the_work_is_done(host: Host) -> None:
    settled: list[int] = []
    clock = HostClock(lambda: settled.append(host()))
    marks = [clock.mark(), clock.mark()]
    assert all(done <= mark.at == mark.host for done, mark in zip(settled, marks, strict=True))
    assert make_clock("cpu").timed_by == "host"
    assert make_clock("cpu", timing=False).mark().at == 0


def test_who_sets_the_pace() -> None:
    waiting = [Mark(host=1_000_000 * step, at=1_000_000 * step + 8_000) for step in range(4)]
    behind = [Mark(host=1_000_000 * step, at=1_000_000 * step + 900_000) for step in range(12)]
    assert launch_bound_ratio(waiting) == 1.0
    assert launch_bound_ratio(behind) == 0.0
    assert launch_bound_ratio([*waiting, *behind]) == 0.25
    assert launch_bound_ratio([]) is None
    assert launch_bound_ratio([Mark(host=1)]) is None


@pytest.mark.cuda
@pytest.mark.skipif("not torch.cuda.is_available()", reason="needs a CUDA device")
def test_on_cuda_marks_agree_with_the_profilers_timestamps() -> None:
    """CUPTI, by way of the torch profiler, says when each kernel ended: the marks behind them say the same."""
    errors, stated = clock_errors("cuda")
    assert len(errors) == 200
    assert errors[198] < 20e-6, f"p99 {errors[198] * 1e6:.1f} us"
    assert stated < 20e-6
