"""The row of concurrent streams: what users pay whose calls overlap and whose prompts differ.

Each caller has a session of streams of ten chunks, one after the other; the server takes longer over each the more
callers there are, so that the bare client has as many calls a second to do however many lie open, and more than half
of its time is free. The same traffic is played with the instrumentation on and off, in turn, in one process; beside the
CPU time of a call, a ticker in the event loop tells how late the loop was at most. With one number of callers, the SDK
alone makes the spans and values that llmtrace makes, after each stream: what it takes for them stands beside.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from tests.evaluation.common.bars import Bar
from tests.evaluation.common.quantiles import median, quartiles
from tests.evaluation.common.tables import Table
from tests.evaluation.overhead.outcome import Outcome, Plan
from tests.evaluation.overhead.processes import Broken, Child, Fleet
from tests.evaluation.overhead.subjects import CONTROL, LLMTRACE, SDK_ALONE, by_name

ENVS = ("bare", "llmtrace")
STREAMS = (10, 100, 500, 2000)
QUICK_STREAMS = (10, 50)
ALONE_AT = 100
"""Callers with which the SDK alone is measured."""
BUSY, MOST_CALLS_PER_SECOND = 0.5, 400.0
"""The share of the time that the bare client is busy, which sets the server's pace; and how fast that may be."""
CALLS, MOST_TURNS = 600, 40
"""Calls in one mode of a round, where there are fewer callers than that; and the most that one caller makes."""
ENOUGH_CALLS, LEAST_ROUNDS, MOST_ROUNDS = 2000, 2, 5
"""Rounds of a number of callers: until there are so many calls in each mode."""
SECONDS, QUICK_SECONDS = 300.0, 40.0
"""The row's time: a round that would end after it is not begun, but each number of callers has one."""
HANGS = 120.0
"""A worker that takes so many seconds longer over a round than the traffic does is given up."""
PER_CALL, LAG, SAME = 600.0, 1.2, 1.2
"""The bars: µs a call over the bare client; the longest lag over the bare client's; the dearest number of streams over
the cheapest."""
_WARM_UP, _FIRST_PACE = 100, 100.0
"""Streams of the first, unmeasured round, and its calls a second: it tells what the bare client costs."""


@dataclass
class Cell:
    """One subject with so many streams: what each round gave."""

    subject: str
    streams: int
    rounds: list[dict[str, Any]]

    @property
    def bare(self) -> float:
        """µs a call of the bare client."""
        return median(each["cpu_off"] for each in self.rounds) / 1e3

    @property
    def added(self) -> list[float]:
        """µs a call over the bare client, a round each."""
        return [(each["cpu_on"] - each["cpu_off"]) / 1e3 for each in self.rounds]

    @property
    def lag_ratio(self) -> float:
        """The longest lag over the bare client's, the median of the rounds."""
        return median(each["lag_on"] / each["lag_off"] for each in self.rounds)

    def lag(self, mode: str) -> float:
        """The longest lag, ms, the median of the rounds."""
        return median(each[f"lag_{mode}"] for each in self.rounds) * 1e3


def measure(plan: Plan) -> Outcome:
    """Every number of streams, round after round."""
    wanted = plan.only or {LLMTRACE}
    subjects = [s for s in plan.subjects() if s.name in (wanted | {CONTROL} if plan.only else wanted)]
    if LLMTRACE in wanted:
        subjects.append(SDK_ALONE)
    sizes = plan.streams or (QUICK_STREAMS if plan.quick else STREAMS)
    until = time.monotonic() + (plan.seconds or (QUICK_SECONDS if plan.quick else SECONDS))
    beside = ALONE_AT if ALONE_AT in sizes else min(sizes)
    asked = [(s.name, size) for s in subjects for size in sizes if s is not SDK_ALONE or size == beside]
    cells = {(name, size): Cell(name, size, []) for name, size in asked}
    with Fleet(subjects) as fleet, plan.console.status("concurrent streams") as status:
        failed = dict(fleet.failed)
        pace = MOST_CALLS_PER_SECOND
        for worker in fleet.workers.values():
            first = _ask(worker, min(_WARM_UP, max(sizes)), plan.seed, _FIRST_PACE)
            pace = min(pace, BUSY / (first["cpu_off"] / 1e9))
        for turn in range(max(plan.rounds or rounds(size) for size in sizes)):
            for size in sizes:
                if turn >= (plan.rounds or rounds(size)):
                    continue
                status.update(f"concurrent streams: {size:,}, round {turn + 1} of {plan.rounds or rounds(size)}")
                for name, worker in fleet.workers.items():
                    cell = cells.get((name, size))
                    if (
                        cell is None
                        or name in failed
                        or (cell.rounds and time.monotonic() + cell.rounds[-1]["wall_s"] > until)
                    ):
                        continue
                    try:
                        cell.rounds.append(_ask(worker, size, plan.seed + turn, pace))
                    except Broken as error:
                        failed[name] = str(error)
            plan.so_far(_outcome(cells, pace, failed))
    return _outcome(cells, pace, failed)


def _outcome(cells: dict[tuple[str, int], Cell], pace: float, failed: dict[str, str]) -> Outcome:
    known = [cell for cell in cells.values() if cell.rounds]
    figures = {f"{cell.subject} {cell.streams}": cell.rounds for cell in known}
    return Outcome([_table(known)], _bars(known), _remarks(known, pace), figures, dict(failed))


def rounds(streams: int) -> int:
    """How many rounds a number of callers is to have."""
    return max(LEAST_ROUNDS, min(MOST_ROUNDS, -(-ENOUGH_CALLS // (streams * turns(streams)))))


def turns(streams: int) -> int:
    """How many calls each caller makes in a row."""
    return min(MOST_TURNS, max(1, CALLS // streams))


def _ask(worker: Child, streams: int, seed: int, pace: float) -> dict[str, Any]:
    """A round in both modes, ``pace`` calls a second."""
    seconds = streams / pace
    began = time.monotonic()
    within = HANGS + 2 * seconds * (turns(streams) + 1)
    answer = worker.ask(within, do="concurrent", streams=streams, turns=turns(streams), seconds=seconds, seed=seed)
    return answer | {"wall_s": round(time.monotonic() - began, 1)}


def _table(cells: list[Cell]) -> Table:
    rows: list[list[str]] = []
    for cell in cells:
        low, high = quartiles(cell.added)
        rows.append(
            [
                f"{by_name(cell.subject).title}, {cell.streams:,}",
                str(max(each["peak_on"] for each in cell.rounds)),
                f"{cell.bare:,.0f}",
                f"{median(cell.added):,.0f} ({low:,.0f}…{high:,.0f})",
                f"{cell.lag('off'):.1f}",
                f"{cell.lag('on'):.1f}",
                f"{cell.lag_ratio:.2f}",
                f"{median(each['spans_on'] for each in cell.rounds):.1f}",
                str(len(cell.rounds)),
            ]
        )
    head = ["callers", "open at most", "bare, µs a call", "added, µs a call", "longest lag, bare, ms", "traced, ms"]
    return Table("Concurrent streams", [*head, "ratio", "spans a call", "rounds"], rows)


def _bars(cells: list[Cell]) -> list[Bar]:
    mine = [cell for cell in cells if cell.subject == LLMTRACE]
    bars: list[Bar] = []

    def held(what: str, value: float, most: float, unit: str, number: int) -> None:
        bars.append(Bar(what, value, most=most, calls=number, unit=unit, fewest=LEAST_ROUNDS))

    for cell in mine:
        number, at_once = len(cell.rounds), f"{cell.streams:,} concurrent streams"
        held(f"{at_once}: a call", median(cell.added), PER_CALL, " µs", number)
        held(f"{at_once}: longest lag, to the bare client's", cell.lag_ratio, LAG, "x", number)
    if len(mine) > 1:
        costs = [median(cell.added) for cell in mine]
        ratio = max(costs) / min(costs) if min(costs) > 0 else float("nan")
        what = "concurrent streams: a call at the dearest number of them, to the cheapest"
        held(what, ratio, SAME, "x", min(len(cell.rounds) for cell in mine))
    return bars


def _remarks(cells: list[Cell], pace: float) -> list[str]:
    if not cells:
        return []
    load = ", ".join(f"{cell.streams:,}: {turns(cell.streams)}" for cell in cells if cell.subject == cells[0].subject)
    return [
        f"Calls that each caller makes in a round: {load}; {pace:.0f} calls a second. Spans go to a "
        "processor that exports at once and drops them, metrics are collected once a round; the threads that fit the "
        "estimates are in the CPU time."
    ]
