"""``make diagnose-eval``: plays the trials, prints what came out and writes it into docs/diagnosis.md."""

from __future__ import annotations

import argparse
import random
import signal
import time
from pathlib import Path
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from llmtrace.diagnosis.verdict import CAUSES
from tests.evaluation.common import provenance
from tests.evaluation.common.pages import write_section
from tests.evaluation.common.places import DOCS, ROOT
from tests.evaluation.diagnosis import kept, plot, report, settings
from tests.evaluation.diagnosis.bound import at_best
from tests.evaluation.diagnosis.notebook import Notebook, judged_again
from tests.evaluation.diagnosis.plan import calm_sessions, sessions
from tests.evaluation.diagnosis.population import population
from tests.evaluation.diagnosis.reality import Run, reality
from tests.evaluation.diagnosis.sizes import curve
from tests.evaluation.diagnosis.speed import microseconds
from tests.evaluation.diagnosis.trials import PAIRS, calm, play
from tests.evaluation.diagnosis.wire import over_sockets
from tests.evaluation.phases import engines

T = TypeVar("T")
PAGE = DOCS / "diagnosis.md"
DETAILS = DOCS / "diagnosis" / "measured.md"
RESULTS = ROOT / "build" / "diagnosis-real.jsonl"
CALM_RESULTS = ROOT / "build" / "diagnosis-calm.jsonl"
SIMULATED, REAL, KEPT = "simulated", "real", "kept"


def main() -> None:
    parser = argparse.ArgumentParser(prog="make diagnose-eval", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="drawn anew each run unless given")
    parser.add_argument("--only", choices=(SIMULATED, REAL, KEPT), help="one part of it, and of the page")
    parser.add_argument("--episodes", type=int, default=20, help="simulated, for each cause and size of the curve")
    parser.add_argument("--draws", type=int, default=4, help="of each simulated calm setting, 180 calls each")
    parser.add_argument("--routes", type=int, default=250, help="for the calibration, 300 calls each")
    parser.add_argument("--trials", type=int, default=30, help="simulated, per cause; a third of it per pair")
    parser.add_argument("--rounds", type=int, default=1, help="on real servers: 33 episodes each, and 8 more")
    parser.add_argument("--minutes", type=float, help="on real servers: so long at most; what is done then is written")
    parser.add_argument("--calm", type=int, help="on real servers: so many calls of each of six routes, all calm")
    parser.add_argument("--results", type=Path, help="where each real episode is kept as it ends (build/diagnosis-*)")
    parser.add_argument("--resume", action="store_true", help="on real servers: go on where --results ends")
    parser.add_argument("--judge", action="store_true", help="judge what --results holds again, without servers")
    parser.add_argument("--fit", action="store_true", help="only print the constants of confidence, fitted anew")
    parser.add_argument("--no-write", action="store_true", help="leave docs/diagnosis.md as it is")
    chosen = parser.parse_args()
    seed = provenance.new_seed(chosen.seed)
    print(f"seed {seed}", flush=True)
    if chosen.fit:
        made = population(random.Random(seed), chosen.routes)
        for key, weights in kept.fitted(made, kept.judged(kept.runs().values())).items():
            print(f"{key}: {weights}")
        return
    if chosen.only in (None, SIMULATED, KEPT):
        started, load = time.time(), provenance.load_average()
        held_out = kept.held_out(population(random.Random(seed), chosen.routes))
        where = provenance.machine(provenance.make_command("diagnose-eval"), started, load)
        _write("kept", report.kept(kept.runs(), held_out, where, seed), chosen, DETAILS)
    if chosen.only in (None, SIMULATED):
        with Progress() as progress:
            _simulated(chosen, seed, progress)
    if chosen.only in (None, REAL):
        signal.signal(signal.SIGTERM, _interrupt)  # what has been played is written all the same
        _real(chosen, seed)


def _simulated(chosen: argparse.Namespace, seed: int, progress: Progress) -> None:
    started, load, draw = time.time(), provenance.load_average(), random.Random(seed)
    each = max(1, chosen.trials // 3)
    task = progress.add_task("Simulated", total=8)

    def done(result: list[T]) -> list[T]:
        progress.advance(task)
        return result

    speed = microseconds()
    points = done(curve(draw, chosen.episodes))
    recorded = done(settings.over_recorded(seed, chosen.episodes // 2))
    calm_settings = done(settings.calm(seed, chosen.draws))
    many = population(draw, chosen.routes)
    progress.advance(task)
    singles = done([play((cause,), draw) for cause in CAUSES for _ in range(chosen.trials)])
    pairs = done([play(pair, draw) for pair in PAIRS for _ in range(each)])
    bimodal = done([calm(draw, 250, True) for _ in range(40)])
    wired = done(over_sockets(draw))
    where = provenance.machine(provenance.make_command("diagnose-eval"), started, load)
    played = report.Simulated(where, seed, speed, points, recorded, calm_settings, many, singles, pairs, bimodal, wired)
    _write("summary", report.summary(played), chosen)
    _write("measured", report.details(played), chosen, DETAILS)
    if not chosen.no_write:
        title = f"Simulated, {len(singles)} episodes: % of those with this cause in which it was named"
        (DETAILS.parent / "confusion.svg").write_text(plot.draw([(title, singles)]), encoding="utf-8")


def _real(chosen: argparse.Namespace, seed: int) -> None:
    started, load = time.time(), provenance.load_average()
    missing = engines.missing("vllm")
    results = chosen.results or (CALM_RESULTS if chosen.calm else RESULTS)
    if chosen.resume or chosen.judge:
        notebook = Notebook.read(results)
        seed = notebook.settings["seed"]
    else:
        settings = {"seed": seed, "rounds": chosen.rounds, "vllm": missing is None, "calm": chosen.calm}
        notebook = Notebook.begin(results, settings)
    if chosen.judge:
        judged_again(notebook.episodes)
    vllm, calm_calls = notebook.settings["vllm"], notebook.settings.get("calm")
    plan = sessions(random.Random(seed), notebook.settings["rounds"], vllm=vllm)
    if calm_calls:
        plan = calm_sessions(calm_calls, vllm=vllm)
    until = None if chosen.minutes is None else time.monotonic() + 60 * chosen.minutes
    run = Run(plan, notebook, until)
    bar = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*bar) as progress:
        task = progress.add_task("On real servers, calls", total=run.calls)

        def tell(words: str, calls: int) -> None:
            progress.advance(task, calls)
            if words:
                left = progress.tasks[task].time_remaining
                progress.console.print(
                    f"{len(notebook.episodes)}. {words}{'' if left is None else f' ({left:.0f} s left)'}"
                )

        run.tell = tell
        if not chosen.judge:
            reality(run, seed)
    where = provenance.machine(provenance.make_command("diagnose-eval"), started, load)
    notes = [] if notebook.settings["vllm"] else [f"vLLM: {missing or 'it was not there'}"]
    notes += run.failures
    if run.unplayed:
        notes.append(f"{run.unplayed} episodes{f' ({run.cut})' if run.cut else ''}")
    trials = [played.trial() for played in notebook.episodes]
    _write("real", report.real(trials, at_best(notebook.episodes), where), chosen)
    _write("real-details", report.real_details(trials, notes, where, seed), chosen, DETAILS)


def _interrupt(signal_number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _write(section: str, lines: list[str], chosen: argparse.Namespace, page: Path = PAGE) -> None:
    print("\n".join(lines), flush=True)
    if not chosen.no_write:
        write_section(page, section, lines)


if __name__ == "__main__":
    main()
