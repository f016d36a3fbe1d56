"""``python -m tests.estimate.sensitivity``: what halving or doubling each constant of the estimate does to its figures.

Prints, for each constant, the mean queue error over the mean time to first token, the mean and the least coverage of
the 90 % interval, and the share that is not split, over the recorded runs of shared engines and some simulated ones. A
constant that moves them little needs no better source; one that moves them much must not be changed without these.

They go into docs/accuracy/sensitivity.json, from which ``make accuracy`` makes a table of the page. A few minutes on
two cores.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from multiprocessing import get_context
from statistics import fmean
from typing import Any

from tests.estimate.test_shared_engines import Chat, Seen, follow, grade, recorded, simulated
from tests.evaluation.common import provenance
from tests.evaluation.common.places import DOCS

WARM = 30
RECORDED = {
    "alone_load70": True,
    "share30_load60": True,
    "share30_load90": True,
    "vllm_alone_load60": False,
    "vllm_share30_load60": False,
    "vllm_share30_load90": False,
    "vllm_chat_share30_load60": False,
}
"""Runs, and whether their queue holds the wait for the step that ran."""
CONSTANTS: tuple[tuple[str, str, float, float], ...] = (
    ("expectation", "_EDGE", 0.1, 0.4),
    ("expectation", "_SHRINK", 3.0, 12.0),
    ("expectation", "_FEW", 2.0, 8.0),
    ("expectation", "USUAL_NOISE", 0.06, 0.24),
    ("expectation", "_MOST_NOISE", 0.25, 0.5),
    ("expectation", "_ROUNDS", 8, 24),
    ("expectation", "_WIDEST", 1.0, 4.0),
    ("fitting", "CALM", 24, 96),
    ("fitting", "_CALM_SURE", 0.4, 0.8),
    ("fitting", "_CALM_RISE", 1.15, 1.6),
    ("change", "_RARE", 2.0, 6.0),
    ("change", "_SURE", 1.5, 6.0),
    ("change", "_MOST", 1.0, 4.0),
    ("change", "_POSSIBLE", 0.0, 2.0),
    ("doubt", "_AGAINST", 2.0, 8.0),
    ("sharing", "_APART", 2.0, 4.0),
    ("sharing", "_BEFORE", 2.0, 8.0),
    ("sharing", "_EITHER", 2.0, 8.0),
    ("sharing", "_LEAST", 0.04, 0.16),
    ("sharing", "_FADES", 0.96, 0.99),
    ("route", "LOOK_EVERY", 1, 4),
    ("route", "_TAKEN_UP", 0.4, 0.8),
    ("route", "_BUSY_PACE", 1.25, 2.0),
    ("split", "_UNDECIDED", 0.7, 0.9),
    ("split", "_WAY", 0.35, 1.4),
    ("mixture", "_SHARED", 0.0, 0.5),
    ("mixture", "_BEHIND", 0.12, 0.5),
    ("mixture", "_CROWDED", 0.3, 0.9),
)
"""Modules of llmtrace.estimate, their constants, and two values beside the one that each has."""
RESULTS = DOCS / "accuracy" / "sensitivity.json"


@dataclass
class Figures:
    """Over all cells, with one constant set."""

    constant: str
    value: float
    queue: float
    """Mean |error| of the queue over the mean time to first token."""
    covered: float
    least: float
    """Coverage in the worst cell."""
    unsplit: float

    def line(self) -> str:
        """For the terminal."""
        return (
            f"{self.constant:24} {self.value:<9g} queue {self.queue:.4f}  covered {self.covered:.3f} "
            f"(least {self.least:.2f})  unsplit {self.unsplit:.3f}"
        )


def cells(seed: int) -> Iterator[tuple[list[Seen], bool]]:
    """The calls of each cell, and whether their true queue holds the wait for the step that ran."""
    for name, whole_queue in RECORDED.items():
        yield recorded(name), whole_queue
    for tenants, rate in ((1, 10.0), (5, 12.0), (20, 10.0)):
        yield simulated(seed, 160, rate, tenants=tenants), True
    yield simulated(seed, 160, 10.0, Chat(), 5), True


@cache
def _cells(seed: int) -> list[tuple[list[Seen], bool]]:
    return list(cells(seed))


def figures(seed: int, module: str = "", name: str = "", value: float = 0.0) -> Figures:
    """With one constant set so (none: as it is). To be called in a process of its own kind: it sets it for good."""
    kept = None
    if module:
        place = import_module(f"llmtrace.estimate.{module}")
        kept = getattr(place, name)
        setattr(place, name, value)
    played = _cells(seed)
    grades = [grade(calls[WARM:], follow(calls)[WARM:], whole_queue=whole) for calls, whole in played]
    if module:
        setattr(place, name, kept)
    covered = [one.covered for one, (_, whole) in zip(grades, played, strict=True) if whole]
    return Figures(
        f"{module}.{name}".strip("."),
        value,
        fmean(one.queue for one in grades),
        fmean(covered),
        min(covered),
        1 - fmean(one.split for one in grades),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=random.randrange(10_000), help="default: drawn, and printed")
    seed: int = parser.parse_args().seed
    jobs = [("", "", 0.0), *((module, name, value) for module, name, *both in CONSTANTS for value in both)]
    print(f"seed {seed}", flush=True)
    made: list[Figures] = []
    commit = provenance.commit()
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        for one in pool.map(figures, [seed] * len(jobs), *zip(*jobs, strict=True)):
            made.append(one)
            print(one.line() if one.constant else f"{'as it is':24} {one.line().lstrip()}", flush=True)
            # Written as it goes: a run that is stopped leaves what it has.
            facts: dict[str, Any] = {"seed": seed, "commit": commit, "constants": len(CONSTANTS)}
            facts["figures"] = [asdict(one) for one in made]
            RESULTS.write_text(json.dumps(facts, indent=1) + "\n")
    print(f"written: {RESULTS}")


if __name__ == "__main__":
    main()
