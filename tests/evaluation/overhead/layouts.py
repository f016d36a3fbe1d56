"""A chunk of the real client's stream, over many processes whose memory lies differently.

What one process says of a chunk is partly chance. CPython finds attributes by a cache of 4,096 entries that all classes
of a process share: forty classes that have nothing to do with the client move its own chunk by as much as llmtrace
adds. And a process that is patched and unpatched in turns does what no application does: each turn throws away what the
interpreter knows of the classes and the code that it has specialised for them.

So each process is of one arm for all its life: bare, bare again (the control, whose true figure is 0), or traced from
the start. Before its client is warm it defines a number of classes, drawn by its seed. The arms take turns; a figure is
the difference of two arms' medians over their processes.

``python -m tests.evaluation.overhead.layouts ARM SEED`` is one such process, and prints its µs a chunk as JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tests.evaluation.common.quantiles import median, quantile
from tests.evaluation.common.tables import Table
from tests.evaluation.overhead import inmemory
from tests.evaluation.overhead.inmemory import Action
from tests.evaluation.overhead.processes import printed

BARE, CONTROL, TRACED = ARMS = ("bare client", "bare client again (control)", "llmtrace")
CHUNK, ASYNC_CHUNK = KINDS = (f"chunk of {inmemory.LONG:,}", f"async chunk of {inmemory.LONG:,}")
REPEATS = 6
"""Streams of each kind and length in a process. The cheapest counts: whatever else the machine does only adds."""
MOST_CLASSES = 400
"""Classes that a process defines at most, beside the client's own some thousands."""
_RESAMPLES = 1000

Chunks = dict[str, dict[str, list[float]]]
"""Arm -> kind of chunk -> µs, one for each process."""


class Difference(NamedTuple):
    """What an arm's chunk takes over the bare one's, in µs, with the 95 % interval."""

    value: float
    low: float
    high: float


def measure(processes: int, seed: int, tick: Callable[[str], None]) -> Chunks:
    """So many processes of each arm, one after the other. ``tick`` is told of each one's arm as it sets out.

    Raises:
        NotMeasured: a process failed.
    """
    chance = random.Random(seed)
    known: Chunks = {arm: {kind: [] for kind in KINDS} for arm in ARMS}
    for _ in range(processes):
        for arm in chance.sample(ARMS, len(ARMS)):
            tick(arm)
            for kind, us in _in_a_process(arm, chance.randrange(2**31)).items():
                known[arm][kind].append(us)
    return known


def difference(arm: Sequence[float], bare: Sequence[float]) -> Difference:
    """How much more an arm's processes take than bare ones; the interval by drawing processes of both anew."""
    chance = random.Random(0)
    again = [median(_drawn(arm, chance)) - median(_drawn(bare, chance)) for _ in range(_RESAMPLES)]
    return Difference(median(arm) - median(bare), quantile(again, 0.025), quantile(again, 0.975))


def differences(known: Chunks, arm: str) -> dict[str, Difference]:
    """An arm's, by the kind of chunk."""
    return {kind: difference(known[arm][kind], known[BARE][kind]) for kind in KINDS}


def table(known: Chunks) -> Table:
    """The bare client's own chunk, and what the others take over it."""
    rows = [[f"{BARE} (own cost)", *(f"{median(known[BARE][kind]):.2f}" for kind in KINDS)]]
    for arm in (CONTROL, TRACED):
        cells = [f"{each.value:.2f} ({each.low:.2f} … {each.high:.2f})" for each in differences(known, arm).values()]
        rows.append([arm, *cells])
    return Table(f"A chunk, over {len(known[BARE][CHUNK])} processes each", ["µs (95 % interval)", *KINDS], rows)


def _drawn(values: Sequence[float], chance: random.Random) -> list[float]:
    return chance.choices(values, k=len(values))


def _in_a_process(arm: str, layout: int) -> dict[str, float]:
    return printed("tests.evaluation.overhead.layouts", arm, str(layout))


def lay_out(seed: int) -> list[Any]:
    """Objects of a drawn number of new classes, to be kept. Each has been asked for an attribute of its class."""
    number = random.Random(seed).randrange(MOST_CLASSES)
    objects: list[Any] = [type(f"Unrelated{each}", (), {"own": each})() for each in range(number)]
    for each in objects:
        _ = each.own
    return objects


def chunks() -> dict[str, float]:
    """µs of a chunk in this process: a long stream less one without content, by the chunk."""
    loop = asyncio.new_event_loop()
    makers: dict[str, Callable[[int], Action]] = {
        CHUNK: inmemory.streamed_call,
        ASYNC_CHUNK: lambda size: inmemory.async_streamed_call(size, loop),
    }
    known: dict[str, float] = {}
    for kind, maker in makers.items():
        long, short = maker(inmemory.LONG), maker(0)
        long()
        spent = [(once(long), once(short)) for _ in range(REPEATS)]
        known[kind] = (min(us for us, _ in spent) - min(us for _, us in spent)) / inmemory.LONG
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    return known


def once(action: Action) -> float:
    """CPU µs of one action."""
    start = time.process_time_ns()
    action()
    return (time.process_time_ns() - start) / 1e3


def main() -> None:
    """One process of ``measure``."""
    arm, kept = sys.argv[1], lay_out(int(sys.argv[2]))
    if arm == TRACED:
        inmemory.switched_on(inmemory.NO_METRICS)
    gc.collect()
    gc.freeze()
    print(json.dumps(chunks()))
    del kept


if __name__ == "__main__":
    main()
