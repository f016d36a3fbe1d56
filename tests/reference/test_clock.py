"""Device marks mapped to the monotonic clock, with a device made of numbers."""

from __future__ import annotations

import itertools

from llmtrace.observe.clock import now
from llmtrace.reference.clock import CudaClock, HostClock, make_clock


class Device:
    """A stream that runs `behind` ns after the host, on a clock of its own."""

    def __init__(self, behind: int = 0) -> None:
        self.behind = behind
        self.zero = 123_456_789
        self.synchronised = 0

    def event(self) -> Event:
        return Event(self)


class Event:
    def __init__(self, device: Device) -> None:
        self._device = device
        self.at = 0

    def record(self) -> None:
        self.at = now() + self._device.behind + self._device.zero

    def synchronize(self) -> None:
        self._device.synchronised += 1
        while now() + self._device.zero < self.at:
            pass

    def elapsed_time(self, end: Event) -> float:
        return (end.at - self.at) / 1e6


def test_marks_wait_for_nothing_and_map_to_when_the_device_got_there() -> None:
    device = Device(behind=3_000_000)
    clock = CudaClock(device.event)
    began = now()
    for _ in range(4):
        clock.mark()
    queued = now()
    assert device.synchronised == 0
    device.behind = 0
    marks = clock.resolve()
    assert device.synchronised > 0
    assert len(marks) == 4
    assert marks == sorted(marks)
    slack = clock.error_ns + 1_000
    assert began + 3_000_000 - slack <= marks[0] <= queued + 3_000_000 + slack
    assert clock.error_ns >= 0
    assert clock.timed_by == "cuda"


def test_marks_never_go_back() -> None:
    device = Device()
    steps = itertools.cycle((0, -50_000))
    clock = CudaClock(device.event)
    for _ in range(6):
        device.behind = next(steps)
        clock.mark()
    device.behind = 0
    marks = clock.resolve()
    assert marks == sorted(marks)


def test_nothing_marked_is_nothing_resolved() -> None:
    assert CudaClock(Device().event).resolve() == []
    assert HostClock().resolve() == []


def test_the_host_reads_its_clock_when_the_work_is_done() -> None:
    settled: list[int] = []
    clock = HostClock(lambda: settled.append(now()))
    clock.mark()
    clock.mark()
    assert all(done <= mark for done, mark in zip(settled, clock.resolve(), strict=True))
    assert make_clock("cpu").timed_by == "host"
