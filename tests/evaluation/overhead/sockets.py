"""The rows with a process for each subject, against the replay server: calls, chunks, memory, start-up."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import asdict

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tests.evaluation.common.bars import Bar
from tests.evaluation.common.quantiles import median
from tests.evaluation.common.tables import Table
from tests.evaluation.overhead import tables
from tests.evaluation.overhead.environments import python
from tests.evaluation.overhead.outcome import NotMeasured, Outcome, Plan
from tests.evaluation.overhead.processes import Broken, Fleet, printed
from tests.evaluation.overhead.rounds import Samples, Section, call_sections, chunk_sections, measure
from tests.evaluation.overhead.subjects import BARE, LLMTRACE, Subject, by_name

EPOCHS = 5
"""Generations of worker processes in a run: two processes that do the same work differ just by where their memory
lies."""
CALL_SECONDS, CHUNK_SECONDS, QUICK_SECONDS = 70.0, 70.0, 8.0
START_UP_MS = 50.0
"""Import and ``instrument()``, ms of CPU time, openai and the SDK already imported."""
_STARTS = 5


def calls(plan: Plan) -> Outcome:
    """A call, streamed and not, of every subject."""
    samples = _sampled(plan, call_sections(), CALL_SECONDS)
    known = tables.figures(samples, tables.CALLS)
    title = "Calls: µs over the bare client, median (middle half of the rounds)"
    return Outcome(
        [tables.costs(known, title, tables.CALLS[:3], samples, "timed")],
        tables.call_bars(known),
        [],
        _as_json(known, samples),
        samples.failed,
    )


def chunks(plan: Plan) -> Outcome:
    """A chunk of a long stream, of every subject that streams."""
    samples = _sampled(plan, chunk_sections(), CHUNK_SECONDS)
    known = tables.figures(samples, tables.CHUNKS)
    title = "Chunks: µs over the bare client (middle half of the rounds)"
    return Outcome(
        [tables.costs(known, title, tables.CHUNKS[:2], samples)],
        tables.chunk_bars(known),
        [],
        _as_json(known, samples),
        samples.failed,
    )


def memory(plan: Plan) -> Outcome:
    """Memory of open streams, in workers whose allocator can say to the byte what is in use."""
    sizes = (100, 1000, 4000) if plan.quick else (100, 1000, 5000, 20_000)
    held: tables.Memory = {}
    failed: dict[str, str] = {}
    with Fleet(_alone(plan), PYTHONMALLOC="malloc") as fleet:
        failed |= fleet.failed
        for name, worker in fleet.workers.items():
            try:
                held[name] = {size: worker.ask(do="memory", size=size)["bytes"] for size in sizes}
            except Broken as error:
                failed[name] = str(error)
    return Outcome([tables.memories(held)], tables.memory_bars(held), figures={"bytes": held}, left_out=failed)


def start_up(plan: Plan) -> Outcome:
    """CPU time of importing each package and of turning it on, each in fresh processes; the first fills the caches."""
    spent: dict[str, list[tuple[float, float]]] = defaultdict(list)
    failed: dict[str, str] = {}
    for turn in range((plan.rounds or (2 if plan.quick else _STARTS)) + 1):
        for subject in _alone(plan):
            if not subject.switch or subject.name in failed:
                continue
            try:
                answer = printed("tests.evaluation.overhead.startup", subject.name, by=python(subject.env))
            except NotMeasured as error:
                failed[subject.name] = str(error)
                continue
            if turn:
                spent[subject.name].append((answer["import"] / 1e6, answer["on"] / 1e6))
    rows: list[list[str]] = []
    bars: list[Bar] = []
    for name, each in spent.items():
        both = [imported + on for imported, on in each]
        parts = [f"{median(column):.1f}" for column in zip(*each, strict=True)]
        rows.append([by_name(name).title, *parts, f"{median(both):.1f}", f"{min(both):.1f} … {max(both):.1f}"])
        if name == LLMTRACE:
            what = "import of `llmtrace` and `instrument()`"
            bars = [Bar(what, median(both), most=START_UP_MS, calls=len(both), unit=" ms", fewest=3)]
    head = ["ms of CPU time", "import", "turn on", "both", "range"]
    title = "Start-up, openai and the SDK already imported"
    return Outcome([Table(title, head, rows)], bars, figures={"ms": spent}, left_out=failed)


def _alone(plan: Plan) -> list[Subject]:
    """One subject per package, in its default mode."""
    return [subject for subject in plan.subjects() if subject.peer or subject.name in (BARE, LLMTRACE)]


def _sampled(plan: Plan, sections: list[Section], seconds: float) -> Samples:
    """Measure the sections in several generations of processes, showing how far it is."""
    samples = Samples()
    seconds = plan.seconds or (QUICK_SECONDS if plan.quick else seconds)
    epochs = 1 if plan.quick else EPOCHS
    names = {name for section in sections for name in section.subjects}
    spent: dict[str, float] = defaultdict(float)
    columns = (TextColumn("{task.description:24}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
    with Progress(*columns, TimeElapsedColumn(), console=plan.console, transient=True) as progress:
        task = progress.add_task("", total=seconds)
        for epoch in range(epochs):
            progress.update(task, description="starting the workers")
            with Fleet(plan.subjects(*names), PYTHONHASHSEED=str(epoch)) as fleet:
                samples.failed |= fleet.failed
                for section in sections:
                    left = seconds * section.share * (epoch + 1) / epochs - spent[section.name]
                    done, started = sum(spent.values()), time.monotonic()
                    progress.update(task, description=section.name)

                    def tick(passed: float, done: float = done) -> None:
                        progress.update(task, completed=done + passed)

                    measure(fleet, epoch, section, left, samples, tick)
                    spent[section.name] += time.monotonic() - started
    return samples


def _as_json(known: tables.Figures, samples: Samples) -> dict[str, object]:
    rounded = {
        name: {key: {part: round(value, 3) for part, value in asdict(figure).items()} for key, figure in each.items()}
        for name, each in known.items()
    }
    return {"us": rounded, "rounds": {key: len(rounds) for key, rounds in samples.epochs.items()}}
