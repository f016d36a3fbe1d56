"""One engine under load: the blind client's word beside the engine's, call by call.

Each cell starts on a route without history: llmtrace is switched on for it and off again after it.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import format_trace_id

import llmtrace
from llmtrace.calls import tracer
from llmtrace.calls.result import Result
from tests.evaluation.phases import strangers
from tests.evaluation.phases.arrivals import LONGEST, Prompts, bursty, poisson
from tests.evaluation.phases.blindfold import Word
from tests.evaluation.phases.cells import Cell, warm_up
from tests.evaluation.phases.claims import claim_of
from tests.evaluation.phases.drive import Driver
from tests.evaluation.phases.engines import SLOTS, Engine
from tests.evaluation.phases.measured import Claim, Measured

PLANS: dict[str, tuple[tuple[str, float, float, float], ...]] = {
    "reference": (
        ("alone", 0.3, 1.0, 1),
        ("alone", 0.7, 1.0, 1),
        ("alone", 0.9, 1.0, 1),
        ("share30", 0.6, 0.3, 2),
        ("share30", 0.9, 0.3, 1.5),
        ("whole", 0.7, 1.0, 1),
        ("whole30", 0.6, 0.3, 2),
        ("chat", 0.6, 1.0, 1),
        ("nousage", 0.7, 1.0, 1),
        ("burst", 0.6, 1.0, 1),
    ),
    "vllm": (
        ("alone", 0.3, 1.0, 1),
        ("alone", 0.7, 1.0, 1),
        ("alone", 0.9, 1.0, 1),
        ("share30", 0.6, 0.3, 2),
        ("share30", 0.9, 0.3, 2),
        ("whole", 0.7, 1.0, 1),
        ("whole30", 0.6, 0.3, 1.5),
        ("chat", 0.6, 1.0, 1),
        ("chat30", 0.6, 0.3, 1.5),
        ("nousage", 0.7, 1.0, 1),
        ("burst", 0.6, 1.0, 1),
        ("share05", 0.7, 0.05, 1),
    ),
    "llama": (
        ("alone", 0.3, 1.0, 1),
        ("alone", 0.7, 1.0, 1),
        ("chat", 0.6, 1.0, 1),
        ("whole", 0.7, 1.0, 1),
        ("nousage", 0.7, 1.0, 1),
    ),
}
"""Kind of traffic, load, this client's share of it, and how much of the time the cell may take beside others."""
FEWEST, MOST = 25, 120
"""Calls of a cell past its warm-up."""
_CAPACITY_S, _WARMING_S = 6.0, 1.5
_LONGEST = 1.5
"""A cell's calls are given up after so many times its plan: a machine busy otherwise makes them wait."""
_GRACE_S = 20.0

Say = Callable[[str, float], None]
"""What goes on, and seconds of it done since the last word."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One cell to come."""

    cell: Cell
    rate: float
    """Calls/s of this client."""
    others: float
    """Calls/s of the strangers."""
    count: int
    """Calls of this client, the warm-up among them."""

    @property
    def seconds(self) -> float:
        """How long its calls take to arrive."""
        return self.count / self.rate


def cells(engine: str) -> Iterator[tuple[Cell, float]]:
    """Every cell against one engine, and its weight; nothing is measured yet."""
    twins = {"nousage": "alone"}
    for traffic, load, share, weight in PLANS[engine]:
        made = Cell("live", engine, f"{SLOTS} slots", f"{traffic} {load:g}", traffic, load, share)
        twin = f"{twins[traffic]} {load:g}" if traffic in twins else ""
        yield replace(made, twin=replace(made, name=twin).key if twin else ""), weight


def plan(
    wanted: Sequence[tuple[Cell, float]], capacity: dict[str, float], seconds: float, fewest: int | None = None
) -> tuple[list[Planned], list[Cell]]:
    """As many calls of each cell as fit into ``seconds``, and the cells that there is no time for.

    Each cell has its fewest calls; what time is left goes to all of them by their weights, as far as they can use it.
    ``fewest``: calls of each cell in all (default: its warm-up and ``FEWEST`` that count).
    """

    def within(some: Sequence[tuple[Cell, float]], each: float) -> list[Planned]:
        return [_planned(cell, capacity, each * weight, fewest) for cell, weight in some]

    def taken(made: Sequence[Planned]) -> float:
        return sum(one.seconds for one in made)

    kept, left_out = list(wanted), list[Cell]()
    while taken(dearest := within(kept, 0.0)) > seconds:
        worst = max(dearest, key=lambda one: one.seconds).cell.key
        left_out += [cell for cell, _ in kept if cell.key == worst]
        kept = [(cell, weight) for cell, weight in kept if cell.key != worst]
    low, high = 0.0, seconds
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if taken(within(kept, middle)) <= seconds else (low, middle)
    return within(kept, low), left_out


def _planned(cell: Cell, capacity: dict[str, float], seconds: float, fewest: int | None) -> Planned:
    able = capacity[kind_of(cell.traffic)]
    rate = able * cell.load * cell.share
    warm = warm_up(cell.traffic)
    least = warm + FEWEST if fewest is None else fewest
    count = min(max(int(seconds * rate), least), warm + MOST)
    return Planned(replace(cell, capacity=able), rate, able * cell.load * (1 - cell.share), count)


def kind_of(traffic: str) -> str:
    """What the capacity is measured with."""
    return "chat" if traffic.startswith("chat") else "alone"


def capacities(engine: Engine, kinds: Sequence[str], draw: random.Random, say: Say) -> tuple[float, dict[str, float]]:
    """Words per token of the server's tokenizer, and calls/s that it completes of each kind of traffic."""

    async def measure() -> tuple[float, dict[str, float]]:
        async with Driver(engine.base_url, engine.model) as driver:
            words = await driver.words_per_token(Prompts(draw, 1.0, longest=400).one(400))
            able: dict[str, float] = {}
            for kind in kinds:
                say(f"{engine.title}: capacity", 0.0)
                asks = Prompts(draw, words).of(kind)
                await driver.capacity(asks, 2 * SLOTS, _WARMING_S)  # what is slow the first time is no capacity
                able[kind] = await driver.capacity(asks, 2 * SLOTS, _CAPACITY_S)
                say(f"{engine.title}: capacity", _CAPACITY_S + _WARMING_S)
            return words, able

    return asyncio.run(measure())


def play(engine: Engine, planned: Planned, words: float, draw: random.Random, say: Say) -> tuple[Cell, list[Measured]]:
    """The calls of one cell, with strangers beside them where it has any."""
    cell = replace(planned.cell, admitted=engine.admitted)
    listener = Listener(whole_queue=engine.whole_queue)
    seeds = draw.randrange(1 << 30), draw.randrange(1 << 30)
    mine = random.Random(seeds[0])
    provider = TracerProvider()
    driver = Driver(
        engine.base_url,
        engine.model,
        streamed="whole" not in cell.traffic,
        usage="nousage" not in cell.traffic,
        host=engine.host,
    )
    with strangers.sending(
        engine.base_url, engine.model, kind_of(cell.traffic), planned.others, words, seeds[1], LONGEST
    ) as sent:
        llmtrace.instrument("openai", tracer_provider=provider, server_timings=False)
        tracer.listeners.append(listener)
        try:
            asyncio.run(_send(driver, planned, words, mine, say, f"{engine.title}: {cell.name}"))
        finally:
            tracer.listeners.remove(listener)
            llmtrace.uninstrument("openai")
            provider.shutdown()
    arrived: dict[str, float] = {}
    with suppress(OSError):  # the server is gone: the run is being stopped
        arrived = engine.arrivals()
    calls = listener.calls(cell, driver.blindfold.words, arrived, planned.count)
    lost = planned.count - len(calls)
    if sent.calls:
        cell = replace(cell, note=f"strangers sent {sent.calls} calls, of which {sent.failed} failed")
    return replace(cell, failed=lost, why=next(iter(driver.failed), "")), calls


async def _send(driver: Driver, planned: Planned, words: float, draw: random.Random, say: Say, title: str) -> None:
    say(title, 0.0)
    kind = bursty if planned.cell.traffic == "burst" else poisson
    moments = kind(draw, planned.rate, planned.count)
    asks = list(itertools.islice(Prompts(draw, words).of(planned.cell.traffic), planned.count))
    async with driver:
        most = max(moments[-1], planned.seconds) * _LONGEST + _GRACE_S
        await driver.open_loop(moments, asks, lambda count: say(title, count / planned.rate), most)


@dataclass(frozen=True, slots=True)
class _Heard:
    """One ended call, as llmtrace saw and judged it."""

    answer: str
    trace: str
    call: dict[str, Any]
    claim: Claim
    start: int
    """Epoch ns."""


class Listener:
    """Collects ended calls; put it into ``llmtrace.calls.tracer.listeners``."""

    def __init__(self, *, whole_queue: bool) -> None:
        """``whole_queue``: see ``claims.claim_of``."""
        self.whole_queue = whole_queue
        self._heard: list[_Heard] = []
        self._lock = threading.Lock()

    def __call__(self, ended: Result) -> None:
        """Take in one ended call; one without an answer is nobody's to judge."""
        seen, start = ended.seen, ended.call.start
        if ended.answer.id is None or (seen.streaming and seen.first_token is None):
            return

        def since(moment: int | None) -> float | None:
            return None if moment is None else (moment - start) / 1e9

        call = {
            "began": time.monotonic() - (time.perf_counter_ns() - start) / 1e9,
            "sent": since(seen.sent),
            "headers": since(seen.headers),
            "event": since(ended.call.first_chunk),
            "first": since(seen.first_token) if seen.streaming else None,
            "end": (seen.end - start) / 1e9,
            "rtt": seen.rtt,
        }
        claim = claim_of(ended, whole_queue=self.whole_queue)
        trace = format_trace_id(ended.state.span.get_span_context().trace_id)
        with self._lock:
            self._heard.append(_Heard(ended.answer.id, trace, call, claim, ended.call.to_epoch(start)))

    def calls(self, cell: Cell, words: dict[str, Word], arrived: dict[str, float], planned: int) -> list[Measured]:
        """The calls of which the engine told the truth, in the order of their beginning.

        ``arrived``: when requests reached the server, epoch s by trace id.
        """
        made: list[Measured] = []
        for number, heard in enumerate(sorted(self._heard, key=lambda each: each.start)):
            word = words.get(heard.answer)
            if word is None:
                continue
            there = arrived.get(heard.trace)
            network = None if there is None else max(0.0, there - heard.start / 1e9)
            made.append(
                Measured(
                    cell=cell.key,
                    warm=number >= min(warm_up(cell.traffic), planned // 2),
                    prompt=word.prompt,
                    cached=word.cached,
                    output=word.output,
                    truth=replace(word.truth, network=network),
                    claim=heard.claim,
                    **heard.call,
                )
            )
        return made
