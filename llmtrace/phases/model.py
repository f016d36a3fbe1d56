"""The words of the span contract's phases, and one phase as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

SCHEMA_VERSION: Final = 1

NETWORK: Final = "network"
QUEUE: Final = "queue"
KV_CACHE_HIT: Final = "kv_cache_hit"
PREFILL: Final = "prefill"
DECODE: Final = "decode"
QUEUE_PREFILL: Final = "queue_prefill"
OPAQUE: Final = "opaque"

PHASES: Final = (NETWORK, QUEUE, KV_CACHE_HIT, PREFILL, DECODE, QUEUE_PREFILL, OPAQUE)

DEVICE: Final = "device"
SERVER: Final = "server"
CLIENT: Final = "client"
ESTIMATE: Final = "estimate"

SOURCES: Final = (DEVICE, SERVER, CLIENT, ESTIMATE)


@dataclass(slots=True)
class Part:
    """A stretch inside a phase: reasoning or output inside decode. Times are monotonic ns."""

    name: str
    start: int
    end: int


@dataclass(slots=True)
class Phase:
    """One phase of a call. Times are monotonic ns; durations and uncertainty float seconds."""

    name: str
    start: int
    end: int
    source: str
    uncertainty: float | None = None
    """Half width of the 90 % interval, s; None where the source is exact."""
    tokens: int | None = None
    """What the phase handled: uncached prompt tokens, cached ones, or output tokens."""
    per_token: float | None = None
    """Seconds per token, the phase by its own driver."""
    server_duration: float | None = None
    """What the server said of this phase where the client's own clock sets its length, s."""
    time_saved: float | None = None
    """kv_cache_hit: prefill time that the hit spared, s."""
    parts: Sequence[Part] = ()
    extra: Mapping[str, Any] | None = None
    """Further span attributes, by name."""

    @property
    def duration(self) -> float:
        """Seconds."""
        return (self.end - self.start) / 1e9
