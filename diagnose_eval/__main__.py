"""``make diagnose-eval``: plays the trials, prints what came out and writes it into docs/diagnosis.md."""

from __future__ import annotations

import argparse
import os
import platform
import random
import re
import secrets
import statistics
from collections import Counter
from pathlib import Path

from rich.progress import Progress

from diagnose_eval.golden import slow_turn
from diagnose_eval.speed import microseconds
from diagnose_eval.trials import PAIRS, Trial, calm, play
from diagnose_eval.wire import Wired, over_sockets
from llmtrace.phases.diagnosis.verdict import CAUSES

PAGE = Path(__file__).parent.parent / "docs" / "diagnosis.md"
NOTHING = "nothing"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m diagnose_eval", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="drawn anew each run unless given")
    parser.add_argument("--trials", type=int, default=60, help="per cause; a third of it per pair")
    parser.add_argument("--calm", type=int, default=20_000, help="calm calls, and as many on bimodal networks")
    parser.add_argument("--no-write", action="store_true", help="leave docs/diagnosis.md as it is")
    chosen = parser.parse_args()
    seed = chosen.seed if chosen.seed is not None else secrets.randbits(32)
    draw = random.Random(seed)
    each, routes = max(1, chosen.trials // 3), max(1, chosen.calm // 250)
    speed = microseconds()
    singles: list[Trial] = []
    pairs: list[Trial] = []
    quiet, bimodal = Counter[str](), Counter[str]()
    with Progress() as progress:
        task = progress.add_task("Trials in memory", total=len(CAUSES) * chosen.trials + len(PAIRS) * each + 2 * routes)
        for cause in CAUSES:
            for _ in range(chosen.trials):
                singles.append(play((cause,), draw))
                progress.advance(task)
        for pair in PAIRS:
            for _ in range(each):
                pairs.append(play(pair, draw))
                progress.advance(task)
        for _ in range(routes):
            quiet += calm(draw, 250, False)
            bimodal += calm(draw, 250, True)
            progress.advance(task, 2)
    wired = over_sockets(draw)
    written = report(seed, speed, singles, pairs, quiet, bimodal, routes * 250, wired)
    print(written)
    if not chosen.no_write:
        text = PAGE.read_text(encoding="utf-8")
        marks = re.compile(r"(<!-- measured -->\n).*(<!-- end -->)", re.S)
        PAGE.write_text(marks.sub(lambda found: found[1] + written + found[2], text), encoding="utf-8")


def report(
    seed: int,
    speed: tuple[float, float, float],
    singles: list[Trial],
    pairs: list[Trial],
    quiet: Counter[str],
    bimodal: Counter[str],
    calls: int,
    wired: list[Wired],
) -> str:
    golden = slow_turn()
    before = sum(trial.calm_calls for trial in [*singles, *pairs])
    early = sum(sum(trial.false_alarms.values()) for trial in [*singles, *pairs])
    lines = [
        f"`python -m diagnose_eval --seed {seed}`, Python {platform.python_version()}, {os.cpu_count()} cores.",
        "",
        "| what | measured | bar |",
        "|---|---|---|",
        f"| single causes right, {len(singles)} episodes | {_share(singles)} | 95 % |",
        f"| both of a pair and nothing else, {len(pairs)} episodes | {_share(pairs)} | 85 % |",
        f"| false alarms per 1,000 calm calls, {calls:,} calls | {1000 * quiet.total() / calls:.2f} | < 1 |",
        f"| the same before the episodes, {before:,} calls | {1000 * early / before:.2f} | < 1 |",
        f"| the same on a bimodal network, {calls:,} calls | {1000 * bimodal.total() / calls:.2f} | silent |",
        "| one verdict: mean CPU time; median and 99th percentile of wall time "
        f"| {speed[0]:.1f}; {speed[1]:.1f}, {speed[2]:.1f} µs | 15 µs |",
        f"| the slow turn | `{golden.cause}`, {1e6 * (golden.per_token or 0):.0f} µs per token | 94 µs |",
        "",
        f"What was named in calm traffic: {_said(quiet)}; on the bimodal network: {_said(bimodal)}.",
        "",
        "One row per injected cause, episodes by what was named; precision and recall over the single causes, and the",
        "calls until it was named (0: in the first one).",
        "",
        "| injected | right | named besides or instead | precision | recall | delay, median and most |",
        "|---|---|---|---|---|---|",
    ]
    for cause in CAUSES:
        mine = [trial for trial in singles if trial.truth == (cause,)]
        wrong = Counter(" + ".join(trial.verdict) or NOTHING for trial in mine if not trial.right)
        hits = sum(cause in trial.verdict for trial in mine)
        claimed = sum(cause in trial.verdict for trial in singles)
        delays = [trial.first for trial in mine if trial.first is not None]
        told = f"{statistics.median(delays):.0f}, {max(delays)}" if delays else "never"
        precision = f"{hits / claimed:.3f}" if claimed else "none named"
        lines.append(
            f"| `{cause}` | {sum(t.right for t in mine)} of {len(mine)} | {_said(wrong)} | {precision} "
            f"| {hits / len(mine):.3f} | {told} |"
        )
    lines += ["", "| pair | right | named instead |", "|---|---|---|"]
    for pair in PAIRS:
        mine = [trial for trial in pairs if trial.truth == pair]
        wrong = Counter(" + ".join(trial.verdict) or NOTHING for trial in mine if not trial.right)
        lines.append(f"| `{pair[0]}`, `{pair[1]}` | {sum(t.right for t in mine)} of {len(mine)} | {_said(wrong)} |")
    lines += [
        "",
        "Over real sockets, with the real client, from the spans:",
        "",
        "| injected | calls | named |",
        "|---|---|---|",
    ]
    lines += [f"| `{one.truth}` | {one.calls} | {_said(one.named)} |" for one in wired]
    return "\n".join([*lines, ""])


def _share(trials: list[Trial]) -> str:
    return f"{100 * sum(trial.right for trial in trials) / len(trials):.1f} %"


def _said(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common(4)) or NOTHING


main()
