"""One run: what is measured, and what came of it so far. What was measured stays if the run is stopped."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.evaluation.phases import audit, cost, engines, live, offline, recorded, simulated
from tests.evaluation.phases.cells import Cell
from tests.evaluation.phases.measured import Measured, read

OFFLINE = ("recorded", "simulation")
LIVE = tuple(engines.ENGINES)
PARTS = ("cost", "audit", *OFFLINE, *LIVE)
"""The short ones first: a run that is stopped has them."""
LEFT_OUT = "left out of this run"
DONE = "done: "
"""What ``say`` is told begins so where a cell is done."""
_SHARES = {"reference": 1.0, "vllm": 1.0, "llama": 0.25}
"""Measuring time of an engine beside the others'."""
_STARTING = {"reference": 8.0, "vllm": 55.0, "llama": 5.0}
"""Seconds until it answers."""
_FIXED = 20.0
"""Seconds of an engine beside its plan: capacities, the end."""
_PER_CELL = 4.0
"""Seconds of a cell beside its arrivals: the strangers' start, the last calls."""
_LEAST = 20.0
"""Seconds below which an engine is not worth starting."""
QUICK = ("audit", *OFFLINE, "reference")
"""The parts of a rehearsal."""
_QUICK_CELLS = {
    "recorded": ("share30_load60",),
    "simulation": ("alone 0.7", "share30 0.6", "whole 0.7"),
    "live": ("alone 0.7", "share30 0.9"),
}
_QUICK_FEWEST = 12
"""Calls of a live cell in a rehearsal."""
_QUICK_ARRIVALS = 12.0
"""Seconds in which live calls arrive in a rehearsal, at least."""

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
        if self.quick:
            first = cell.source != "simulation" or cell.slots == next(iter(simulated.ENGINES))
            if not first or cell.name not in _QUICK_CELLS[cell.source]:
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
        until = time.monotonic() + self.asked.seconds
        self.not_run = {part: LEFT_OUT for part in PARTS if part not in self.asked.parts}
        absent = {part: why for part in self.asked.parts if part in LIVE and (why := engines.missing(part))}
        self.not_run.update(absent)
        left = [part for part in self.asked.parts if part in LIVE and part not in absent]
        measure = {
            "cost": lambda: self.cost.update(cost.measure(say)),
            "audit": lambda: self._judge_hits(say),
            "recorded": lambda: self._play_recordings(say),
            "simulation": lambda: self._take(offline.simulations(self.asked.wants, self.asked.seed), say),
        }
        for part in [part for part in self.asked.parts if part not in absent]:
            try:
                if part in left:
                    seconds = _part_of(until - time.monotonic(), left)
                    left.remove(part)
                    self._against(part, seconds, say)
                else:
                    measure[part]()
            except engines.NotHere as why:
                self.not_run[part] = str(why)
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

    def keep(self, facts: dict[str, Any], path: Path) -> dict[str, Any]:
        """``facts`` with the cells of real servers that an earlier run measured; their calls join this run's."""
        before, calls = read(path)
        live = [Cell(**cell) for cell in before["cells"] if cell["source"] == "live"]
        keys = {cell.key for cell in live} - {cell.key for cell in self.cells}
        self.cells += [cell for cell in live if cell.key in keys]
        self.calls += [call for call in calls if call.cell in keys]
        where = before["machine"]
        return self.facts(facts | {"kept": f"commit {where['commit']}, {where['date']}"})

    def _against(self, part: str, seconds: float, say: Say) -> None:
        """Every wanted cell of one engine, in ``seconds``."""
        wanted = [(cell, weight) for cell, weight in live.cells(part) if self.asked.wants(cell)]
        if not wanted:
            self.not_run[part] = LEFT_OUT
            return
        if seconds < _LEAST and not self.asked.quick:
            self.not_run[part] = "no time was left"
            return
        draw = random.Random(f"{self.asked.seed} {part}")
        with (
            tempfile.TemporaryDirectory(prefix="llmtrace-accuracy-") as folder,
            engines.ENGINES[part](Path(folder)) as engine,
        ):
            say(f"started {engine.title}", _STARTING[part])
            kinds = sorted({live.kind_of(cell.traffic) for cell, _ in wanted})
            words, able = live.capacities(engine, kinds, draw, say)
            draw.shuffle(wanted)
            until = time.monotonic() + seconds
            while wanted:
                # Planned anew before each cell: what one took longer is taken from those still to come.
                least, fewest = (_QUICK_ARRIVALS, _QUICK_FEWEST) if self.asked.quick else (1.0, None)
                arrivals = max(least, until - time.monotonic() - _PER_CELL * len(wanted))
                planned, left_out = live.plan(wanted, able, arrivals, fewest)
                self.not_run.update({f"{part}, {cell.name}": "there was no time for enough calls" for cell in left_out})
                if planned:
                    self._send(engine, planned[0], words, say)
                done = {each.cell.key for each in planned[:1]} | {cell.key for cell in left_out}
                wanted = [(cell, weight) for cell, weight in wanted if cell.key not in done]

    def _send(self, engine: engines.Engine, planned: live.Planned, words: float, say: Say) -> None:
        """The calls of one cell; if they break off, the others go on."""
        cell = planned.cell
        own = random.Random(f"{self.asked.seed} {cell.twin or cell.key}")  # twins ask the same
        try:
            self._take([live.play(engine, planned, words, own, say)], say)
        except Exception as error:
            self.not_run[f"{engine.key}, {cell.name}"] = f"broke off ({type(error).__name__}: {error})"

    def _play_recordings(self, say: Say) -> None:
        self.not_run.update(recorded.missing())
        self._take(offline.recordings(self.asked.wants), say)

    def _take(self, measured: Iterable[tuple[Cell, list[Measured]]], say: Say) -> None:
        """Keep each cell as it is done; live ones have told the time that they took themselves."""
        last = time.monotonic()
        for cell, calls in measured:
            self.cells.append(cell)
            self.calls += calls
            say(f"{DONE}{cell.title}", 0.0 if cell.source == "live" else time.monotonic() - last)
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


def _part_of(seconds: float, left: list[str]) -> float:
    """Seconds of measuring for the first of the engines that are ``left``, of ``seconds`` for all of them."""
    fixed = sum(_STARTING[part] + _FIXED for part in left)
    return (seconds - fixed) * _SHARES[left[0]] / sum(_SHARES[part] for part in left)
