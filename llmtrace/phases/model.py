"""The words of the span contract's phases, one phase as data, and what an estimate says of a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

SCHEMA_VERSION: Final = 2

NETWORK: Final = "network"
GATEWAY: Final = "gateway"
UNATTRIBUTED: Final = "unattributed"
MODEL_LOAD: Final = "model_load"
QUEUE: Final = "queue"
KV_CACHE_HIT: Final = "kv_cache_hit"
PREFILL: Final = "prefill"
DECODE: Final = "decode"
QUEUE_PREFILL: Final = "queue_prefill"
OPAQUE: Final = "opaque"

PHASES: Final = (
    NETWORK, GATEWAY, UNATTRIBUTED, MODEL_LOAD, QUEUE, KV_CACHE_HIT, PREFILL, DECODE, QUEUE_PREFILL, OPAQUE,
)  # fmt: skip
"""In the order in which they follow each other; the merged ones last."""

DOWNLOAD: Final = "download"
READ: Final = "read"
TO_DEVICE: Final = "to_device"
COMPILE: Final = "compile"
WARM_UP: Final = "warm_up"

LOAD_PARTS: Final = (DOWNLOAD, READ, TO_DEVICE, COMPILE, WARM_UP)
"""What loading a model is made of, as far as it is told."""

DEVICE: Final = "device"
SERVER: Final = "server"
CLIENT: Final = "client"
ESTIMATE: Final = "estimate"

SOURCES: Final = (DEVICE, SERVER, CLIENT, ESTIMATE)

NO_USAGE: Final = "no_usage"
FEW_CALLS: Final = "few_calls"
NARROW_SPREAD: Final = "narrow_spread"
BUFFERED: Final = "buffered"
NO_STREAM: Final = "no_stream"
CUT_SHORT: Final = "cut_short"
AMBIGUOUS: Final = "ambiguous"

REASONS: Final = (NO_USAGE, FEW_CALLS, NARROW_SPREAD, BUFFERED, NO_STREAM, CUT_SHORT, AMBIGUOUS)
"""Why phases are merged."""


class Unknown(NamedTuple):
    """Why the phases of a call cannot be told apart."""

    reason: str
    """One of ``REASONS``."""
    detail: str
    """The same in plain English, with the figures and what would help."""


@dataclass(slots=True, eq=False, repr=False)
class Estimate:
    """Where one call's time from the request's arrival to its first token (of a whole answer: to its end) went, by the
    route's earlier calls.

    All durations in seconds.
    """

    prefill: float
    """Computing its own prompt (a cache hit included), with the steps of others in between."""
    queue: float = 0.0
    """Waiting to be scheduled, without the step that was running when it came."""
    step_wait: float = 0.0
    """Waiting for that step to end."""
    step_apart: bool = False
    """The engine does not count that as queue (``server.STEP_APART``): it then stands in what is unattributed."""
    admission: float = 0.0
    """Between the request's arrival and the engine: the HTTP server, tokenising, hand-over, and the answer's way."""
    admission_uncertainty: float = 0.0
    """Half width of its 90 % interval."""
    per_token: float = 0.0
    """The curve's slope, s per uncached token."""
    uncertainty: float = 0.0
    """Half width of the 90 % interval of prefill."""
    queue_uncertainty: float = 0.0
    """Half width of the 90 % interval of ``step_wait`` + ``queue``."""
    queue_low: float | None = None
    queue_high: float | None = None
    """How much shorter and longer they may have been, where the interval has two sides."""
    prefill_low: float | None = None
    prefill_high: float | None = None
    """The same of prefill."""
    decode: float | None = None
    """A whole answer's time after its first token, which nobody saw; None of a stream."""
    decode_low: float = 0.0
    decode_high: float = 0.0
    """How much shorter and longer that may have been."""
    calls: int = 0
    """Calls of the route that it rests on."""
    lower_bound: bool = False
    """The queue is at least this long: a part that is the same for every call cannot be told from fixed cost."""
    limit: int | None = None
    """Calls that the engine runs at once, as far as this client has seen it."""
    anchor: str = "first_token"
    """The first moment that the client sees with prefill in front of it: headers, first_event or first_token."""

    @property
    def queued(self) -> float:
        """The queue as it is exported, s: by the engine's own definition, where that is known."""
        return self.queue if self.step_apart else self.step_wait + self.queue

    @property
    def before_engine(self) -> float:
        """What is exported in front of it, s."""
        return self.admission + self.step_wait if self.step_apart else self.admission

    def queue_sides(self) -> tuple[float, float]:
        """How much shorter and longer ``step_wait`` + ``queue`` may be, s."""
        return _sides(self.queue_uncertainty, self.queue_low, self.queue_high)

    def prefill_sides(self) -> tuple[float, float]:
        """How much shorter and longer prefill may be, s."""
        return _sides(self.uncertainty, self.prefill_low, self.prefill_high)


def _sides(half: float, low: float | None, high: float | None) -> tuple[float, float]:
    """Both sides of an interval: its half width where they are not told."""
    return half if low is None else low, half if high is None else high


@dataclass(slots=True)
class Blind:
    """What the estimate says of a phase whose length the engine told. All in seconds."""

    duration: float
    low: float
    """How much shorter the phase may have been, by the estimate's 90 % interval."""
    high: float
    """How much longer."""
    error: float
    """The estimate less what the engine told: above 0 where it says too much."""


class Part(NamedTuple):
    """A stretch inside a phase: reasoning or output inside decode, a part of a model's load. Times are monotonic ns."""

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
    """Half width of the 90 % interval, s; of an interval with two different sides, the wider one. None where the
    source is exact."""
    uncertainty_low: float | None = None
    """How much shorter the phase may have been, s; only where that differs from how much longer."""
    uncertainty_high: float | None = None
    """How much longer it may have been, s; only beside ``uncertainty_low``."""
    tokens: int | None = None
    """What the phase handled: uncached prompt tokens, cached ones, or output tokens."""
    per_token: float | None = None
    """Seconds per token, the phase by its own driver."""
    server_duration: float | None = None
    """What the server said of this phase where the client's own clock sets its length, s."""
    time_saved: float | None = None
    """kv_cache_hit: prefill time that the hit spared, s."""
    admission: float | None = None
    """unattributed: the part of it that was estimated, between the request's arrival and the engine, s."""
    merged_because: str | None = None
    """queue_prefill, opaque: why their parts are not told apart; one of ``REASONS``."""
    merged_detail: str | None = None
    """The same in plain English, with the figures and what would help."""
    blind: Blind | None = None
    """queue, prefill that the engine told: what the estimate says of them, where one was made for the call."""
    parts: Sequence[Part] = ()
    extra: Mapping[str, Any] | None = None
    """Further span attributes, by name."""

    @property
    def duration(self) -> float:
        """Seconds."""
        return (self.end - self.start) / 1e9

    @property
    def middle(self) -> int:
        """The moment half way through it: where an event about it is seen best."""
        return (self.start + self.end) // 2
