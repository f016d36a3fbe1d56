"""Failures on demand, for tests and demos; only on a server that was started to allow them.

The request names its fault in `x-llmtrace-fault`, and may name a key in `x-llmtrace-fault-key`:

- `429;times=2` (any status from 400 to 599): the first two requests with this key get that status, later ones go
  through.
  `;retry-after=0.2` sets the wait that the answer asks for, s.
- `error-after=5`: a stream sends an error event after 5 tokens, and ends; a body that is not streamed is a 500.
- `drop-after=5`: the connection is closed after 5 tokens, in the middle of the response.
- `crash-after=5`: the generation itself raises after 5 tokens.
- `run-on`: nothing fails, but a client that leaves is not noticed: its answer is made to its end.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from llmtrace.reference.protocol import BadRequest

__all__ = ["Fault", "FaultBook"]

_FORMS = "429;times=2, error-after=N, drop-after=N, crash-after=N or run-on"


@dataclass(frozen=True)
class Fault:
    """The failure of one request. Counts are output tokens."""

    status: int | None = None
    times: int = 1
    retry_after: float = 0.1
    error_after: int | None = None
    drop_after: int | None = None
    crash_after: int | None = None
    run_on: bool = False


class FaultBook:
    """Reads the fault header, and remembers how often each key was refused. The oldest keys are forgotten."""

    _MOST_KEYS = 10_000

    def __init__(self) -> None:
        self._refused: OrderedDict[str, int] = OrderedDict()

    def due(self, header: str | None, key: str | None) -> Fault | None:
        """The fault that this request gets now, if any. Raises `BadRequest` for a header that says nothing known."""
        if not header:
            return None
        fault = _read(header)
        if fault.status is None:
            return fault
        name = f"{key or ''}\n{header}"
        count = self._refused.get(name, 0)
        if count >= fault.times:
            return None
        self._refused[name] = count + 1
        while len(self._refused) > self._MOST_KEYS:
            self._refused.popitem(last=False)
        return fault


def _read(header: str) -> Fault:
    head, *rest = (part.strip() for part in header.split(";"))
    options: dict[str, str] = {}
    for part in rest:
        name, _, value = part.partition("=")
        options[name.strip()] = value.strip()
    try:
        if head.isdigit() and 400 <= int(head) <= 599:
            return Fault(
                status=int(head),
                times=int(options.get("times", "1")),
                retry_after=float(options.get("retry-after", "0.1")),
            )
        if head == "run-on":
            return Fault(run_on=True)
        kind, _, after = head.partition("=")
        if kind in ("error-after", "drop-after", "crash-after") and int(after) >= 0:
            counts: dict[str, Any] = {kind.replace("-", "_"): int(after)}
            return Fault(**counts)
    except ValueError:
        pass
    raise BadRequest(f"x-llmtrace-fault: cannot read {header!r}; known are {_FORMS}", param="x-llmtrace-fault")
