"""A simulated engine whose truth is known, for what real engines cannot be made to do on one machine.

Twenty tenants, images, a change of regime; and every other kind of traffic, so that a table comes out in a minute.
The engine is ``tests.support.engine_sim``: slots, a queue, steps that take in prompts (whole, or in chunks beside
others' tokens) and make tokens. Its calls are played through llmtrace as recorded ones are.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests.evaluation.common.words import WORDS
from tests.evaluation.phases.arrivals import bursty, poisson
from tests.evaluation.phases.cells import Cell, warm_up
from tests.evaluation.phases.measured import Truth
from tests.evaluation.phases.replay import Trip
from tests.support.engine_sim import Engine, Simulated

ENGINES = {
    "whole prompts, 4 slots": Engine(slots=4, budget=1 << 20),
    "chunks of 256, 8 slots": Engine(slots=8, budget=256),
    "chunks of 512, free slots": Engine(budget=512),
}
_FIRST = next(iter(ENGINES))
SHORTEST, LONGEST = 32, 2048
"""Prompt tokens, log-uniform."""
ANSWERS = (8, 16, 32, 64)
"""Output tokens."""
CALLS = 150
"""Of a cell, past the warm-up."""
AFTER = 30
"""Calls that count after a change of regime."""
_TO_SEND = 0.0006
_ONE_LENGTH = 300
_STANDING = 12
"""Calls that wait when a standing queue begins."""
_CONVERSATIONS, _TURNS = 6, 8
_CACHED_COST = 0.03
"""What a cached token costs, of an uncached one."""
_BLOCK = 64
"""Tokens are cached in blocks of so many."""
_IMAGE_S = 0.25
_CHARS_PER_TOKEN = 4.3

PLAN = (
    ("alone", 0.3, 1.0),
    ("alone", 0.7, 1.0),
    ("alone", 0.9, 1.0),
    ("burst", 0.6, 1.0),
    ("share30", 0.6, 0.3),
    ("share30", 0.9, 0.3),
    ("share05", 0.7, 0.05),
    ("tenants1", 0.95, 1.0),
    ("tenants5", 0.95, 0.2),
    ("tenants20", 0.95, 0.05),
    ("chat", 0.6, 1.0),
    ("chat30", 0.6, 0.3),
    ("whole", 0.7, 1.0),
    ("whole", 0.9, 1.0),
    ("whole30", 0.6, 0.3),
    ("nousage", 0.7, 1.0),
    ("nousage30", 0.6, 0.3),
    ("mixed", 0.2, 1.0),
    ("regime", 0.6, 1.0),
    ("onelength", 0.6, 1.0),
    ("standing", 1.0, 1.0),
)
"""Kinds of traffic, load, this client's share."""
_FREE = ("alone", "burst", "share30")
"""With free slots nothing queues for one: these tell whether a queue is made up."""
_MANY = 100
"""So many slots are never all taken."""
_UNSPLITTABLE = ("onelength", "standing")
"""One engine shows it."""
_SAME_CALLS = {"nousage": "alone", "nousage30": "share30"}
"""Without usage the very same calls are played as with it."""


@dataclass
class Asked:
    """One call to simulate: what it asks, and what it costs."""

    sent: float
    prompt: int
    cached: int
    output: int
    messages: tuple[dict[str, Any], ...]
    work: float
    """Prompt tokens that the engine computes for it, whatever is counted."""
    seen: bool = True


def cells() -> Iterator[Cell]:
    """Every simulated cell."""
    for slots, engine in ENGINES.items():
        for traffic, load, share in PLAN:
            if engine.slots > _MANY and traffic not in _FREE:
                continue
            if slots != _FIRST and traffic in _UNSPLITTABLE:
                continue
            made = Cell("simulation", "engine", slots, f"{traffic} {load:g}", traffic, load, share)
            twin = _SAME_CALLS.get(traffic)
            yield replace(made, twin=replace(made, name=f"{twin} {load:g}").key if twin else "")


def trips(cell: Cell, seed: int) -> list[Trip]:
    """The cell's calls, in the order of their sending."""
    engine = ENGINES[cell.slots]
    traffic = _SAME_CALLS.get(cell.traffic, cell.traffic)
    draw = random.Random(f"{seed} {cell.slots} {traffic} {cell.load:g}")
    count = warm_up(cell.traffic) + (AFTER + WARM_CHANGE if traffic == "regime" else CALLS)
    rate = cell.load * capacity(engine, traffic, draw.randrange(1 << 30))
    asked = _asked(traffic, cell.share, rate, count, draw)
    ran = [Simulated(sent=one.sent, uncached=max(1, round(one.work)), output=one.output) for one in asked]
    engine.run(ran, draw.randrange(1 << 30))
    made = [
        _trip(one, call, streamed=not traffic.startswith("whole"), usage=cell.traffic == traffic)
        for one, call in zip(asked, ran, strict=True)
        if one.seen
    ]
    return sorted(made, key=lambda trip: trip.begin)


WARM_CHANGE = 60
"""Calls between the warm-up and the change of regime."""


def skipped(cell: Cell) -> int:
    """Calls at the beginning that do not count."""
    return warm_up(cell.traffic) + (WARM_CHANGE if cell.traffic == "regime" else 0)


def capacity(engine: Engine, traffic: str, seed: int) -> float:
    """Calls/s that the engine completes of this traffic when all are there at once."""
    draw = random.Random(seed)
    asked = _asked("alone" if traffic in ("regime", "standing") else traffic, 1.0, 1e6, 400, draw)
    ran = [Simulated(sent=0.0, uncached=max(1, round(one.work)), output=one.output) for one in asked]
    engine.run(ran, seed)
    return len(ran) / max(call.end for call in ran)


def _asked(traffic: str, share: float, rate: float, count: int, draw: random.Random) -> list[Asked]:
    """``count`` calls of this client among as many of others as its share leaves to them; ``rate``: all, calls/s."""
    arrivals = bursty if traffic == "burst" else poisson
    mine = arrivals(draw, rate * share, count)
    if traffic == "standing":  # as many as wait at first keep waiting: calls come as fast as they are done
        mine = [max(0, number - _STANDING) / rate + number * 1e-4 for number in range(count)]
    made = _conversations(mine, draw) if traffic.startswith("chat") else [_single(at, draw) for at in mine]
    if traffic == "onelength":
        made = [replace(one, prompt=_ONE_LENGTH, work=_ONE_LENGTH) for one in made]
    if traffic == "mixed":
        made = [_with_image(one, draw) if draw.random() < 0.3 else one for one in made]
    if traffic == "regime":
        made = [one if number < count - AFTER else replace(one, work=2 * one.work) for number, one in enumerate(made)]
    if share < 1.0:
        others = poisson(draw, rate * (1 - share), math.ceil(count * (1 - share) / share))
        strange = _conversations(others, draw) if traffic.startswith("chat") else [_single(at, draw) for at in others]
        made += [replace(one, seen=False) for one in strange]
    return sorted(made, key=lambda one: one.sent)


def _single(at: float, draw: random.Random) -> Asked:
    tokens = round(math.exp(draw.uniform(math.log(SHORTEST), math.log(LONGEST))))
    message = {"role": "user", "content": _text(tokens, draw)}
    return Asked(at, tokens, 0, draw.choice(ANSWERS), (message,), tokens)


def _with_image(one: Asked, draw: random.Random) -> Asked:
    """The image's time is the engine's own and stands in no count."""
    url = f"data:image/png;base64,{draw.randrange(1 << 60):x}"
    text = {"type": "text", "text": one.messages[0]["content"]}
    message = {"role": "user", "content": [text, {"type": "image_url", "image_url": {"url": url}}]}
    return replace(one, messages=(message,), work=one.work + _IMAGE_S / Engine().per_token)


def _conversations(moments: Sequence[float], draw: random.Random) -> list[Asked]:
    """Turns of several conversations; each sends all before it again, which the engine then has cached."""
    made: list[Asked] = []
    talks: list[tuple[tuple[dict[str, Any], ...], int]] = [((), 0)] * _CONVERSATIONS
    for number, at in enumerate(moments):
        mine = number % _CONVERSATIONS
        before, known = talks[mine]
        tokens, output = round(draw.uniform(20, 160)), draw.choice(ANSWERS)
        messages = (*before, {"role": "user", "content": _text(tokens, draw)})
        prompt = known + tokens
        cached = known // _BLOCK * _BLOCK
        made.append(Asked(at, prompt, cached, output, messages, prompt - cached + _CACHED_COST * cached))
        answer = {"role": "assistant", "content": "word " * output}
        ended = len(messages) >= 2 * _TURNS
        talks[mine] = ((), 0) if ended else ((*messages, answer), prompt + output)
    return made


def _text(tokens: int, draw: random.Random) -> str:
    """Words of about so many tokens' length; how many characters make a token differs from text to text."""
    length = max(8, round(tokens * _CHARS_PER_TOKEN * draw.lognormvariate(0.0, 0.08)))
    beginning = " ".join(draw.choice(WORDS) for _ in range(24))
    return f"{draw.randrange(1 << 40):x} {beginning} ".ljust(length, "x")[:length]


def _trip(one: Asked, call: Simulated, *, streamed: bool, usage: bool) -> Trip:
    return Trip(
        begin=one.sent,
        sent=one.sent + _TO_SEND,
        headers=call.headers if streamed else None,
        event=None,
        first=call.first if streamed else None,
        end=call.end,
        prompt=one.prompt,
        cached=one.cached,
        output=one.output,
        truth=Truth(call.scheduled - call.arrived, call.prefill, call.end - call.first, call.headers - one.sent),
        messages=one.messages,
        usage=usage,
    )
