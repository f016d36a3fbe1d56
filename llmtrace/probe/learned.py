"""What the calls have shown so far. Each step adds to it as it goes, so that one that is cut short leaves its part."""

from __future__ import annotations

from dataclasses import dataclass, field

from llmtrace.probe.maths.bursts import Stream
from llmtrace.probe.maths.cache import Idle
from llmtrace.probe.maths.chunks import Window


@dataclass(frozen=True, slots=True)
class Reused:
    """A prompt whose beginning had been sent before."""

    shared: int
    """Tokens that had been sent before, as reckoned."""
    tokens: int
    """All its tokens."""
    cached: int | None
    """As the provider counts them; None where it does not."""
    ttft: float
    """s."""


@dataclass(slots=True)
class Burst:
    """Calls sent at once."""

    sent: int
    streams: list[Stream] = field(default_factory=list[Stream])
    """Those that were answered."""
    limited: int = 0
    """Those that were refused for the rate."""


@dataclass(slots=True)
class Learned:
    """All of it."""

    counts_tokens: bool | None = None
    """The provider tells usage; None: not asked yet."""
    counts_cached: bool = False
    prompts: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    """Uncached tokens and s to the first token, of prompts that nobody had sent before."""
    reused: list[Reused] = field(default_factory=list[Reused])
    answers: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    """Tokens of context and s per output token."""
    windows: list[Window] = field(default_factory=list[Window])
    bursts: list[Burst] = field(default_factory=list[Burst])
    idles: list[Idle] = field(default_factory=list[Idle])
    life_asked: bool = False
    jumped: int = 0
    """Idle times that were thrown away, since the clock had jumped or the machine slept."""
    round_trips: list[float] = field(default_factory=list[float])
    """s, from the kernel's own measure of each call's connection."""
    limits: dict[str, str] = field(default_factory=dict[str, str])
    """The rate limits that headers told."""
    longest: int = 0
    """Tokens of the longest prompt that was sent."""
    asked: set[str] = field(default_factory=set[str])
    """Steps that were begun."""
    ended: dict[str, str] = field(default_factory=dict[str, str])
    """Steps that did not come to their end, and why."""
