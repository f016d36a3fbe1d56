"""Marks at phase boundaries, on the clock of whatever does the work.

On CUDA a mark is an event on the stream: nothing waits, and the device notes the time when it gets there. At the end
of a request one synchronise lets all of them be read and mapped to this process's monotonic clock through an anchor.
Elsewhere a mark is a reading of the monotonic clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from llmtrace.observe.clock import now

__all__ = ["CudaClock", "DeviceClock", "HostClock", "make_clock"]


class DeviceClock(Protocol):
    """One request's marks, in order."""

    @property
    def timed_by(self) -> str:
        """`cuda`: the device's own events; `host`: the monotonic clock, read when the work had been done."""
        ...

    @property
    def error_ns(self) -> int:
        """Half width of the mapping from the device's clock to the monotonic one, ns; 0 on the host.

        Set by `resolve`.
        """
        ...

    def mark(self) -> None:
        """Note this moment of the work."""
        ...

    def resolve(self) -> list[int]:
        """All marks so far, ns on the monotonic clock, never decreasing.

        On a device this waits once, for the last mark.
        """
        ...


class HostClock:
    """Readings of the monotonic clock. `settle` waits for the device where work is queued (MPS); none on the CPU."""

    timed_by = "host"
    error_ns = 0

    def __init__(self, settle: Callable[[], None] | None = None) -> None:
        self._settle = settle
        self._marks: list[int] = []

    def mark(self) -> None:
        if self._settle is not None:
            self._settle()
        self._marks.append(now())

    def resolve(self) -> list[int]:
        return list(self._marks)


class CudaClock:
    """CUDA events on the current stream, N + 1 for N steps. `new_event` is for tests."""

    timed_by = "cuda"
    _ANCHOR_TRIES = 5

    def __init__(self, new_event: Callable[[], Any] | None = None) -> None:
        if new_event is None:
            import torch

            def timed_event() -> Any:
                return torch.cuda.Event(enable_timing=True)

            new_event = timed_event
        self._new_event = new_event
        self._events: list[Any] = []
        self.error_ns = 0

    def mark(self) -> None:
        event = self._new_event()
        event.record()
        self._events.append(event)

    def resolve(self) -> list[int]:
        if not self._events:
            return []
        self._events[-1].synchronize()
        anchor, anchored_at = self._anchor()
        marks: list[int] = []
        for event in self._events:
            moment = anchored_at - round(event.elapsed_time(anchor) * 1e6)
            marks.append(max(moment, marks[-1]) if marks else moment)
        return marks

    def _anchor(self) -> tuple[Any, int]:
        """An event and the monotonic time at which it happened, ns: bracketed a few times, the tightest kept."""
        best: tuple[int, Any, int] | None = None
        for _ in range(self._ANCHOR_TRIES):
            event = self._new_event()
            before = now()
            event.record()
            event.synchronize()
            after = now()
            if best is None or after - before < best[0]:
                best = (after - before, event, (before + after) // 2)
        assert best is not None
        self.error_ns = best[0] // 2
        return best[1], best[2]


def make_clock(device: str) -> DeviceClock:
    """A fresh clock for one request on this device."""
    if device.startswith("cuda"):
        return CudaClock()
    if device == "mps":
        import torch

        return HostClock(torch.mps.synchronize)
    return HostClock()
