"""``python -m tests.evaluation.phases``: measures how right the blind client's phases are, and writes docs/accuracy.md.

Engines that are not installed are left out with a word (tests/e2e/setup.sh installs them). Ctrl-C ends the run; what
was measured by then is written all the same.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tests.evaluation.common import bars as limits
from tests.evaluation.common import freshness, provenance
from tests.evaluation.common.places import DOCS, ROOT
from tests.evaluation.common.tables import Table
from tests.evaluation.phases import audit, cost, engines, live, measured, recorded, report, tables
from tests.evaluation.phases.engines import FEW, FREE, Engine, NotHere
from tests.evaluation.phases.live import WARM_UP, Found
from tests.evaluation.phases.measured import Measured
from tests.support.replay import shared_folder

PARTS = ("cost", "audit", "recorded", "reference", "vllm", "llama")
"""The short ones first: a run that is stopped has them."""
_ENGINES: dict[str, Callable[[str, Path], AbstractContextManager[Engine]]] = {
    "reference": engines.reference,
    "vllm": engines.vllm,
    "llama": engines.llama,
}
_SLOTS = {"reference": (FEW, FREE), "vllm": (FEW, FREE), "llama": (FEW,)}
_SHARES = {"reference": 1.0, "vllm": 0.8, "llama": 0.4}
"""Measuring time of an engine with one number of slots, relative to the others."""
_STARTING = {"reference": 8.0, "vllm": 50.0, "llama": 5.0}
"""Seconds until it answers."""
_FIXED = 35.0
"""Seconds of a run against one engine beside its plan: capacity, warm-up, the end."""
_EVIDENCE = 60.0
"""Seconds for the two routes that cannot be split."""
_NO_DATA = "its recordings are not beside this checkout"


class Run:
    """One run: what is measured, for how long, and what came of it."""

    def __init__(self, console: Console, parts: list[str], *, seconds: float, seed: int) -> None:
        self.console = console
        self.parts = parts
        self.seconds = seconds
        self.seed = seed
        self.found: list[Found] = []
        self.recorded: list[tuple[dict[str, Any], list[Measured]]] = []
        self.audit: list[dict[str, Any]] = []
        self.cost: dict[str, Any] = {}
        self.not_run: dict[str, str] = {part: "left out of this run" for part in PARTS if part not in parts}

    def go(self) -> None:
        """Measure everything, showing how far it is."""
        began = time.monotonic()
        left = [(part, slots) for part in self.parts if part in _ENGINES for slots in _SLOTS[part]]
        columns = (TextColumn("{task.description:48}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
        with Progress(*columns, TimeElapsedColumn(), console=self.console, transient=True) as progress:
            task = progress.add_task("", total=max(self.seconds, 1.0))

            def say(what: str, seconds: float) -> None:
                progress.update(task, description=what[:48], advance=seconds)

            for part in self.parts:
                if part == "audit":
                    self._guarded(part, lambda: self._judge_hits(say))
                elif part == "recorded":
                    self._guarded(part, lambda: self._play_recordings(say))
                elif part == "cost":
                    self._guarded(part, lambda: self.cost.update(cost.measure(say)))
                for slots in _SLOTS.get(part, ()):
                    # What took longer than planned is taken from what is still to come.
                    rest = self.seconds - (time.monotonic() - began)
                    seconds = _for_each(left, rest) * _SHARES[part]
                    left.remove((part, slots))
                    if rest <= 0:
                        self.not_run[f"{part}, {slots}"] = "no time was left"
                    elif part not in self.not_run:
                        self._measure(part, slots, seconds, say)

    def _guarded(self, part: str, measure: Callable[[], None]) -> None:
        """One part's failure leaves the others' figures alone."""
        try:
            measure()
        except NotHere:
            raise
        except Exception as error:
            self.not_run[part] = f"broke off ({type(error).__name__}: {error})"

    def _measure(self, part: str, slots: str, seconds: float, say: live.Say) -> None:
        draw = random.Random(f"{self.seed} {part} {slots}")
        say(f"starting {part}, {slots}", 0.0)
        try:
            self._guarded(f"{part}, {slots}", lambda: self._against(part, slots, seconds, draw, say))
        except NotHere as why:
            self.not_run[part] = str(why)

    def _against(self, part: str, slots: str, seconds: float, draw: random.Random, say: live.Say) -> None:
        with (
            tempfile.TemporaryDirectory(prefix="llmtrace-accuracy-") as folder,
            _ENGINES[part](slots, Path(folder)) as engine,
        ):
            say(f"started {part}", _STARTING[part])
            found = Found(engine, slots)
            self.found.append(found)
            live.run(engine, found, seconds, draw, say)
            if not any(call.warm for call in found.calls):
                why = found.why or "the warm-up took all the time"
                self.not_run[f"{part}, {slots}"] = f"no call beyond the warm-up ({why})"
            if part == "reference" and slots == FEW:
                live.without_evidence(engine, found, draw, say)

    def _judge_hits(self, say: live.Say) -> None:
        folder = data("audit")
        if folder is None:
            self.not_run["audit"] = _NO_DATA
            return
        for path in sorted(folder.glob("*.csv.gz")):
            say("cache hits from timing", 0.3)
            self.audit.append(audit.judge(path).as_json())

    def _play_recordings(self, say: live.Say) -> None:
        folder = data("vllm_runs")
        if folder is None:
            self.not_run["recorded"] = _NO_DATA
            return
        for path in sorted(folder.glob("*.jsonl")):
            say(f"recorded: {path.stem}", 0.3)
            slots, rate = path.stem.split("_")
            facts = {
                "engine": "recorded",
                "title": "Recorded vLLM runs",
                "slots": f"{FEW if slots == 'seqs4' else FREE} at {rate.removeprefix('rate')} calls/s",
                "slot_count": 4 if slots == "seqs4" else 256,
                "admitted": True,
                "has_queue": True,
                "capacity": float("nan"),
                "failed": 0,
                "why": "",
            }
            # The recordings tell no capacity: at 4 calls/s nothing queues, at 12 and 18 the engine is nearly full.
            load = "0.3" if rate == "rate4" else "0.9"
            cell = measured.PLACE.join(("recorded", facts["slots"], f"Poisson {load}"))
            self.recorded.append((facts, recorded.play(recorded.read(path), cell, WARM_UP)))

    def results(self, facts: dict[str, Any]) -> tuple[dict[str, Any], list[Measured]]:
        """What the report is made of."""
        runs = [live.facts(found) for found in self.found] + [each for each, _ in self.recorded]
        calls = [call for found in self.found for call in found.calls]
        calls += [call for _, some in self.recorded for call in some]
        return facts | {
            "seed": self.seed,
            "runs": runs,
            "audit": self.audit,
            "cost": self.cost,
            "not_run": self.not_run,
        }, calls


def _for_each(left: list[tuple[str, str]], seconds: float) -> float:
    """Seconds of measuring for a whole share, of ``seconds`` in all for the engines and slots that are ``left``."""
    fixed = sum(_STARTING[part] + _FIXED for part, _ in left)
    fixed += _EVIDENCE if ("reference", FEW) in left else 0.0
    return max(30.0, (seconds - fixed) / sum(_SHARES[part] for part, _ in left))


def data(name: str) -> Path | None:
    """A folder of recordings beside this checkout, or None."""
    shared = shared_folder()
    return None if shared is None or not (shared / name).is_dir() else shared / name


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make accuracy", description="How right the blind client's phases are.")
    parser.add_argument("--only", help=f"parts to run, separated by commas: {', '.join(PARTS)}")
    parser.add_argument("--minutes", type=float, default=15.0, help="about how long the whole may take (default 15)")
    parser.add_argument("--seed", type=int, help="of prompts and arrivals (default: a new one, printed)")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder of accuracy.md and its plots")
    parser.add_argument("--calls", type=Path, default=ROOT / ".accuracy" / "calls.jsonl", help="every call measured")
    parser.add_argument("--from", dest="source", type=Path, help="only write the page anew from such a file of calls")
    args = parser.parse_args()
    args.parts = [part.strip() for part in args.only.split(",")] if args.only else list(PARTS)
    if unknown := [part for part in args.parts if part not in PARTS]:
        parser.error(f"no such part: {', '.join(unknown)} (known: {', '.join(PARTS)})")
    if args.source is not None and not args.source.is_file():
        parser.error(f"there is no file {args.source}")
    return args


def main() -> int:
    """Measure, write, show."""
    args = arguments()
    console = Console() if sys.stdout.isatty() else Console(width=200)
    if args.source is not None:
        facts, calls = measured.read(args.source)
        console.print(f"written: {report.write(args.out, facts, calls)}")
        return 0
    os.environ.pop("LLMTRACE_BASELINE_PATH", None)  # nothing learned elsewhere may help
    seed = provenance.new_seed(args.seed)
    console.print(f"seed {seed}")
    load, code = provenance.load_average(), freshness.code_hash("phases")
    run = Run(console, args.parts, seconds=args.minutes * 60, seed=seed)
    started, stopped = time.time(), False
    try:
        run.go()
    except KeyboardInterrupt:
        stopped = True
        run.not_run["the rest"] = "the run was stopped"
    where = provenance.machine(provenance.make_command("accuracy"), started, load) | {"code": code}
    facts, calls = run.results({"machine": where})
    measured.write(args.calls, facts, calls)
    for part, why in run.not_run.items():
        console.print(f"[yellow]not run: {part}:[/yellow] {why}")
    for table in shown(facts, calls):
        table.show(console)
    page = report.write(args.out, facts, calls)
    console.print(f"written: {page}, {args.calls}")
    return 130 if stopped else 0


def shown(facts: dict[str, Any], calls: list[Measured]) -> Iterator[Table]:
    """What the terminal shows."""
    runs = [run for run in (tables.Run(each, calls) for each in facts["runs"]) if run.warm]
    for run in runs:
        yield Table(f"{run.title}: {run.against().title}", run.against().head, run.against().rows)
    yield limits.table(
        [bar for run in runs for bar in run.bars()] + report.audit_bars(facts["audit"]) + report.cost_bars(facts)
    )


def stop(*_: object) -> None:
    """SIGTERM ends the run as Ctrl-C does."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    sys.exit(main())
