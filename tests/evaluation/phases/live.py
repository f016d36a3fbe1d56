"""One engine under load: the blind client's word beside the engine's, call by call."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from opentelemetry.sdk.trace import TracerProvider

import llmtrace
from llmtrace.calls import tracer
from llmtrace.observe.clock import epoch_offset
from tests.evaluation.phases.arrivals import ARRIVALS, Ask, Prompts, poisson
from tests.evaluation.phases.drive import Driver
from tests.evaluation.phases.engines import Engine
from tests.evaluation.phases.listen import Listener
from tests.evaluation.phases.measured import PLACE, Measured

LOADS = (0.3, 0.6, 0.9)
WARM_UP = 30
"""Calls before the error figures begin."""
FEWEST, MOST = 24, 150
"""Calls of a cell."""
_ONE_LENGTH = 300
"""Tokens of each prompt where nothing tells fixed cost and cost per token apart."""
_CAPACITY_S = 8.0
_LONGEST = 1.5
"""Cells are begun until the plan has taken so many times its seconds: a machine busy otherwise makes calls wait."""

Say = Callable[[str, float], None]
"""What goes on, and seconds of it done since the last word."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One stretch of calls under one kind of load."""

    name: str
    calls: int
    rate: float
    """Calls/s; 0: callers that ask without pause."""
    arrivals: str = "Poisson"
    warm: bool = True
    one_length: bool = False


@dataclass(slots=True)
class Found:
    """What a run against one engine gave so far."""

    engine: Engine
    slots: str
    capacity: float = 0.0
    calls: list[Measured] = field(default_factory=list)
    failed: int = 0
    why: str = ""
    """The first thing that went wrong."""
    left_out: list[str] = field(default_factory=list)
    """Cells that there was no time for."""


def plan(capacity: float, seconds: float, draw: random.Random) -> list[Cell]:
    """Warm-up, then every load with every kind of arrivals in random order, as many calls in each as time allows."""
    loads = [(load, kind) for load in LOADS for kind in ARRIVALS]
    each = seconds / sum(1 / (load * capacity) for load, _ in loads)
    count = round(min(max(each, FEWEST), MOST))
    cells = [Cell(f"{kind} {load:g}", count, load * capacity, kind) for load, kind in loads]
    draw.shuffle(cells)
    return [Cell("warm-up", WARM_UP, 0.6 * capacity, warm=False), *cells]


def run(engine: Engine, found: Found, seconds: float, draw: random.Random, say: Say) -> None:
    """Measure the capacity, then play the plan. What was measured is in ``found`` also if this is interrupted."""
    prompts = asyncio.run(_prepare(engine, found, draw, say))
    cells = plan(found.capacity, seconds, draw)
    warm_up = cells[0].calls / cells[0].rate
    _play(engine, found, cells, prompts, draw, say, until=time.monotonic() + warm_up + _LONGEST * seconds)


def without_evidence(engine: Engine, found: Found, draw: random.Random, say: Say) -> None:
    """Two routes that cannot be split: prompts of one length; a queue that never empties."""
    prompts = asyncio.run(_prepare(engine, found, draw, say))
    one = Cell("one length", WARM_UP + 20, 0.6 * found.capacity, one_length=True)
    never = Cell("standing queue", WARM_UP + 40, 0.0)
    for cell in (one, never):
        _play(engine, found, [cell], prompts, draw, say, after=WARM_UP)  # each on a route that knows nothing yet


async def _prepare(engine: Engine, found: Found, draw: random.Random, say: Say) -> Prompts:
    """The server's tokenizer, and how many calls it can do; without llmtrace."""
    async with Driver(engine.base_url, engine.model) as driver:
        words = await driver.words_per_token(Prompts(draw, 1.0, longest=400).words(400))
        prompts = Prompts(draw, words, longest=1_900)
        if not found.capacity:
            say("capacity", 0.0)
            endless = (prompts.one() for _ in itertools.count())
            found.capacity = await driver.capacity(endless, min(2 * engine.slots, 24), _CAPACITY_S)
            say("capacity", _CAPACITY_S)
    return prompts


def _play(
    engine: Engine,
    found: Found,
    cells: list[Cell],
    prompts: Prompts,
    draw: random.Random,
    say: Say,
    after: int = 0,
    until: float = math.inf,
) -> None:
    provider = TracerProvider()
    llmtrace.instrument("openai", tracer_provider=provider, server_timings=False)
    try:
        asyncio.run(_cells(engine, found, cells, prompts, draw, say, after, until))
    finally:
        llmtrace.uninstrument("openai")
        provider.shutdown()


async def _cells(
    engine: Engine,
    found: Found,
    cells: list[Cell],
    prompts: Prompts,
    draw: random.Random,
    say: Say,
    after: int,
    until: float,
) -> None:
    async with Driver(engine.base_url, engine.model) as driver:
        for cell in cells:
            if time.monotonic() > until:
                found.left_out.append(cell.name)
                continue
            title = f"{engine.title}, {found.slots}: {cell.name}"
            place = PLACE.join((engine.key, found.slots, cell.name))
            say(title, 0.0)
            listener = Listener(place, cell.warm, whole_queue=engine.whole_queue, after=after)
            tracer.listeners.append(listener)
            asks = [_ask(prompts, cell) for _ in range(cell.calls)]
            per_call = 1 / (cell.rate or found.capacity)

            def tick(count: int, title: str = title, per_call: float = per_call) -> None:
                say(title, count * per_call)

            try:
                if cell.rate:
                    kind = ARRIVALS.get(cell.arrivals, poisson)
                    await driver.open_loop(kind(draw, cell.rate, cell.calls), asks, tick)
                else:
                    await _without_pause(driver, asks, engine.slots + 3, tick)
            finally:
                tracer.listeners.remove(listener)
                found.failed += listener.failed + len(driver.failed)
                found.why = found.why or next(iter(driver.failed), "")
                driver.failed.clear()
                found.calls += _with_network(engine, listener)


def _ask(prompts: Prompts, cell: Cell) -> Ask:
    return prompts.one(_ONE_LENGTH, share=False) if cell.one_length else prompts.one()


async def _without_pause(driver: Driver, asks: list[Ask], at_once: int, tick: Callable[[int], None]) -> None:
    left = iter(asks)

    async def caller() -> None:
        for ask in left:
            await driver.ask(ask)
            tick(1)

    await asyncio.gather(*(caller() for _ in range(at_once)))


def _with_network(engine: Engine, listener: Listener) -> list[Measured]:
    """The calls with the true time on the way to the server, where it tells when each request arrived."""
    arrivals: dict[str, float] = {}
    with suppress(OSError):  # the server is gone: the run is being stopped
        arrivals = engine.arrivals()
    found: list[Measured] = []
    for call, trace, began in zip(listener.calls, listener.traces, listener.starts, strict=True):
        arrived = arrivals.get(trace)
        network = None if arrived is None else max(0.0, arrived - (began + epoch_offset()) / 1e9)
        queue = call.truth.queue if engine.has_queue else None
        found.append(replace(call, truth=replace(call.truth, network=network, queue=queue)))
    return found


def facts(found: Found) -> dict[str, Any]:
    """What the report says about the run against one engine."""
    return {
        "engine": found.engine.key,
        "title": found.engine.title,
        "slots": found.slots,
        "slot_count": found.engine.slots,
        "admitted": found.engine.admitted,
        "has_queue": found.engine.has_queue,
        "capacity": found.capacity,
        "failed": found.failed,
        "why": found.why,
        "left_out": found.left_out,
    }
