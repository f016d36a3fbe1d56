"""``make diagnose-eval``: plays the trials, prints what came out and writes it into docs/diagnosis.md."""

from __future__ import annotations

import argparse
import random
import time

from rich.progress import Progress

from llmtrace.diagnosis.verdict import CAUSES
from tests.evaluation.common import provenance
from tests.evaluation.common.pages import write_section
from tests.evaluation.common.places import DOCS
from tests.evaluation.diagnosis import plot
from tests.evaluation.diagnosis.reality import reality
from tests.evaluation.diagnosis.report import Results, page
from tests.evaluation.diagnosis.speed import microseconds
from tests.evaluation.diagnosis.trials import PAIRS, Trial, calm, play
from tests.evaluation.diagnosis.wire import over_sockets

PAGE = DOCS / "diagnosis.md"


def main() -> None:
    parser = argparse.ArgumentParser(prog="make diagnose-eval", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="drawn anew each run unless given")
    parser.add_argument("--trials", type=int, default=60, help="simulated, per cause; a third of it per pair")
    parser.add_argument("--calm", type=int, default=20_000, help="calm calls, and as many on bimodal networks")
    parser.add_argument("--rounds", type=int, default=2, help="episodes per cause on real servers; 0: none")
    parser.add_argument("--no-write", action="store_true", help="leave docs/diagnosis.md as it is")
    chosen = parser.parse_args()
    seed, started, load = provenance.new_seed(chosen.seed), time.time(), provenance.load_average()
    print(f"seed {seed}", flush=True)
    draw = random.Random(seed)
    each, routes = max(1, chosen.trials // 3), max(1, chosen.calm // 250)
    speed = microseconds()
    singles: list[Trial] = []
    pairs: list[Trial] = []
    quiet: list[Trial] = []
    bimodal: list[Trial] = []
    with Progress() as progress:
        task = progress.add_task("Simulated", total=len(CAUSES) * chosen.trials + len(PAIRS) * each + 2 * routes)
        for cause in CAUSES:
            for _ in range(chosen.trials):
                singles.append(play((cause,), draw))
                progress.advance(task)
        for pair in PAIRS:
            for _ in range(each):
                pairs.append(play(pair, draw))
                progress.advance(task)
        for _ in range(routes):
            quiet.append(calm(draw, 250, False))
            bimodal.append(calm(draw, 250, True))
            progress.advance(task, 2)
        wired = over_sockets(draw)
        began, real = time.monotonic(), list[Trial]()
        if chosen.rounds:
            task = progress.add_task("On real servers", total=len(CAUSES) * chosen.rounds)
            real = reality(draw, chosen.rounds, lambda done: progress.advance(task))
    where = provenance.machine(provenance.make_command("diagnose-eval"), started, load)
    found = Results(where, seed, speed, singles, pairs, quiet, bimodal, wired, real, time.monotonic() - began)
    written = page(found)
    print(written)
    if not chosen.no_write:
        _write(found, written)


def _write(found: Results, written: str) -> None:
    write_section(PAGE, "measured", [written])
    (DOCS / "diagnosis").mkdir(exist_ok=True)
    titles = (
        (f"Simulated, {len(found.singles)} episodes", found.singles),
        (f"On real servers, {len(found.real)} episodes", found.real),
    )
    svg = plot.draw(
        [
            (f"{title}: % of the episodes with this cause in which it was named", trials)
            for title, trials in titles
            if trials
        ]
    )
    (DOCS / "diagnosis" / "confusion.svg").write_text(svg, encoding="utf-8")


main()
