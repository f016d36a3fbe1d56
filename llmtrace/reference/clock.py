"""Marks at the boundaries of work, on the clock of whatever does the work.

On CUDA a mark is an event on the stream: nothing waits, and the device notes the time when it gets there. N steps make
N + 1 marks. Once the device is through, one synchronise lets them be read and mapped to this process's monotonic clock
between two anchors: moments that both clocks know, each bracketed some dozen times and the tightest bracket kept.
Elsewhere a mark is a reading of the monotonic clock.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from llmtrace.observe.clock import now
from llmtrace.observe.device import Anchor, take_anchor

__all__ = ["CudaClock", "DeviceClock", "HostClock", "Mark", "NoClock", "launch_bound_ratio", "make_clock"]

_log = logging.getLogger("llmtrace.reference")


@dataclass(slots=True, eq=False)
class Mark:
    """A moment of the work. All times are ns on the monotonic clock."""

    host: int
    """When the host reached this moment. On a device the host is ahead of the work, or waits for it."""
    at: int | None = None
    """When the work reached this moment; None until the clock has resolved it."""
    event: Any = None
    known: int | None = None
    """When the host knew that the work had reached it, because it had waited for what comes of it; None: it did not."""


class DeviceClock(Protocol):
    """The marks of one stream of work, in order. Not thread-safe: the stream's thread owns it."""

    @property
    def timed_by(self) -> str:
        """`cuda`: the device's own events; `host`: the monotonic clock, read when the work had been done.

        It is that of the marks which were resolved last.
        """
        ...

    @property
    def error_ns(self) -> int:
        """Half width in ns of the mapping from the device's clock to the monotonic one; 0 on the host.

        It is that of the marks which were resolved last.
        """
        ...

    def start(self) -> None:
        """Compare the clocks, if need be: the work begins, after a pause or for the first time."""
        ...

    def mark(self) -> Mark:
        """Mark this moment of the work."""
        ...

    def resolve(self) -> None:
        """Fill in `at` of all marks so far, never decreasing. On a device this waits once, for the last mark."""
        ...


class HostClock:
    """Readings of the monotonic clock. `settle` waits for the device where work is queued (MPS); none on the CPU."""

    timed_by = "host"
    error_ns = 0

    def __init__(self, settle: Callable[[], None] | None = None) -> None:
        self._settle = settle

    def start(self) -> None:
        pass

    def mark(self) -> Mark:
        if self._settle is not None:
            self._settle()
        moment = now()
        return Mark(moment, moment)

    def resolve(self) -> None:
        pass


class NoClock:
    """A clock whose marks cost nothing and hold no time, to measure what timing costs."""

    timed_by = "host"
    error_ns = 0

    def __init__(self) -> None:
        self._mark = Mark(0, 0)

    def start(self) -> None:
        pass

    def mark(self) -> Mark:
        return self._mark

    def resolve(self) -> None:
        pass


class CudaClock:
    """CUDA events on the stream that computes.

    `new_event`, `tries` and `patience` are for tests. Between two anchors device time is stretched evenly, so that a
    clock that runs fast or slow does no harm; `drift` says by how much it was stretched.

    Where an event fails, or is not reached within `patience` s though the work is over, the host's times stand, and
    from then on it is a host's clock: what is timed goes on, whatever becomes of the timing.
    """

    TRIES = 32
    """Brackets per anchor. The tightest counts: a bracket is wide where the host was interrupted, never too narrow."""
    _RELAY_NS = 4_000_000_000
    """`elapsed_time` is a float32 of milliseconds: beyond some 8 s it no longer tells microseconds apart, so a long
    stretch is measured from mark to mark."""

    def __init__(
        self,
        new_event: Callable[[], Any] | None = None,
        tries: int = TRIES,
        *,
        stream: Any = None,
        patience: float = 60.0,
    ) -> None:
        """`stream`: the one that computes (default: the current one)."""
        if new_event is None:
            import torch

            def timed_event() -> Any:
                return torch.cuda.Event(enable_timing=True)

            new_event = timed_event
        self._new_event = new_event
        self._on = () if stream is None else (stream,)
        self._tries = tries
        self._patience = round(patience * 1e9)
        self.timed_by = "cuda"
        self._anchor: Anchor | None = None
        self._open: list[Mark] = []
        self.error_ns = 0
        self.drift = 0.0
        """The ratio of monotonic time to device time between the last two anchors, minus 1."""

    def start(self) -> None:
        if not self._open and self.timed_by == "cuda":
            try:
                self._anchor = self._take_anchor()
            except RuntimeError as error:
                self._give_up(error)

    def mark(self) -> Mark:
        if self._anchor is None:
            self.start()
        mark = Mark(now())
        if self.timed_by == "cuda":
            try:
                mark.event = self._new_event()
                mark.event.record(*self._on)
            except RuntimeError as error:
                self._give_up(error)
        self._open.append(mark)
        return mark

    def resolve(self) -> None:
        if not self._open:
            return
        marks, self._open = self._open, []
        if self.timed_by == "cuda":
            try:
                self._map(marks)
            except RuntimeError as error:
                self._give_up(error)
        last = 0
        for mark in marks:
            if self.timed_by == "host":
                mark.at = mark.known or mark.host
            last = mark.at = max(last, mark.at or 0)
            mark.event = None

    def _map(self, marks: Sequence[Mark]) -> None:
        """Fill in `at` of all of these. Raises `RuntimeError` where the events do not tell."""
        begin = self._anchor
        assert begin is not None
        self._wait_for(marks[-1].event)
        end = self._take_anchor()
        offsets = self._offsets(begin.event, [*(mark.event for mark in marks), end.event])
        whole = offsets[-1]
        stretch = (end.at - begin.at) / whole if whole > 0 else 1.0
        self.drift = stretch - 1.0
        self.error_ns = max(begin.half, end.half)
        for mark, offset in zip(marks, offsets, strict=False):
            mark.at = max(begin.at, begin.at + round(offset * stretch))
        self._anchor = end

    def _wait_for(self, event: Any) -> None:
        """Wait until the device has reached it; the runner has waited for the work before it, so that it has."""
        deadline = now() + self._patience
        while not event.query():
            if now() > deadline:
                raise RuntimeError("a mark was not reached, though what is behind it is done")
            time.sleep(50e-6)

    def _give_up(self, error: RuntimeError) -> None:
        _log.warning("the device's clock cannot be read, so times are the host's from here on: %s", error)
        self.timed_by, self.error_ns, self._anchor = "host", 0, None

    def _offsets(self, start: Any, events: Sequence[Any]) -> list[float]:
        """Device time from `start` to each event, ns, exact over long stretches too."""
        offsets: list[float] = []
        reference, base = start, 0.0
        for event in events:
            offset = base + float(reference.elapsed_time(event)) * 1e6
            offsets.append(offset)
            if offset - base > self._RELAY_NS:
                reference, base = event, offset
        return offsets

    def _take_anchor(self) -> Anchor:
        return take_anchor(self._new_event, lambda event: event.record(*self._on), self._tries)


def launch_bound_ratio(marks: Sequence[Mark], slack_ns: int = 50_000) -> float | None:
    """The share of these marks that the device reached as soon as the host had launched them.

    There the device had nothing left to do: the host, not the device, set the pace. `slack_ns` is how long a launch
    takes to reach an idle device. None without resolved marks.
    """
    reached = [mark.at - mark.host for mark in marks if mark.at is not None]
    return sum(late < slack_ns for late in reached) / len(reached) if reached else None


def make_clock(device: str, *, timing: bool = True, stream: Any = None) -> DeviceClock:
    """A fresh clock for the work of one thread on this device.

    `stream` is the one that computes, on CUDA; by default that device's current one, which is not the current device's
    where that is another.
    """
    if not timing:
        return NoClock()
    if device.startswith("cuda"):
        import torch

        return CudaClock(stream=torch.cuda.current_stream(device) if stream is None else stream)
    if device == "mps":
        import torch

        return HostClock(torch.mps.synchronize)
    return HostClock()
