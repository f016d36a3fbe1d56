"""One measured call: what the client saw, what the engine knew, what llmtrace said. All durations in seconds."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

QUEUE, PREFILL, DECODE, NETWORK = "queue", "prefill", "decode", "network"
PHASES = (QUEUE, PREFILL, DECODE)
"""What is scored against bars."""

Range = tuple[float, float]
"""Lower and upper end of a 90 % interval."""


@dataclass(frozen=True, slots=True)
class Truth:
    """What the engine reported, None where it has no such number."""

    queue: float | None
    prefill: float | None
    """The copying of a cached prefix included."""
    decode: float | None
    network: float | None = None
    """From the call's start until the server had the request."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One method's split of one call, as its spans say it. A phase is None where it lies in a merged span."""

    network: float
    queue: float | None
    prefill: float | None
    """The copying of a cached prefix included."""
    decode: float | None = None
    ranges: dict[str, Range] = field(default_factory=dict[str, Range])
    """The 90 % interval by phase, of those phases that have one."""
    merged: float = 0.0
    """Length of the merged span, where there is one."""
    merged_of: tuple[str, ...] = ()
    """The phases that it merges."""
    because: str | None = None
    """Why it is merged, in llmtrace's word for it."""
    engine_queue: float | None = None
    """The queue by the engine's own definition, where that differs from what is exported."""
    lower_bound: bool = False
    """The method says that there may be more queue than it can see."""

    @property
    def split(self) -> bool:
        """Whether queue and prefill were told apart."""
        return self.queue is not None and self.prefill is not None

    def value(self, phase: str) -> float | None:
        """The length that the claim gives ``phase``: its own, else its equal part of the merged span it lies in."""
        own: float | None = getattr(self, phase)
        if own is not None or phase not in self.merged_of:
            return own
        return self.merged / len(self.merged_of)


@dataclass(frozen=True, slots=True)
class Measured:
    """One call. Moments are seconds since the call began, None where not seen."""

    cell: str
    """The key of the cell that it belongs to."""
    began: float
    """On the run's clock."""
    warm: bool
    """Past the warm-up: counts in the figures."""
    sent: float | None
    headers: float | None
    event: float | None
    """First event of the stream, with or without a token."""
    first: float | None
    """First token: the time to first token. None: the answer was not streamed."""
    end: float
    rtt: float | None
    prompt: int
    cached: int
    output: int
    truth: Truth
    claim: Claim
    """llmtrace's."""

    @property
    def uncached(self) -> int:
        """Prompt tokens that had to be computed."""
        return max(0, self.prompt - self.cached)

    @property
    def scale(self) -> float:
        """What errors are shares of: the time to first token; of a whole answer the total."""
        return self.end if self.first is None else self.first

    @property
    def arrived(self) -> float:
        """When the request reached the server, as far as the client can tell."""
        return min((self.sent or 0.0) + (self.rtt or 0.0) / 2, self.scale)

    def as_json(self) -> dict[str, Any]:
        """For the file of calls."""
        return asdict(self)


def from_json(row: dict[str, Any]) -> Measured:
    """The call that ``as_json`` wrote."""
    claim: dict[str, Any] = {**row["claim"], "merged_of": tuple(row["claim"]["merged_of"])}
    claim["ranges"] = {phase: (low, high) for phase, (low, high) in claim["ranges"].items()}
    return Measured(**{**row, "truth": Truth(**row["truth"]), "claim": Claim(**claim)})


def write(path: Path, facts: dict[str, Any], calls: Iterable[Measured]) -> None:
    """One JSON line of facts about the run, then one per call."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(facts), *(json.dumps(call.as_json()) for call in calls)]
    partial = path.with_suffix(".partial")
    partial.write_text("\n".join(lines) + "\n")
    partial.replace(path)


def read(path: Path) -> tuple[dict[str, Any], list[Measured]]:
    """What ``write`` wrote."""
    facts, *rows = path.read_text().splitlines()
    return json.loads(facts), [from_json(json.loads(row)) for row in rows]
