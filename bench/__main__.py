"""``python -m bench``: what tracing costs over the bare openai client, llmtrace and its peers side by side.

Makes one virtual environment per package under .venvs/ (once), then measures in interleaved rounds. Without --quick
the figures also go to bench/results.json and docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bench import report, tables
from bench.environments import ROOT, prepare, python, surroundings
from bench.processes import Broken, Fleet
from bench.rounds import Samples, measure, sections
from bench.subjects import BARE, LLMTRACE, SUBJECTS, Subject


class Run:
    """One run of the benchmark: what is measured, for how long, and what came of it."""

    def __init__(self, console: Console, subjects: list[Subject], *, seconds: float, quick: bool) -> None:
        self.console = console
        self.subjects = subjects
        self.seconds = seconds
        self.epochs = 1 if quick else 5
        self.starts = 2 if quick else 5
        self.sizes = (100, 1000, 4000) if quick else (100, 1000, 5000, 20_000)
        self.samples = Samples()
        self.memory: dict[str, dict[int, int]] = {}
        self.startup: dict[str, list[float]] = defaultdict(list)

    @property
    def alone(self) -> list[Subject]:
        """One subject per package, in its default mode."""
        return [s for s in self.subjects if s.peer or s.name in (BARE, LLMTRACE)]

    def go(self) -> None:
        """Measure everything, showing how far it is."""
        columns = (TextColumn("{task.description:24}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
        with Progress(*columns, TimeElapsedColumn(), console=self.console, transient=True) as progress:
            task = progress.add_task("", total=self.seconds + self.starts + len(self.alone))
            self.time_startups(lambda what: progress.update(task, description=what))
            progress.update(task, completed=self.starts)
            spent: dict[str, float] = defaultdict(float)
            for epoch in range(self.epochs):
                progress.update(task, description="starting the workers")
                with Fleet(self.subjects, PYTHONHASHSEED=str(epoch)) as fleet:
                    self.samples.failed |= fleet.failed
                    for section in sections():
                        left = self.seconds * section.share * (epoch + 1) / self.epochs - spent[section.name]
                        done, started = progress.tasks[0].completed, time.monotonic()
                        progress.update(task, description=section.name)

                        def tick(passed: float, done: float = done, most: float = left) -> None:
                            progress.update(task, completed=done + min(passed, most))

                        measure(fleet, epoch, section, left, self.samples, tick)
                        spent[section.name] += time.monotonic() - started
                        progress.update(task, completed=done + self.seconds * section.share / self.epochs)
            self.weigh_streams(lambda what: progress.update(task, advance=1, description=what))

    def time_startups(self, say: Any) -> None:
        """Import times, each in a process of its own; the first one only fills the caches."""
        say("import times")
        for turn in range(self.starts + 1):
            for subject in self.alone:
                if subject.switch:
                    command = [str(python(subject.env)), "-m", "bench.startup", subject.name]
                    done = subprocess.run(
                        command, capture_output=True, text=True, cwd=ROOT, env=surroundings(), check=False
                    )
                    if turn and not done.returncode:
                        self.startup[subject.name].append(json.loads(done.stdout.splitlines()[-1])["cpu"] / 1e6)

    def weigh_streams(self, say: Any) -> None:
        """Memory of open streams, in workers whose allocator can say to the byte what is in use."""
        with Fleet(self.alone, PYTHONMALLOC="malloc") as fleet:
            for name, worker in fleet.workers.items():
                say("memory")
                try:
                    self.memory[name] = {size: worker.ask(do="memory", size=size)["bytes"] for size in self.sizes}
                except Broken as error:
                    self.samples.failed[name] = str(error)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="What tracing costs over the bare client.")
    parser.add_argument("--quick", action="store_true", help="about a minute; prints, but writes no files")
    parser.add_argument("--seconds", type=float, help="measuring time (default 440, quick 26)")
    parser.add_argument("--only", help="subjects to measure beside the bare client, separated by commas")
    parser.add_argument("--fresh", action="store_true", help="make the virtual environments again")
    parser.add_argument("--write", action=argparse.BooleanOptionalAction, help="write results.json and the page")
    return parser.parse_args()


def main() -> int:
    """Prepare, measure, report."""
    args = arguments()
    console = Console() if sys.stdout.isatty() else Console(width=160)
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    usable, skipped = prepare(console.print, fresh=args.fresh)
    for env, reason in skipped.items():
        console.print(f"[yellow]skipped {env}:[/yellow] {reason}")
    if BARE not in usable:
        return 1
    wanted = set(args.only.split(",")) | {BARE, "control"} if args.only else {s.name for s in SUBJECTS}
    subjects = [s for s in SUBJECTS if s.env in usable and s.name in wanted]
    started = time.time()
    run = Run(console, subjects, seconds=args.seconds or (26 if args.quick else 440), quick=args.quick)
    run.go()
    for name, reason in run.samples.failed.items():
        console.print(f"[yellow]failed {name}:[/yellow] {reason}")
    found = tables.figures(run.samples)
    shown = [
        tables.bars(found, run.memory),
        *tables.costs(found, run.samples),
        tables.memories(run.memory),
        tables.startups(run.startup),
    ]
    for table in shown:
        report.show(console, table)
    if args.write if args.write is not None else not args.quick:
        machine = report.machine("python -m bench " + " ".join(sys.argv[1:]), started) | {"load_average_at_start": load}
        counts = {key: len(rounds) for key, rounds in run.samples.epochs.items()}
        facts = {"machine": machine, "versions": report.versions(usable), "rounds": counts}
        left_out = skipped | run.samples.failed
        report.save(facts, found, {"memory": run.memory, "startup_ms": run.startup, "left_out": left_out})
        report.publish(facts, shown, left_out)
        console.print(f"written: {report.RESULTS.relative_to(ROOT)}, {report.PAGE.relative_to(ROOT)}")
    return 0


def stop(*_: object) -> None:
    """SIGTERM ends the run as Ctrl-C does."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped")
        sys.exit(130)
