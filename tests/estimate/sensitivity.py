"""``python -m tests.estimate.sensitivity``: what halving or doubling each constant of the estimate does to its figures.

Prints, for each constant, the mean queue error over the mean time to first token, the mean and the least coverage of
the 90 % interval, and the share that is not split, over the recorded runs of shared engines and some simulated ones. A
constant that moves them little needs no better source; one that moves them much must not be changed without these.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from types import ModuleType

from llmtrace.estimate import change, doubt, expectation, fitting, mixture, route, sharing
from tests.estimate.test_shared_engines import Chat, Seen, follow, grade, recorded, simulated

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
CONSTANTS: tuple[tuple[ModuleType, str, float, float], ...] = (
    (expectation, "_EDGE", 0.1, 0.4),
    (expectation, "_SHRINK", 3.0, 12.0),
    (expectation, "_FEW", 2.0, 8.0),
    (expectation, "USUAL_NOISE", 0.06, 0.24),
    (expectation, "_MOST_NOISE", 0.25, 0.5),
    (expectation, "_ROUNDS", 8, 24),
    (expectation, "_WIDEST", 1.0, 4.0),
    (fitting, "CALM", 24, 96),
    (fitting, "_CALM_SURE", 0.4, 0.8),
    (fitting, "_CALM_RISE", 1.15, 1.6),
    (change, "_RARE", 2.0, 6.0),
    (change, "_SURE", 1.5, 6.0),
    (change, "_MOST", 1.0, 4.0),
    (change, "_POSSIBLE", 0.0, 2.0),
    (doubt, "_AGAINST", 2.0, 8.0),
    (sharing, "_APART", 2.0, 4.0),
    (sharing, "_BEFORE", 2.0, 8.0),
    (sharing, "_LEAST", 0.04, 0.16),
    (sharing, "_FADES", 0.96, 0.99),
    (route, "_TAKEN_UP", 0.4, 0.8),
    (route, "_BUSY_PACE", 1.25, 2.0),
    (route, "_UNDECIDED", 0.7, 0.9),
    (route, "_WAY", 0.35, 1.4),
    (mixture, "_SHARED", 0.0, 0.5),
    (mixture, "_BEHIND", 0.12, 0.5),
    (mixture, "_CROWDED", 0.3, 0.9),
)


def cells(seed: int) -> Iterator[tuple[list[Seen], bool]]:
    """The calls of each cell, and whether their true queue holds the wait for the step that ran."""
    for name, whole_queue in RECORDED.items():
        yield recorded(name), whole_queue
    for tenants, rate in ((1, 10.0), (5, 12.0), (20, 10.0)):
        yield simulated(seed, 160, rate, tenants=tenants), True
    yield simulated(seed, 160, 10.0, Chat(), 5), True


def figures(played: list[tuple[list[Seen], bool]]) -> str:
    """One line over all cells."""
    grades = [grade(calls[WARM:], follow(calls)[WARM:], whole_queue=whole) for calls, whole in played]
    number = len(grades)
    covered = [one.covered for one, (_, whole) in zip(grades, played, strict=True) if whole]
    return (
        f"queue {sum(one.queue for one in grades) / number:.4f}  covered {sum(covered) / len(covered):.3f} "
        f"(least {min(covered):.2f})  unsplit {1 - sum(one.split for one in grades) / number:.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    seed = parser.parse_args().seed
    played = list(cells(seed))
    print(f"seed {seed}\n{'as it is':24} {figures(played)}", flush=True)
    for module, name, low, high in CONSTANTS:
        kept = getattr(module, name)
        for value in (low, high):
            setattr(module, name, value)
            print(f"{name:14} {value:<9} {figures(played)}", flush=True)
        setattr(module, name, kept)


if __name__ == "__main__":
    main()
