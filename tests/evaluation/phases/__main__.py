"""``python -m tests.evaluation.phases``: measures how right the blind client's phases are, and writes docs/accuracy.md.

``--recorded`` plays only the recordings and the simulated engine and prints the tables: no server, no page.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tests.evaluation.common import provenance
from tests.evaluation.common.tables import Table
from tests.evaluation.phases import bars, tables
from tests.evaluation.phases.cells import Cell
from tests.evaluation.phases.judged import judge
from tests.evaluation.phases.measured import Measured
from tests.evaluation.phases.run import OFFLINE, Asked, Run

_RECORDED_S = 110.0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make accuracy", description="How right the blind client's phases are.")
    parser.add_argument("--recorded", action="store_true", help="only recordings and the simulated engine; no page")
    parser.add_argument("--only", metavar="CELL", help="cells with one of these words, separated by commas")
    parser.add_argument("--seed", type=int, help="of prompts and arrivals (default: a new one, printed)")
    return parser.parse_args()


def main() -> int:
    """Measure and show."""
    args = arguments()
    console = Console() if sys.stdout.isatty() else Console(width=240)
    os.environ.pop("LLMTRACE_BASELINE_PATH", None)  # nothing learned elsewhere may help
    only = tuple(word.strip() for word in args.only.split(",")) if args.only else ()
    asked = Asked(OFFLINE, provenance.new_seed(args.seed), _RECORDED_S, only)
    console.print(f"seed {asked.seed}, commit {provenance.commit()}")
    run, stopped = Run(asked), False
    began = time.monotonic()
    columns = (TextColumn("{task.description:64}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
        task = progress.add_task("", total=asked.seconds)
        try:
            run.go(lambda what, seconds: progress.update(task, description=what[:64], advance=seconds))
        except KeyboardInterrupt:
            stopped = True
            run.not_run["the rest"] = "the run was stopped"
    for part, why in run.not_run.items():
        console.print(f"not run: {part}: {why}")
    for table in shown(run.facts({}), run.calls):
        table.show(console)
    console.print(f"{time.monotonic() - began:.0f} s, seed {asked.seed}")
    return 130 if stopped else 0


def shown(facts: dict[str, Any], calls: list[Measured]) -> list[Table]:
    """What the terminal shows: the bars last, where one looks first."""
    cells = judge([Cell(**cell) for cell in facts["cells"]], calls)
    if not cells:
        return []
    return [tables.against(cells), tables.more(cells), tables.errors(cells), tables.summary(bars.lines(cells))]


def stop(*_: object) -> None:
    """SIGTERM ends the run as Ctrl-C does."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    sys.exit(main())
