"""One run: what is measured, and what came of it so far. What was measured stays if the run is stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.evaluation.phases import audit, cost, offline, recorded, simulated
from tests.evaluation.phases.cells import Cell
from tests.evaluation.phases.measured import Measured

OFFLINE = ("recorded", "simulation")
PARTS = ("cost", "audit", *OFFLINE)
"""The short ones first: a run that is stopped has them."""
LEFT_OUT = "left out of this run"

Say = Callable[[str, float], None]
"""What goes on, and seconds of it done since the last word."""


@dataclass
class Asked:
    """What the command line asked for."""

    parts: tuple[str, ...]
    seed: int
    seconds: float
    only: tuple[str, ...] = ()
    """Words of which a cell's title or traffic has to hold one; none: every cell."""
    quick: bool = False

    def wants(self, cell: Cell) -> bool:
        """Whether this cell is to be measured."""
        if self.quick and cell.source == "simulation" and cell.slots != next(iter(simulated.ENGINES)):
            return False
        return not self.only or any(word == cell.traffic or word in cell.title for word in self.only)


@dataclass
class Run:
    """What was measured so far."""

    asked: Asked
    cells: list[Cell] = field(default_factory=list[Cell])
    calls: list[Measured] = field(default_factory=list[Measured])
    audit: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    cost: dict[str, Any] = field(default_factory=dict[str, Any])
    not_run: dict[str, str] = field(default_factory=dict[str, str])

    def go(self, say: Say) -> None:
        """Measure everything that was asked for. One part's failure leaves the others' figures alone."""
        self.not_run = {part: LEFT_OUT for part in PARTS if part not in self.asked.parts}
        measure = {
            "cost": lambda: self.cost.update(cost.measure(say)),
            "audit": lambda: self._judge_hits(say),
            "recorded": lambda: self._play_recordings(say),
            "simulation": lambda: self._take(offline.simulations(self.asked.wants, self.asked.seed), say),
        }
        for part in self.asked.parts:
            try:
                measure[part]()
            except Exception as error:
                self.not_run[part] = f"broke off ({type(error).__name__}: {error})"

    def facts(self, more: dict[str, Any]) -> dict[str, Any]:
        """What the page is made of, beside the calls."""
        return more | {
            "seed": self.asked.seed,
            "quick": self.asked.quick,
            "cells": [cell.as_json() for cell in self.cells],
            "audit": self.audit,
            "cost": self.cost,
            "not_run": self.not_run,
        }

    def _play_recordings(self, say: Say) -> None:
        self.not_run.update(recorded.missing())
        self._take(offline.recordings(self.asked.wants), say)

    def _take(self, measured: Iterable[tuple[Cell, list[Measured]]], say: Say) -> None:
        last = time.monotonic()
        for cell, calls in measured:
            self.cells.append(cell)
            self.calls += calls
            say(cell.title, time.monotonic() - last)
            last = time.monotonic()

    def _judge_hits(self, say: Say) -> None:
        folder = recorded.data("audit")
        if folder is None:
            self.not_run["audit"] = recorded.NOT_HERE
            return
        paths = sorted(folder.glob("*.csv.gz"))
        for path in paths[:3] if self.asked.quick else paths:
            say("cache hits from timing", 0.3)
            self.audit.append(audit.judge(path).as_json())
