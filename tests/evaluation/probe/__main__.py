"""``make probe-eval``: probes engines whose settings are drawn, and writes known against found into docs/probe.md."""

from __future__ import annotations

import argparse
import io
import os
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from llmtrace.probe import plan, text
from llmtrace.probe.clients import open_client
from llmtrace.probe.probing import probe
from llmtrace.probe.prompts import Prompts
from llmtrace.probe.session import Purse, Session
from llmtrace.probe.sheet import Figure, Sheet
from llmtrace.probe.tracing import Tracing
from tests.evaluation.common import freshness, provenance
from tests.evaluation.common.pages import write_section
from tests.evaluation.common.places import DOCS
from tests.evaluation.common.tables import Table
from tests.evaluation.phases.engines import NotHere
from tests.evaluation.probe.engines import ENGINES, INTEGERS, TITLES, right

PAGE = DOCS / "probe.md"


@dataclass(frozen=True, slots=True)
class Checked:
    """One figure of one round."""

    engine: str
    known: float | str
    figure: Figure
    right: bool


def main() -> None:
    parser = argparse.ArgumentParser(prog="make probe-eval", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="of each engine; each with settings of its own")
    parser.add_argument("--engine", action="append", choices=tuple(ENGINES), help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, default=None, help="drawn anew each run unless given")
    parser.add_argument("--no-write", action="store_true", help="leave docs/probe.md as it is")
    chosen = parser.parse_args()
    seed = provenance.new_seed(chosen.seed)
    started, load = time.time(), provenance.load_average()
    print(f"seed {seed}", flush=True)
    checked: list[Checked] = []
    absent: list[str] = []
    example: tuple[Sheet, list[Checked]] | None = None
    for key in chosen.engine or ENGINES:
        draw = random.Random(seed)
        for number in range(chosen.rounds):
            try:
                rows, sheet = played(key, draw)
                checked += rows
                example = example or (sheet, rows)
            except NotHere as why:
                absent.append(f"{TITLES[key]}: {why}.")
                break
            wrong = [one for one in checked if not one.right and one.engine == key]
            print(f"{key}, round {number + 1}: {len(wrong)} wrong so far", flush=True)
    lines = [
        *freshness.stamp("probe"),
        *(printed(*example) if example is not None else []),
        provenance.sentence(provenance.machine(provenance.make_command("probe-eval"), started, load), seed),
        *absent,
        "",
        table(checked).grid(),
    ]
    print("\n".join(lines))
    if not chosen.no_write:
        write_section(PAGE, "probe-eval", lines)


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
        finally:
            tracing.close()
            client.close()
        if sheet.stopped == "interrupted":
            raise KeyboardInterrupt
        known = {**engine.known, **engine.measured(steps)}
    rows: list[Checked] = []
    for name, truth in known.items():
        figure = sheet[name]
        agrees = right(name, truth, figure.value, figure.low, figure.high)
        if not agrees:
            print(f"  {name}: {truth} is known, {figure.value} ({figure.low} to {figure.high}) found {figure.note}")
        rows.append(Checked(key, truth, figure, agrees))
    return rows, sheet


def printed(sheet: Sheet, rows: list[Checked]) -> list[str]:
    """A real sheet as a terminal of 80 columns shows it, below what is known of that server."""
    from rich.console import Console

    out = io.StringIO()
    text.print_sheet(sheet, Console(file=out, width=80, no_color=True, highlight=False))
    known = ", ".join(f"`{one.figure.name}` {shown(one.known)}" for one in rows)
    lines = [line.rstrip() for line in out.getvalue().rstrip().splitlines()]
    return ["One of the sheets below, of a server with the settings " + known + ":", "", "```", *lines, "```", ""]


def table(checked: list[Checked]) -> Table:
    """By engine and figure: how often it was right, and how wide its interval was."""
    rows: list[list[str]] = []
    for engine, name in dict.fromkeys((one.engine, one.figure.name) for one in checked):
        ours = [one for one in checked if (one.engine, one.figure.name) == (engine, name)]
        exact = name in INTEGERS or isinstance(ours[0].known, str)
        share = f"{sum(one.right for one in ours)} of {len(ours)}"
        known = ", ".join(dict.fromkeys(shown(one.known) for one in ours))
        rows.append([f"{TITLES[engine]}, `{name}`", known, "the setting" if exact else "in its interval", share])
    return Table("Known and found", ("engine, figure", "known", "right means", "right"), rows)


def shown(value: float | str) -> str:
    """A known setting; seconds to three figures."""
    return value if isinstance(value, str) else f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
