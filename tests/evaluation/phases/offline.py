"""The cells that need no server: recordings and the simulated engine, played through llmtrace."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.evaluation.phases import recorded, replay, simulated
from tests.evaluation.phases.cells import Cell, warm_up
from tests.evaluation.phases.measured import Measured

Wanted = Callable[[Cell], bool]


def recordings(wanted: Wanted) -> Iterator[tuple[Cell, list[Measured]]]:
    """Each recording that is there and wanted."""
    for cell, path in recorded.cells():
        if wanted(cell):
            trips = recorded.read(path)
            yield cell, replay.play(trips, cell.key, warm_up(cell.traffic), recorded.place(cell))


def simulations(wanted: Wanted, seed: int) -> Iterator[tuple[Cell, list[Measured]]]:
    """Each simulated cell that is wanted."""
    for cell in simulated.cells():
        if wanted(cell):
            trips = simulated.trips(cell, seed)
            yield cell, replay.play(trips, cell.key, simulated.skipped(cell), replay.Place())
