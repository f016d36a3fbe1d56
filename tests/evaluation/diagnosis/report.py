"""What came out, as the measured part of docs/diagnosis.md."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from llmtrace.diagnosis.verdict import CAUSES
from tests.evaluation.common import freshness, provenance
from tests.evaluation.diagnosis.golden import slow_turn
from tests.evaluation.diagnosis.plot import NOTHING
from tests.evaluation.diagnosis.trials import PAIRS, Stated, Trial
from tests.evaluation.diagnosis.wire import Wired

_BINS = (0.0, 0.7, 0.8, 0.9, 0.95, 1.0)


@dataclass
class Results:
    """All that was played."""

    where: dict[str, Any]
    """The machine, the commit and the command."""
    seed: int
    speed: tuple[float, float, float]
    singles: list[Trial]
    pairs: list[Trial]
    calm: list[Trial]
    bimodal: list[Trial]
    wired: list[Wired]
    real: list[Trial]
    real_took: float
    """Seconds."""


def page(found: Results) -> str:
    """Tables in Markdown."""
    golden, simulated = slow_turn(), [*found.singles, *found.pairs]
    lines = [
        *freshness.stamp("diagnosis", found.where["commit"]),
        f'{provenance.sentence(found.where, found.seed)} `ARGS="--seed {found.seed}"` plays the same episodes.',
        "",
        "| what | measured | bar |",
        "|---|---|---|",
        f"| single causes right, {len(found.singles)} episodes | {_share(found.singles)} | 95 % |",
        f"| both of a pair and nothing else, {len(found.pairs)} episodes | {_share(found.pairs)} | 85 % |",
        f"| false alarms per 1,000 calm calls, {_calls(found.calm):,} calls | {_alarms(found.calm)} | < 1 |",
        f"| the same before the episodes, {_calls(simulated):,} calls | {_alarms(simulated)} | < 1 |",
        f"| the same on a bimodal network, {_calls(found.bimodal):,} calls | {_alarms(found.bimodal)} | silent |",
        f"| real servers: single causes right, {len(found.real)} episodes | {_share(found.real)} | 95 % |",
        f"| real servers: false alarms per 1,000, {_calls(found.real):,} calls | {_alarms(found.real)} | < 1 |",
        "| one verdict: mean CPU time; median and 99th percentile of wall time "
        f"| {found.speed[0]:.1f}; {found.speed[1]:.1f}, {found.speed[2]:.1f} µs | 15 µs |",
        f"| the slow turn | `{golden.cause}`, {1e6 * (golden.per_token or 0):.0f} µs per token | 94 µs |",
        "",
        f"What was named in calm traffic: {_said(_false(found.calm))}; on the bimodal network: "
        f"{_said(_false(found.bimodal))}; on real servers: {_said(_false(found.real))}.",
        "",
        "![Which cause was injected, and which was named](diagnosis/confusion.svg)",
        "",
        "Precision and recall over the single causes, and the calls until it was named (0: in the first one).",
        "",
        "Simulated:",
        "",
        *_causes(found.singles),
        "",
        "| pair | right | named instead |",
        "|---|---|---|",
    ]
    for pair in PAIRS:
        mine = [trial for trial in found.pairs if trial.truth == pair]
        lines.append(
            f"| `{pair[0]}`, `{pair[1]}` | {sum(t.right for t in mine)} of {len(mine)} | {_said(_wrong(mine))} |"
        )
    lines += ["", f"On real servers, {found.real_took / 60:.0f} minutes:", "", *_causes(found.real)]
    lines += ["", "The simulated calls played to the real client over real sockets, from the spans:", ""]
    lines += ["| injected | calls | named |", "|---|---|---|"]
    lines += [f"| `{one.truth}` | {one.calls} | {_said(one.named)} |" for one in found.wired]
    lines += ["", "### Confidence", "", *_reliability(found), ""]
    return "\n".join(lines)


def _causes(trials: Sequence[Trial]) -> list[str]:
    lines = [
        "| injected | right | named besides or instead | precision | recall | delay, median and most |",
        "|---|---|---|---|---|---|",
    ]
    for cause in CAUSES:
        mine = [trial for trial in trials if trial.truth == (cause,)]
        if not mine:
            continue
        hits = sum(cause in trial.verdict for trial in mine)
        claimed = sum(cause in trial.verdict for trial in trials)
        delays = [trial.first for trial in mine if trial.first is not None]
        told = f"{statistics.median(delays):.0f}, {max(delays)}" if delays else "never"
        precision = f"{hits / claimed:.3f}" if claimed else "none named"
        lines.append(
            f"| `{cause}` | {sum(t.right for t in mine)} of {len(mine)} | {_said(_wrong(mine))} | {precision} "
            f"| {hits / len(mine):.3f} | {told} |"
        )
    return lines


def _reliability(found: Results) -> list[str]:
    """Stated confidence against how often the verdict was what had been injected."""
    simulated = [*found.singles, *found.pairs, *found.calm, *found.bimodal]
    lines = [
        "Stated confidence against how often that cause had been injected into that very call. "
        f"{_mix(simulated)} of the simulated calls and {_mix(found.real)} of the real ones had a cause.",
        "",
        "| stated | simulated: verdicts, mean stated, right | real: verdicts, mean stated, right |",
        "|---|---|---|",
    ]
    for low, high in pairwise(_BINS):
        cells: list[str] = []
        for trials in (simulated, found.real):
            cells.append(_bin([said for trial in trials for said in trial.stated if low <= said[1] < high]))
        lines.append(f"| {low:.2f} to {high:.2f} | {cells[0]} | {cells[1]} |")
    return lines


def _bin(stated: Sequence[Stated]) -> str:
    if not stated:
        return "none"
    mean, right = (sum(said[place] for said in stated) / len(stated) for place in (1, 2))
    return f"{len(stated):,}, {mean:.2f}, {right:.2f}"


def _mix(trials: Sequence[Trial]) -> str:
    faulty = sum(trial.calls for trial in trials)
    return f"{100 * faulty / max(1, faulty + _calls(trials)):.0f} %"


def _calls(trials: Sequence[Trial]) -> int:
    return sum(trial.calm_calls for trial in trials)


def _false(trials: Sequence[Trial]) -> Counter[str]:
    return sum((trial.false_alarms for trial in trials), Counter[str]())


def _alarms(trials: Sequence[Trial]) -> str:
    return f"{1000 * _false(trials).total() / max(1, _calls(trials)):.2f}"


def _wrong(trials: Sequence[Trial]) -> Counter[str]:
    return Counter(" + ".join(trial.verdict) or NOTHING for trial in trials if not trial.right)


def _share(trials: Sequence[Trial]) -> str:
    return f"{100 * sum(trial.right for trial in trials) / len(trials):.1f} %" if trials else "not played"


def _said(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common(4)) or NOTHING
