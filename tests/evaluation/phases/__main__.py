"""``python -m tests.evaluation.phases``: measures how right the blind client's phases are, and writes docs/accuracy.md.

Engines that are not installed are left out with a word (tests/e2e/setup.sh installs them). Ctrl-C ends the run; what
was measured by then is written all the same. ``--recorded`` plays only the recordings and the simulated engine, and
prints the tables: no server, and no page but where ``--out`` asks for one; ``--keep`` puts an earlier run's cells of
real servers on it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tests.evaluation.common import freshness, provenance
from tests.evaluation.common.places import DOCS, ROOT
from tests.evaluation.common.tables import Table
from tests.evaluation.phases import measured, report, tables
from tests.evaluation.phases.cells import TRAFFIC, Cell
from tests.evaluation.phases.judged import judge
from tests.evaluation.phases.measured import Measured
from tests.evaluation.phases.run import DONE, LIVE, OFFLINE, PARTS, QUICK, Asked, Run

FOLDER = ROOT / ".accuracy"
"""Of files that no page is made of by itself; not in the repository."""
_OFFLINE_S, _QUICK_S = 110.0, 55.0
_STOPPED = 130
"""The exit status of a run that was stopped."""


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make accuracy", description="How right the blind client's phases are.")
    known = ", ".join((*PARTS, *TRAFFIC))
    parser.add_argument("--only", metavar="CELL", help=f"parts or cells, separated by commas: {known}, a cell's name")
    parser.add_argument(
        "--recorded", action="store_true", help="only recordings and the simulated engine; a page only with --out"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a rehearsal of under a minute; its page goes to .accuracy"
    )
    parser.add_argument("--minutes", type=float, default=24.0, help="about how long the whole may take (default 24)")
    parser.add_argument("--seed", type=int, help="of prompts and arrivals (default: a new one, printed)")
    parser.add_argument("--out", type=Path, help="folder of accuracy.md and its plots (default: docs)")
    parser.add_argument("--calls", type=Path, help="where every call measured goes (default: .accuracy/calls.jsonl)")
    parser.add_argument("--from", dest="source", type=Path, help="only write the page anew from such a file of calls")
    parser.add_argument(
        "--keep", type=Path, help="a file of calls whose live cells stay on the page, with their commit"
    )
    args = parser.parse_args(given)
    args.page = not args.recorded or args.out is not None
    words = [word.strip() for word in args.only.split(",")] if args.only else []
    parts = OFFLINE if args.recorded else QUICK if args.quick else PARTS
    args.parts = tuple(part for part in parts if part in words) or parts
    args.only = tuple(word for word in words if word not in PARTS)
    if args.only and args.parts == parts:
        args.parts = tuple(part for part in parts if part in (*OFFLINE, *LIVE))
    args.out = args.out or (FOLDER / "quick" if args.quick else DOCS)
    args.calls = args.calls or (FOLDER if args.out == DOCS else args.out) / "calls.jsonl"
    for file in (args.source, args.keep):
        if file is not None and not file.is_file():
            parser.error(f"there is no file {file}")
    return args


def main(given: list[str] | None = None) -> int:
    """Measure, write, show."""
    args = arguments(given)
    console = Console() if sys.stdout.isatty() else Console(width=240)
    if args.source is not None:
        facts, calls = measured.read(args.source)
        console.print(f"written: {report.write(args.out, facts, calls)}")
        return 0
    os.environ.pop("LLMTRACE_BASELINE_PATH", None)  # nothing learned elsewhere may help
    seconds = _OFFLINE_S if args.recorded else _QUICK_S if args.quick else args.minutes * 60
    asked = Asked(args.parts, provenance.new_seed(args.seed), seconds, args.only, args.quick)
    console.print(f"seed {asked.seed}, commit {provenance.commit()}")
    load, code, started = provenance.load_average(), freshness.code_hash("phases"), time.time()
    run = Run(asked)
    stopped = _measure(run, console)
    where = provenance.machine(provenance.make_command("accuracy", _without_places(given)), started, load) | {
        "code": code
    }
    facts, page = run.facts({"machine": where}), None
    if args.keep is not None:
        facts = run.keep(facts, args.keep)
    if args.page:  # first of all: what was measured is not to be lost
        measured.write(args.calls, facts, run.calls)
        page = report.write(args.out, facts, run.calls)
    for part, why in run.not_run.items():
        console.print(f"not run: {part}: {why}")
    for table in shown(facts, run.calls):
        table.show(console)
    console.print(f"{where['seconds']} s, seed {asked.seed}, commit {where['commit']}")
    if page is not None:
        console.print(f"written: {page}, {args.calls}")
    return _STOPPED if stopped else 0


def _without_places(given: list[str] | None) -> list[str]:
    """The command line as the page tells it: files by their names, not by where they lay on this machine."""
    return [Path(word).name if "/" in word else word for word in (sys.argv[1:] if given is None else given)]


def _measure(run: Run, console: Console) -> bool:
    """Go through the run with a bar that shows how far it is; True where it was stopped."""
    columns = (TextColumn("{task.description:64}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
        task = progress.add_task("", total=run.asked.seconds)

        def say(what: str, seconds: float) -> None:
            progress.update(task, description=what[:64], advance=seconds)
            if what.startswith(DONE) and not console.is_terminal:
                console.print(what)  # nobody sees the bar

        try:
            run.go(say)
        except KeyboardInterrupt:
            run.not_run["the rest"] = "the run was stopped"
            return True
    return False


def shown(facts: dict[str, Any], calls: list[Measured]) -> list[Table]:
    """What the terminal shows: the bars last, where one looks first."""
    cells = judge([Cell(**cell) for cell in facts["cells"]], calls)
    lines = report.all_lines(facts, cells)
    some = [tables.against(cells), tables.more(cells), tables.errors(cells)] if cells else []
    return [*some, *([tables.summary(lines)] if lines else [])]


def stop(*_: object) -> None:
    """SIGTERM ends the run as Ctrl-C does."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    sys.exit(main())
