"""A discrete-event model of a provider's engine: slots, a queue, other tenants' requests and their prefills."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field


@dataclass
class Hardware:
    """What the engine costs. Seconds."""

    fixed: float
    per_token: float
    """Prefill, s per uncached token."""
    bend: float
    """Prefill's quadratic term as a share of the linear one at 10,000 tokens."""
    itl: float
    """Time between tokens on an empty engine, s."""
    noise: float
    """Log-normal sigma of each prefill and each token."""
    slots: int = 8
    crowd: float = 0.1
    """How much a full batch slows each token."""


@dataclass
class Served:
    """One request as the engine saw it. Seconds."""

    queue: float
    prefill: float
    gaps: list[float] = field(default_factory=list[float])


class Engine:
    """Serves requests in order of arrival, ours among the other tenants'."""

    def __init__(self, hardware: Hardware, draw: random.Random, rate: float) -> None:
        """``rate``: other tenants' requests per second in calm times."""
        self.hardware = hardware
        self.draw = draw
        self.rate = rate
        self.calm_rate = rate
        self.neighbour_tokens = 300.0
        """Their mean prompt."""
        self._running: list[float] = []
        """When each running neighbour ends."""
        self._next = draw.expovariate(rate)

    def skip(self, to: float) -> None:
        """Begin the neighbours' traffic at ``to``."""
        self._next = to + self.draw.expovariate(self.rate)

    def hurry(self, at: float) -> None:
        """The rate went up at ``at``: draw the next arrival anew."""
        self._advance(at)
        self._next = at + self.draw.expovariate(self.rate)

    def crowd_in(self, at: float, until: float) -> None:
        """A burst of neighbours takes every slot at ``at``; the first one is free again at ``until``."""
        self._advance(at)
        while len(self._running) < self.hardware.slots:
            heapq.heappush(self._running, until)
        # Those that were already running are longer than they looked.
        self._running = [max(end, until + 0.01 * number) for number, end in enumerate(self._running)]
        heapq.heapify(self._running)

    def prefill_of(self, tokens: float) -> float:
        """The prefill of ``tokens`` without noise, s."""
        hardware = self.hardware
        return hardware.fixed + hardware.per_token * tokens * (1 + hardware.bend * tokens / 10_000)

    def serve(self, at: float, uncached: int, output: int) -> Served:
        """Run one request that arrives at ``at``."""
        hardware, draw = self.hardware, self.draw
        self._advance(at)
        now = at
        while len(self._running) >= hardware.slots:
            now = max(now, heapq.heappop(self._running))
        queue = now - at
        prefill = self.prefill_of(uncached) * draw.lognormvariate(0, hardware.noise)
        now += prefill
        gaps: list[float] = []
        for _ in range(output - 1):
            share = len(self._running) / hardware.slots
            gap = hardware.itl * (1 + hardware.crowd * share) * draw.lognormvariate(0, hardware.noise)
            while self._next < now + gap:  # a neighbour comes in: its prefill is a pause in everybody's tokens
                if len(self._running) < hardware.slots - 1:
                    gap += 0.5 * hardware.per_token * draw.expovariate(1 / self.neighbour_tokens)
                self._admit(self._next)
            now += gap
            gaps.append(gap)
            while self._running and self._running[0] < now:
                heapq.heappop(self._running)
        return Served(queue, prefill, gaps)

    def _advance(self, until: float) -> None:
        while self._next < until:
            self._admit(self._next)
        while self._running and self._running[0] < until:
            heapq.heappop(self._running)

    def _admit(self, at: float) -> None:
        while self._running and self._running[0] < at:
            heapq.heappop(self._running)
        if len(self._running) < self.hardware.slots - 1:
            heapq.heappush(self._running, at + self.draw.expovariate(1 / 1.5))
        self._next = at + self.draw.expovariate(self.rate)
