"""Moments of a local model's work: CUDA events where it runs on CUDA, else readings of the monotonic clock.

torch is reached through what is imported already, so that tracing brings no import of its own.
"""

from __future__ import annotations

import sys
from typing import Any, Protocol

from llmtrace.observe.clock import now
from llmtrace.observe.device import take_anchor
from llmtrace.phases.model import CLIENT, DEVICE

_ANCHORS = 5


class EventTimer(Protocol):
    """The marks of one call, in order."""

    source: str
    """The clock that the marks are read from: ``device`` or ``client``."""
    error: float | None
    """Half width in seconds of the error in mapping marks to the monotonic clock; set by ``resolve``. None: no
    mapping."""

    def mark(self) -> None:
        """Mark this moment; never waits."""
        ...

    def resolve(self) -> list[int]:
        """All marks, in monotonic nanoseconds. On a device this waits for the last one."""
        ...


class HostTimer:
    """Readings of the monotonic clock: on the CPU the work is done when the code returns."""

    source = CLIENT
    error: float | None = None

    def __init__(self) -> None:
        self._marks: list[int] = []

    def mark(self) -> None:
        self._marks.append(now())

    def resolve(self) -> list[int]:
        return self._marks


class CudaTimer:
    """CUDA events on the current stream of the model's device."""

    source = DEVICE
    error: float | None = None

    def __init__(self, cuda: Any, device: Any) -> None:
        self._cuda = cuda
        self._device = device
        self._events: list[Any] = []

    def mark(self) -> None:
        event = self._new()
        self._record(event)
        self._events.append(event)

    def resolve(self) -> list[int]:
        self._events[-1].synchronize()
        anchor = take_anchor(self._new, self._record, _ANCHORS)
        self.error = anchor.half / 1e9
        return [anchor.at - round(event.elapsed_time(anchor.event) * 1e6) for event in self._events]

    def _new(self) -> Any:
        return self._cuda.Event(enable_timing=True)

    def _record(self, event: Any) -> None:
        event.record(self._cuda.current_stream(self._device))


def timer_on(model: Any) -> EventTimer:
    """A timer for one call of ``model``: of CUDA events where the model lies on CUDA, else of the host's clock."""
    device = getattr(model, "device", None)
    torch = sys.modules.get("torch")
    if torch is not None and getattr(device, "type", None) == "cuda":
        return CudaTimer(torch.cuda, device)
    return HostTimer()
