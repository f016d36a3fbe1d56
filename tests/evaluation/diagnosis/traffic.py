"""A route's traffic: habits drawn once, then call after call, calm or with faults, with the truth beside each."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from math import exp

from llmtrace.diagnosis import verdict as causes
from llmtrace.diagnosis.gathered import behind_headers
from llmtrace.diagnosis.repetition import repetition
from llmtrace.diagnosis.symptoms import Symptoms, symptoms_of
from llmtrace.observe.answer import ServerTimings, Usage
from llmtrace.phases.observation import Observation
from tests.evaluation.diagnosis.engine import Engine, Hardware

WORDS = [
    "the",
    "a",
    "of",
    "route",
    "token",
    "model",
    "answer",
    "prompt",
    "slow",
    "fast",
    "night",
    "river",
    "stone",
    "glass",
    "paper",
    "green",
    "seven",
    "under",
    "between",
]


STARVED, STAYS_STARVED = 0.04, 0.3
"""Share of the calls in which an application's own process gets no core for a while, on a machine of two cores that
computes the model too; and of those that follow one. As in 300 calls to vLLM, whose pauses were just as long as the
process stood in the run queue."""
WITHOUT_CORE = (0.05, 0.25)
"""How long, least and most, s."""
TICK = 0.004
"""Of the kernel's clock, s."""


@dataclass
class Habits:
    """What one route is like. Seconds."""

    hardware: Hardware
    rate: float
    rtt: float
    jitter: float
    """Mean of the exponential that each call's network adds."""
    modes: tuple[float, float]
    """A second mode of the network: share of calls, and what it adds."""
    early_headers: bool
    told: bool
    """The server reports queue and prefill."""
    prompt: float
    """Median of the prompts' own tokens."""
    spread: float
    shared: int
    """Tokens that every prompt begins with, cached."""
    expected: bool
    """The client's prefix history knows what should be cached."""
    output: int
    pause: float
    fingerprints: tuple[str, ...]
    upstreams: tuple[str, ...]
    """Who answers behind a gateway that tells it; none: no gateway does."""
    hold: float
    """What the application does with each chunk, s."""
    starved: bool = False
    """Its machine is so busy that now and then its own process gets no core for a while."""

    @property
    def usual_wait(self) -> float:
        """The wait for the first token of the median prompt, s."""
        return self.hardware.fixed + self.hardware.per_token * self.prompt


def draw_habits(draw: random.Random, bimodal: bool = False, told: bool | None = None) -> Habits:
    """A route at random: slow and fast hardware, near and far, with and without a cache, telling or not."""
    hardware = Hardware(
        fixed=draw.uniform(0.04, 0.3),
        per_token=draw.uniform(30e-6, 150e-6),
        bend=draw.uniform(0.0, 0.2),
        itl=draw.uniform(0.008, 0.04),
        noise=draw.uniform(0.02, 0.08),
        slots=draw.choice((8, 16, 32)),
    )
    return Habits(
        hardware=hardware,
        rate=draw.uniform(0.3, 1.2),
        rtt=draw.uniform(0.005, 0.12),
        jitter=draw.uniform(0.001, 0.008),
        modes=(0.14, 0.35) if bimodal else (0.0, 0.0),
        early_headers=draw.random() < 0.6,
        told=draw.random() < 0.3 if told is None else told,
        prompt=draw.uniform(400, 2000),
        spread=draw.uniform(0.3, 0.6),
        shared=draw.choice((0, 0, 4000, 16_000)),
        expected=draw.random() < 0.5,
        output=draw.randint(30, 80),
        pause=draw.uniform(0.5, 4),
        fingerprints=tuple(f"fp_{draw.getrandbits(32):08x}" for _ in range(draw.choice((1, 1, 2, 3, 4)))),
        upstreams=("alpha", "beta")[: draw.choice((0, 0, 0, 1, 2))],
        hold=draw.choice((0.0, 0.0, 0.0005)),
        starved=draw.random() < 0.2,
    )


@dataclass
class Faults:
    """What is wrong with a call; the defaults are nothing."""

    surge: float = 1.0
    """Fresh tokens, times the usual."""
    cold: bool = False
    queue: float = 0.0
    noisy: float = 0.0
    """What the neighbours add to each token, as a share."""
    stalls: bool = False
    """They add it as prefills that stall the stream, not as a larger batch."""
    network: float = 0.0
    hold: float = 0.0
    """What the application does with each chunk, s."""
    retries: int = 0
    model: str | None = None
    loop: int = 0
    """Pieces in one round of a repetition."""
    buffered: str = ""
    """``whole`` or ``bursts``."""
    moved: Habits | None = None
    """The route as it is elsewhere."""


@dataclass
class Made:
    """One call: what the client saw, and what was really wrong."""

    facts: Symptoms
    truth: frozenset[str]
    seen: Observation
    gaps: list[int] = field(default_factory=list[int])
    pieces: list[str] = field(default_factory=list[str])


class Traffic:
    """One route's calls, one after the other on a simulated clock."""

    def __init__(self, habits: Habits, draw: random.Random) -> None:
        self.habits = habits
        self.draw = draw
        self.engine = Engine(habits.hardware, draw, habits.rate)
        self.now = 10.0
        self._starved = False

    def move(self, habits: Habits) -> None:
        """The route leads elsewhere from now on."""
        self.habits = habits
        self.engine = Engine(habits.hardware, self.draw, habits.rate)
        self.engine.skip(self.now)

    def call(self, faults: Faults, truth: frozenset[str] = frozenset()) -> Made:
        """One call with ``faults``."""
        habits, draw, engine = self.habits, self.draw, self.engine
        self.now += habits.pause * draw.uniform(0.5, 1.5)
        start = self.now
        own = max(
            8,
            int(
                habits.prompt * draw.lognormvariate(0, habits.spread)
                if faults.surge == 1.0
                else habits.prompt * faults.surge
            ),
        )
        cached = 0 if faults.cold else habits.shared
        prompt = own + habits.shared
        retrying = sum(0.4 * 2**number * draw.uniform(0.75, 1.0) for number in range(faults.retries))
        attempt = start + retrying
        mode = habits.modes[1] * draw.uniform(0.9, 1.1) if draw.random() < habits.modes[0] else 0.0
        extra = draw.expovariate(1 / habits.jitter) + mode + faults.network
        rtt = habits.rtt * draw.uniform(0.95, 1.15) + (
            faults.network if draw.random() < 0.9 and not habits.early_headers else 0.0
        )
        sent = attempt + 0.0005
        arrives = sent + habits.rtt / 2
        if faults.queue:
            engine.crowd_in(arrives, arrives + faults.queue * draw.uniform(0.9, 1.1))
        hardware = habits.hardware
        output = max(20, int(habits.output * draw.lognormvariate(0, 0.3)))
        if faults.noisy and faults.stalls:
            # Four prefills a second, each a pause, so long that tokens take (1 + noisy) times as long altogether.
            pause = faults.noisy / (1 + faults.noisy) / 4
            engine.rate, engine.neighbour_tokens = 4.0, 2 * pause / hardware.per_token
            engine.hurry(arrives)
        elif faults.noisy:
            engine.hardware = replace(hardware, itl=hardware.itl * (1 + faults.noisy))
        served = engine.serve(arrives, prompt - cached, output)
        engine.rate, engine.neighbour_tokens, engine.hardware = engine.calm_rate, 300.0, hardware
        ready = arrives + served.queue + served.prefill
        times = [ready]
        for gap in served.gaps:
            times.append(times[-1] + gap)
        # The way back: the same for all of a call's chunks, but for some microseconds of jitter.
        back = habits.rtt / 2 + extra
        arrivals: list[float] = []
        for at in times:
            arrivals.append(max(at + back + draw.expovariate(1 / 0.0003), arrivals[-1] + 20e-6 if arrivals else 0.0))
        headers = (
            (sent + habits.rtt + extra + draw.uniform(0.001, 0.004)) if habits.early_headers else arrivals[0] - 0.0003
        )
        if faults.buffered == "whole":
            arrivals = [arrivals[-1] + 40e-6 * number for number in range(len(arrivals))]
        elif faults.buffered == "bursts":
            arrivals = _in_bursts(arrivals, draw.choice((5, 8, 12)))
        sends, segments = list(arrivals), len(arrivals)
        if faults.buffered:
            segments = 1 + len(arrivals) // 5  # as many chunks have room in one
        self._starved = habits.starved and draw.random() < (STAYS_STARVED if self._starved else STARVED)
        unread = pause = 0.0
        if self._starved:
            pause = draw.uniform(*WITHOUT_CORE)
            wakes = draw.uniform(sent, max(sent, arrivals[-1])) + pause
            unread = wakes - max((at for at in sends if at <= wakes), default=wakes)
            headers = wakes if wakes - pause < headers < wakes else headers
            arrivals = _without_core(arrivals, wakes - pause, wakes)
        hold = faults.hold or habits.hold
        read, gaps, held = _read(arrivals, hold)
        end = read[-1]
        self.now = end
        pieces = _pieces(draw, output, faults.loop)
        usage = Usage(prompt, output, cached)
        told = (
            ServerTimings("sim", queue=served.queue, prefill=served.prefill, decode=times[-1] - times[0])
            if habits.told
            else None
        )
        seen = Observation(
            start=_ns(attempt),
            end=_ns(end),
            streaming=True,
            attempted=True,
            sent=_ns(sent),
            headers=_ns(headers),
            rtt=habits.rtt,
            first_token=_ns(read[0]),
            first_output=_ns(read[0]),
            last_chunk=_ns(read[-1]),
            chunks=output,
            consumer_wait=held,
            usage=usage,
            server=told,
        )
        facts = symptoms_of(seen, gaps)
        if facts.ready_together:
            facts.behind_headers = behind_headers(seen, gaps)
            facts.segments = min(segments, facts.behind_headers)
            facts.unread = unread // TICK * TICK
        facts.no_core = pause
        facts.rtt = rtt
        facts.attempts = 1 + faults.retries
        facts.retrying = retrying
        facts.refusals = " ".join(["429"] * faults.retries)
        facts.asked = "sim-large"
        facts.answered = faults.model or "sim-large-2026-01-15"
        facts.fingerprint = draw.choice(habits.fingerprints)
        facts.upstream = draw.choice(habits.upstreams) if habits.upstreams else None
        facts.expected_cached = habits.shared if habits.expected else None
        facts.repetition = repetition(pieces[-64:]) if faults.loop or output >= 64 else None
        return Made(facts, truth, seen, gaps, pieces)


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)


def _in_bursts(arrivals: list[float], size: int) -> list[float]:
    """A proxy that hands on several chunks at once: each waits for the last of its burst."""
    bursts: list[float] = []
    for first in range(0, len(arrivals), size):
        burst = arrivals[first : first + size]
        bursts += [burst[-1] + 30e-6 * number for number in range(len(burst))]
    return bursts


def _without_core(arrivals: list[float], sleeps: float, wakes: float) -> list[float]:
    """A client that reads nothing between these two times, and then finds everything lying ready."""
    read: list[float] = []
    for at in arrivals:
        late = wakes if sleeps < at < wakes else at
        read.append(max(late, read[-1] + 80e-6) if read else late)
    return read


def _read(arrivals: list[float], hold: float) -> tuple[list[float], list[int], float]:
    """An application that holds each chunk for ``hold`` s: its reads, the gaps not its own, what it held."""
    read = [arrivals[0]]
    gaps: list[int] = []
    held = 0.0
    for at in arrivals[1:]:
        asked = read[-1] + hold
        came = max(at, asked + 15e-6)
        if hold > 0.0002 and came - asked < 0.001:
            held += asked - read[-1]
        else:
            gaps.append(_ns(came - read[-1]))
        read.append(came)
    return read, gaps, held


def _pieces(draw: random.Random, count: int, loop: int) -> list[str]:
    if loop:
        phrase = [" " + draw.choice(WORDS) for _ in range(loop)]
        lead = count // 4
        return [" " + draw.choice(WORDS) for _ in range(lead)] + [
            phrase[i % loop] for i in range(max(64, count - lead))
        ]
    return [" " + draw.choice(WORDS) + draw.choice(("", "s", "ly", ",")) for _ in range(count)]


def _delay(draw: random.Random, habits: Habits) -> float:
    """A time that matters on this route: 0.6 to 3 usual waits, at least 0.15 s."""
    return max(0.15, draw.uniform(0.6, 3.0) * habits.usual_wait)


def single(cause: str, draw: random.Random, habits: Habits) -> Faults:
    """Faults of one cause, of a size that matters on this route."""
    if cause == causes.PREFILL_SURGE:
        longest = exp(3 * habits.spread)  # of a thousand prompts, by the median
        matters = 1 + _delay(draw, habits) / (habits.hardware.per_token * habits.prompt)
        return Faults(surge=max(longest * draw.uniform(2, 5), matters))
    if cause == causes.COLD_KV_CACHE:
        return Faults(cold=True)
    if cause == causes.QUEUEING:
        return Faults(queue=_delay(draw, habits))
    if cause == causes.NOISY_NEIGHBOR:
        return Faults(noisy=draw.uniform(0.5, 2.0), stalls=draw.random() < 0.5)
    if cause == causes.NETWORK:
        return Faults(network=_delay(draw, habits))
    if cause == causes.SLOW_CONSUMER:
        return Faults(hold=habits.hardware.itl * draw.uniform(1.3, 4) + 0.002)
    if cause == causes.RETRY_STORM:
        return Faults(retries=draw.choice((2, 2, 3, 4)))
    if cause == causes.MODEL_SWAP:
        return Faults(model=draw.choice(("sim-large-mini", "sim-small-2026-03-01", "other-70b")))
    if cause == causes.REPETITION_LOOP:
        return Faults(loop=draw.randint(3, 20))
    if cause == causes.BUFFERED_STREAM:
        return Faults(buffered=draw.choice(("whole", "bursts")))
    if cause == causes.ROUTE_CHANGE:
        return Faults(moved=elsewhere(draw, habits, draw.choice((draw.uniform(0.45, 0.7), draw.uniform(1.4, 2.2)))))
    raise ValueError(cause)


def elsewhere(draw: random.Random, habits: Habits, factor: float) -> Habits:
    """Other machines: a fingerprint of their own, another round trip, everything takes ``factor`` times as long."""
    old = habits.hardware
    hardware = replace(old, itl=old.itl * factor, fixed=old.fixed * factor, per_token=old.per_token * factor)
    if habits.upstreams:  # the gateway is where it was, and says who answers
        return replace(habits, hardware=hardware, upstreams=("gamma",))
    away = max(0.004, habits.rtt + draw.choice((-1, 1)) * draw.uniform(0.03, 0.08))
    return replace(habits, hardware=hardware, rtt=away, fingerprints=(f"fp_{draw.getrandbits(32):08x}",))


def both(first: Faults, second: Faults) -> Faults:
    """The two together."""
    plain = Faults()
    changed = {
        name: value
        for faults in (first, second)
        for name, value in vars(faults).items()
        if value != getattr(plain, name)
    }
    return Faults(**changed)
