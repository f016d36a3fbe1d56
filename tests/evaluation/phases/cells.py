"""Cells: one kind of traffic, at one load, against one engine. Each starts on a route without history."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

WARM_UP = 30
"""Calls of a cell before its figures begin."""
WARM_UP_WHOLE = 60
"""The same for whole answers."""

TRAFFIC = {
    "alone": "this client alone, Poisson arrivals, streamed, usage told",
    "burst": "the same in bursts of four calls on average; live, every second prompt begins as some others do",
    "share30": "30 % of the load is this client's, the rest that of strangers: another process, without llmtrace",
    "share05": "5 % of the load is this client's",
    "tenants1": "one tenant alone",
    "tenants5": "one of 5 with equal shares",
    "tenants20": "one of 20",
    "chat": "six conversations that grow: each turn sends all before it again",
    "chat30": "the same, 30 % of the load",
    "whole": "answers not streamed",
    "whole30": "answers not streamed, 30 % of the load",
    "nousage": "streams without usage",
    "nousage30": "streams without usage, 30 % of the load",
    "mixed": "30 % of the calls carry an image that costs 250 ms of prefill and is in no count of tokens",
    "onelength": "prompts of one length, where nothing may be split",
    "standing": "a queue that never empties, so that a split is a lower bound",
    "regime": "prefill takes twice as long from a moment on: the 30 calls after it count",
}
"""The kinds of traffic."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What was played or sent, and against what."""

    source: str
    """recorded, simulation or live."""
    engine: str
    slots: str
    name: str
    traffic: str
    load: float
    """Share of what the engine can do, all clients together."""
    share: float
    """This client's share of the load."""
    admitted: bool = True
    """The engine's headers come when a request is admitted, and were recorded."""
    decides: bool = True
    """Its figures count for the bars."""
    note: str = ""
    twin: str = ""
    """The cell of the same calls with usage told."""
    capacity: float = 0.0
    """Calls/s that the engine completed for callers without pause; 0: not known."""
    failed: int = 0
    """Calls without an answer or without the engine's word."""
    why: str = ""
    """What the first of them failed of."""

    @property
    def key(self) -> str:
        """What the calls of this cell carry."""
        return f"{self.source}|{self.engine}|{self.slots}|{self.name}"

    @property
    def title(self) -> str:
        """For a table's first column."""
        return f"{self.source} {self.engine}, {self.slots}: {self.name}"

    def as_json(self) -> dict[str, Any]:
        """For the file of calls."""
        return asdict(self)


def warm_up(traffic: str) -> int:
    """How many calls of a cell are made before its figures begin."""
    return WARM_UP_WHOLE if traffic.startswith("whole") else WARM_UP
