"""The cells that need no server: recordings and the simulated engine, played through llmtrace.

Several at once, each in a process of its own: most of the time goes by waiting for the thread that fits curves, which
takes only a small share of a core on purpose.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from tests.evaluation.phases import recorded, replay, simulated
from tests.evaluation.phases.cells import Cell, warm_up
from tests.evaluation.phases.measured import Measured

AT_ONCE = 4
"""Cells that are played at the same time."""

Wanted = Callable[[Cell], bool]
Played = tuple[Cell, list[Measured]]
_Job = tuple[Cell, Path | None, int]
"""A cell, its recording (None: it is simulated) and the seed."""


def recordings(wanted: Wanted) -> Iterator[Played]:
    """Each recording that is there and wanted."""
    return _play([(cell, path, 0) for cell, path in recorded.cells() if wanted(cell)])


def simulations(wanted: Wanted, seed: int) -> Iterator[Played]:
    """Each simulated cell that is wanted."""
    return _play([(cell, None, seed) for cell in simulated.cells() if wanted(cell)])


def _play(jobs: Sequence[_Job]) -> Iterator[Played]:
    """In the order of ``jobs``."""
    if len(jobs) < AT_ONCE:
        yield from map(_one, jobs)
        return
    context = get_context("spawn")  # a fork would inherit threads and locks in the middle of their work
    with ProcessPoolExecutor(AT_ONCE, context, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        try:
            yield from pool.map(_one, jobs)
        finally:
            pool.shutdown(cancel_futures=True)


def _one(job: _Job) -> Played:
    cell, path, seed = job
    if path is not None:
        return cell, replay.play(recorded.read(path), cell.key, warm_up(cell.traffic), recorded.place(cell))
    return cell, replay.play(simulated.trips(cell, seed), cell.key, simulated.skipped(cell), replay.Place())
