"""One measured call: what the client saw, what the engine knew, what llmtrace said. All durations in seconds."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PLACE = "|"
"""Between engine, slots and load in a call's cell."""


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
    """One method's split of one call; queue and prefill None where it declared them unidentifiable."""

    network: float
    queue: float | None
    prefill: float | None
    decode: float | None = None
    queue_half: float | None = None
    """Half width of the 90 % interval, None where the method has none."""
    prefill_half: float | None = None
    lower_bound: bool = False
    """The method says that there may be more queue than it can see."""

    @property
    def split(self) -> bool:
        """Whether queue and prefill were told apart."""
        return self.queue is not None and self.prefill is not None


@dataclass(frozen=True, slots=True)
class Measured:
    """One streamed call. Moments are seconds since the call began, None where not seen."""

    cell: str
    began: float
    """On the run's clock."""
    warm: bool
    """Past the warm-up: counts in the error figures."""
    sent: float | None
    headers: float | None
    event: float | None
    """First event of the stream, with or without a token."""
    first: float
    """First token: the time to first token."""
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
    def arrived(self) -> float:
        """When the request reached the server, as far as the client can tell."""
        return min((self.sent or 0.0) + (self.rtt or 0.0) / 2, self.first)

    def as_json(self) -> dict[str, Any]:
        """For the file of calls."""
        return asdict(self)


def from_json(row: dict[str, Any]) -> Measured:
    """The call that ``as_json`` wrote."""
    return Measured(**{**row, "truth": Truth(**row["truth"]), "claim": Claim(**row["claim"])})


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
