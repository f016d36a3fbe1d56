"""``make probe-eval``: probes engines whose settings are drawn, and writes known against found into docs/probe.md."""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llmtrace.probe import plan, text
from llmtrace.probe.clients import open_client
from llmtrace.probe.probing import INTERRUPTED_BY_HAND, probe
from llmtrace.probe.prompts import Prompts
from llmtrace.probe.session import Purse, Session
from llmtrace.probe.sheet import Sheet
from llmtrace.probe.tracing import Tracing
from tests.evaluation.common import freshness, provenance
from tests.evaluation.common.pages import write_section
from tests.evaluation.common.places import DOCS
from tests.evaluation.common.quantiles import median
from tests.evaluation.common.tables import Table
from tests.evaluation.phases.engines import NotHere
from tests.evaluation.probe.engines import ENGINES, INTEGERS, TITLES, right

PAGE = DOCS / "probe.md"


@dataclass(frozen=True, slots=True)
class Checked:
    """One figure of one round."""

    engine: str
    name: str
    known: float | str
    found: float | str | None
    low: float | None
    high: float | None
    right: bool


@dataclass(slots=True)
class Run:
    """All rounds of one engine in one run."""

    taken: str
    """When and where, as a sentence; or why there were none."""
    checked: list[Checked] = field(default_factory=list[Checked])
    example: list[str] = field(default_factory=list[str])
    """The first round's sheet, as the page shows it."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="make probe-eval", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="of each engine; each with settings of its own")
    parser.add_argument("--engine", action="append", choices=tuple(ENGINES), help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, default=None, help="drawn anew each run unless given")
    parser.add_argument("--no-write", action="store_true", help="leave docs/probe.md as it is")
    parser.add_argument("--keep", type=Path, help="a file that keeps each engine's last run: the page is made of all")
    chosen = parser.parse_args()
    seed = provenance.new_seed(chosen.seed)
    print(f"seed {seed}", flush=True)
    runs = kept(chosen.keep)
    for key in chosen.engine or ENGINES:
        runs[key] = run_of(key, chosen.rounds, seed)
        if chosen.keep is not None:
            chosen.keep.write_text(json.dumps({name: asdict(run) for name, run in runs.items()}), encoding="utf-8")
    lines = page({key: runs[key] for key in ENGINES if key in runs})
    print("\n".join(lines))
    if not chosen.no_write:
        write_section(PAGE, "probe-eval", lines)


def page(runs: dict[str, Run]) -> list[str]:
    """The section of the page."""
    return [
        *freshness.stamp("probe"),
        *next((run.example for run in runs.values() if run.example), []),
        *(f"- {TITLES[key]}: {run.taken}" for key, run in runs.items()),
        "",
        table([one for run in runs.values() for one in run.checked]).grid(),
    ]


def kept(file: Path | None) -> dict[str, Run]:
    """The last run of each engine as the file has it; none where there is no file yet."""
    if file is None or not file.exists():
        return {}
    stored: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return {
        key: Run(one["taken"], [Checked(**each) for each in one["checked"]], one["example"])
        for key, one in stored.items()
    }


def run_of(key: str, rounds: int, seed: int) -> Run:
    """Play all rounds of one engine."""
    run = Run("")
    draw = random.Random(seed)
    started, load = time.time(), provenance.load_average()
    commit = provenance.commit()
    command = provenance.make_command("probe-eval", ["--engine", key, "--rounds", str(rounds)])
    for number in range(rounds):
        try:
            rows, sheet = played(key, draw)
        except NotHere as why:
            run.taken = f"{why}."
            return run
        run.checked += rows
        run.example = run.example or printed(sheet, rows)
        wrong = sum(not one.right for one in run.checked)
        print(f"{key}, round {number + 1}: {wrong} wrong so far", flush=True)
    taken = provenance.sentence(provenance.machine(command, started, load), seed)
    run.taken = f"{taken} Commit `{commit}`."
    return run


def played(key: str, draw: random.Random) -> tuple[list[Checked], Sheet]:
    """One round: an engine with settings of its own, probed, and what is known beside what was found."""
    os.environ.pop("OPENAI_BASE_URL", None)
    with tempfile.TemporaryDirectory() as folder, ENGINES[key](draw, Path(folder)) as engine:
        client = open_client("openai", engine.base_url, None)
        options = plan.Options(engine.longest, 16, engine.life_s)
        steps = plan.steps(options, client.least)
        tracing = Tracing("openai", None, None)
        try:
            sheet, _ = probe(Session(client, Prompts(), Purse(), options.longest), tracing, steps, options)
            if sheet.stopped == INTERRUPTED_BY_HAND:
                raise KeyboardInterrupt
            known = {**engine.known, **engine.measured(steps, client)}
        finally:
            tracing.close()
            client.close()
    rows: list[Checked] = []
    for name, truth in known.items():
        figure = sheet[name]
        agrees = right(name, truth, figure.value, figure.low, figure.high)
        if not agrees:
            print(f"  {name}: {truth} is known, {figure.value} ({figure.low} to {figure.high}) found {figure.note}")
        rows.append(Checked(key, name, truth, figure.value, figure.low, figure.high, agrees))
    return rows, sheet


def printed(sheet: Sheet, rows: list[Checked]) -> list[str]:
    """A real sheet as a terminal of 80 columns shows it, below what is known of that server."""
    from rich.console import Console

    out = io.StringIO()
    text.print_sheet(sheet, Console(file=out, width=80, no_color=True, highlight=False))
    known = ", ".join(f"`{one.name}` {shown(one.known)}" for one in rows)
    lines = [line.rstrip() for line in out.getvalue().rstrip().splitlines()]
    return ["One of the sheets below, of a server with the settings " + known + ":", "", "```", *lines, "```", ""]


def table(checked: list[Checked]) -> Table:
    """By figure and engine: how often it was right, and how wide its interval was."""
    engines = list(dict.fromkeys(one.engine for one in checked))
    rows: list[list[str]] = []
    for name in dict.fromkeys(one.name for one in checked):
        cells: list[str] = []
        exact = True
        for engine in engines:
            ours = [one for one in checked if (one.engine, one.name) == (engine, name)]
            if not ours:
                cells.append("")
                continue
            exact = name in INTEGERS or isinstance(ours[0].known, str)
            told = missed(ours) if exact else widths(ours)
            share = f"{sum(one.right for one in ours)} of {len(ours)} ({drawn(ours)})"
            cells.append(share + (f": {told}" if told else ""))
        rows.append([f"`{name}`", "the setting" if exact else "in its interval", *cells])
    return Table("Known and found", ("figure", "right means", *(TITLES[engine] for engine in engines)), rows)


def drawn(ours: list[Checked]) -> str:
    """The settings that were drawn: each of a few, else the least and the greatest."""
    known = {one.known for one in ours}
    numbers = sorted(each for each in known if not isinstance(each, str))
    if len(numbers) > 2:
        return f"{shown(numbers[0])} to {shown(numbers[-1])}"
    return ", ".join(shown(each) for each in sorted(known, key=str))


def missed(ours: list[Checked]) -> str:
    """What was found in the place of settings; nothing where all were found."""
    wrong = [
        f"{'nothing' if one.found is None else shown(one.found)} for {shown(one.known)}"
        for one in ours
        if not one.right
    ]
    return ", ".join(wrong)


def widths(ours: list[Checked]) -> str:
    """How wide the intervals are beside what is known, in the middle of the rounds."""
    shares = [
        (one.high - one.low) / one.known
        for one in ours
        if not isinstance(one.known, str) and one.low is not None and one.high is not None
    ]
    return f"interval of {median(shares):.0%}" if shares else ""


def shown(value: float | str) -> str:
    """A known setting; seconds to three figures."""
    return value if isinstance(value, str) else f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
