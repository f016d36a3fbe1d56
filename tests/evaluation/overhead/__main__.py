"""``make bench``: what tracing costs over the bare client. ``make bench ARGS="concurrency"`` measures one row of it.

Makes one virtual environment per package under .venvs/ (once). Without --quick the figures also go to results.json and
to the row's section of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from typing import Any

from rich.console import Console

from tests.evaluation.common import bars as limits
from tests.evaluation.common import freshness, provenance
from tests.evaluation.common.pages import NoSection
from tests.evaluation.common.places import ROOT
from tests.evaluation.overhead import clients, concurrency, instructions, results, sockets, warm
from tests.evaluation.overhead.environments import ENVS, prepare
from tests.evaluation.overhead.outcome import NotMeasured, Outcome, Plan, Row
from tests.evaluation.overhead.subjects import BARE

ROWS = [
    Row("calls", "a call, beside the bare client and the peers", sockets.calls),
    Row("chunks", "a chunk of a long stream, beside the peers", sockets.chunks),
    Row(
        "concurrency",
        "concurrent streams with prompts of all lengths",
        concurrency.measure,
        concurrency.ENVS,
    ),
    Row("memory", "bytes that an open stream holds", sockets.memory),
    Row("start-up", "import and instrument()", sockets.start_up),
    Row("warm", "calls, unsampled calls and chunks in one process without sockets", warm.measure, ()),
    Row("instructions", "the same in instructions; needs valgrind", instructions.measure, ()),
    Row("clients", "every client", clients.measure, ()),
]


def arguments() -> argparse.Namespace:
    """The command line."""
    shown = "; ".join(f"{row.name}: {row.what}" for row in ROWS)
    parser = argparse.ArgumentParser(prog="make bench", description="What tracing costs over the bare client.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"all where none is named. {shown}")
    parser.add_argument("--quick", action="store_true", help="a minute or two; prints, but writes no files")
    parser.add_argument("--seconds", type=float, help="measuring time of each row over sockets")
    parser.add_argument("--rounds", type=int, help="rounds of each row that counts them")
    parser.add_argument("--streams", type=_numbers, help="numbers of concurrent streams, separated by commas")
    parser.add_argument("--only", help="subjects (of the row clients: clients) to measure, separated by commas")
    parser.add_argument("--seed", type=int, help="of prompts (default: a new one, printed)")
    parser.add_argument("--fresh", action="store_true", help="make the virtual environments again")
    parser.add_argument("--resume", action="store_true", help="leave out the rows that were measured on this very code")
    parser.add_argument("--write", action=argparse.BooleanOptionalAction, help="write results.json and the page")
    asked = parser.parse_args()
    names = [row.name for row in ROWS]
    if unknown := [name for name in asked.rows if name not in names]:
        parser.error(f"no such row: {', '.join(unknown)} (known: {', '.join(names)})")
    return asked


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(each) for each in text.split(","))


def main() -> int:
    """Prepare, measure, report."""
    asked = arguments()
    console = Console() if sys.stdout.isatty() else Console(width=200)
    rows = [row for row in ROWS if not asked.rows or row.name in asked.rows]
    if asked.resume:
        rows = [row for row in rows if not results.is_measured(row.name)]
    seed = provenance.new_seed(asked.seed)
    plan = Plan(
        console,
        asked.quick,
        seed,
        only=set(asked.only.split(",")) if asked.only else None,
        seconds=asked.seconds,
        rounds=asked.rounds,
        streams=asked.streams,
    )
    console.print(f"seed {seed}")
    left_out: dict[str, str] = {}
    if wanted := _wanted_environments(rows, plan):
        plan.usable, left_out = prepare(console.print, wanted, fresh=asked.fresh)
        for env, reason in left_out.items():
            console.print(f"[yellow]skipped {env}:[/yellow] {reason}")
        if BARE not in plan.usable:
            return 1
    write = asked.write if asked.write is not None else not asked.quick
    missed = [row for row in rows if not measure(row, plan, left_out, write)]
    if write:
        results.publish_bars([row.name for row in ROWS])
        places = (results.RESULTS, results.PAGE)
        console.print(f"written: {', '.join(str(place.relative_to(ROOT)) for place in places)}")
    return int(bool(missed))


def measure(row: Row, plan: Plan, left_out: dict[str, str], write: bool) -> bool:
    """One row, shown and written; False where it could not be measured."""
    started, load, code = time.time(), provenance.load_average(), freshness.code_hash(results.CODE)

    def keep(outcome: Outcome) -> None:
        if not write:
            return
        command = provenance.make_command("bench")
        where: dict[str, Any] = provenance.machine(command, started, load) | {"code": code, "seed": plan.seed}
        outcome.left_out |= {env: reason for env, reason in left_out.items() if env in row.envs}
        where["versions"] = results.versions([env for env in plan.usable if env in row.envs])
        results.save(row.name, where, outcome)
        try:
            results.publish(row.name, where, outcome)
        except NoSection as error:
            plan.console.print(f"[yellow]{error}[/yellow]")

    plan.so_far = keep
    try:
        outcome = row.measure(plan)
    except NotMeasured as error:
        plan.console.print(f"[yellow]{row.name} was not measured:[/yellow] {error}")
        return False
    except Exception:  # a fault of this row's own: the others go on
        plan.console.print_exception()
        plan.console.print(f"[yellow]{row.name} was not measured[/yellow]")
        return False
    for name, reason in outcome.left_out.items():
        plan.console.print(f"[yellow]{row.name}, {name}:[/yellow] {reason}")
    for table in outcome.tables:
        table.show(plan.console)
    for remark in outcome.remarks:
        plan.console.print(remark)
    if outcome.bars:
        limits.table(outcome.bars, f"{row.name}: figures beside their bars").show(plan.console)
    keep(outcome)
    plan.console.print(f"{row.name} took {time.time() - started:.0f} s")
    return True


def _wanted_environments(rows: list[Row], plan: Plan) -> list[str]:
    """The environments of these rows' subjects, as far as they were asked for."""
    needed = {env for row in rows for env in row.envs}
    if needed and plan.only is not None:
        asked = Plan(plan.console, plan.quick, plan.seed, list(ENVS), plan.only).subjects()
        needed = {subject.env for subject in asked} | {BARE}
    return [env for env in ENVS if env in needed]


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
