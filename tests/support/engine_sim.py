"""A continuous-batching engine in miniature, for truth: slots, a queue, steps that take in prompts and make tokens.

Each step computes up to ``budget`` prompt tokens (first come, first served) and one token for each stream under way;
it takes ``step`` s, plus ``per_token`` for each prompt token, plus ``per_stream`` for each stream. Who has no slot
waits. Everything the client sees is the engine's time plus the way there and back.
"""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass, field


@dataclass
class Simulated:
    """One call: the times that its client saw, and the true ones. Seconds."""

    sent: float
    uncached: int
    output: int
    headers: float = 0.0
    arrived: float = 0.0
    """When it reached the engine."""
    noticed: float = 0.0
    """When the step that ran at its arrival was over."""
    scheduled: float = math.nan
    first: float = math.nan
    end: float = math.nan
    queue: float = 0.0
    """From noticed until scheduled."""
    prefill: float = 0.0
    seen: bool = True
    """Whether our client made the call (False: another client)."""
    computed: int = 0
    made: int = 0
    tokens_at: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Engine:
    """Sizes of the simulated engine. Seconds."""

    slots: int = 1000
    step: float = 0.005
    per_token: float = 6e-5
    per_stream: float = 0.0003
    budget: int = 2048
    admission: float = 0.007
    hop: float = 0.0035
    """From the headers' sender to the engine and back, together."""
    jitter: float = 0.05

    def run(self, calls: list[Simulated], seed: int) -> None:
        """Simulate ``calls`` and fill in their times."""
        draw = random.Random(seed)
        for call in calls:
            way = self.admission * math.exp(draw.gauss(0, 0.15))
            call.headers = call.sent + way
            call.arrived = call.headers + self.hop / 2
        coming = [(call.arrived, i) for i, call in enumerate(calls)]
        heapq.heapify(coming)
        waiting: list[Simulated] = []
        running: list[Simulated] = []
        at = 0.0
        while coming or waiting or running:
            if not waiting and not running:
                at = max(at, coming[0][0])
            while coming and coming[0][0] <= at:
                call = calls[heapq.heappop(coming)[1]]
                call.noticed = at
                waiting.append(call)
            while waiting and len(running) < self.slots:
                running.append(waiting.pop(0))
            budget_left, prompts = self.budget, 0
            part: list[tuple[Simulated, int]] = []
            streams = [call for call in running if call.computed >= call.uncached]
            for call in running:
                if call.computed < call.uncached and budget_left:
                    if math.isnan(call.scheduled):
                        call.scheduled = at
                    taken_tokens = min(budget_left, call.uncached - call.computed)
                    budget_left, prompts = budget_left - taken_tokens, prompts + taken_tokens
                    part.append((call, taken_tokens))
            length = self.step + self.per_token * prompts + self.per_stream * len(streams)
            at += length * math.exp(draw.gauss(0, self.jitter))
            for call, taken_tokens in part:
                call.computed += taken_tokens
                if call.computed >= call.uncached:
                    call.first = at + self.hop / 2
                    call.queue = call.scheduled - call.noticed
                    call.prefill = at - call.scheduled
                    call.made = 1
            for call in streams:
                call.made += 1
            for call in [call for call in running if call.made >= call.output]:
                call.end = at + self.hop / 2
                running.remove(call)


def poisson(
    seed: int,
    calls: int,
    rate: float,
    *,
    shortest: int = 32,
    longest: int = 1024,
    outputs: tuple[int, ...] = (8, 16, 32),
) -> list[Simulated]:
    """Open-loop arrivals at ``rate`` a second, prompts log-uniform between ``shortest`` and ``longest`` tokens."""
    draw = random.Random(seed)
    at, arrivals = 0.0, []
    for _ in range(calls):
        at += draw.expovariate(rate)
        tokens = int(math.exp(draw.uniform(math.log(shortest), math.log(longest))))
        arrivals.append(Simulated(sent=at, uncached=tokens, output=draw.choice(outputs)))
    return arrivals
