"""`python -m tests.reference.timing`: what the runner's clock costs, in CPU time, on a machine that others use too.

The clock is on in one step and off in the next, in changing order, so that both see the same context and the same
machine; what counts is the CPU time of the thread that owns the model. The ratio of each pair is noisy, and its median
over some thousand pairs is not: beside it stands the interval that holds the true median with 95 % (by drawing the
pairs again).
"""

from __future__ import annotations

import argparse
import random
import statistics
import time

import torch

from llmtrace.reference import LoadedModel, build_or_load
from llmtrace.reference.runner import Request, Runner
from llmtrace.reference.sampling import Sampling

PROMPT = 50
TOKENS = 400


def pairs(loaded: LoadedModel, batch: int) -> list[tuple[int, int]]:
    """CPU ns of a step with the clock on and of one with it off, over one crowd's answers."""
    runner = Runner(loaded, max_running=batch)
    clocks = [runner.new_clock(timing=timing) for timing in (True, False)]
    prompt = list(range(5, 5 + PROMPT))
    generations = [runner.start(Request(prompt, TOKENS, Sampling(0), ignore_eos=True)) for _ in range(batch)]
    for generation in generations:
        runner.admit(generation)
    runner.step(lambda *_: None)
    spent: list[tuple[int, int]] = []
    for number in range(TOKENS // 2 - 2):
        times = [0, 0]
        for which in (0, 1) if number % 2 else (1, 0):
            runner.clock = clocks[which]
            begin = time.thread_time_ns()
            runner.step(lambda *_: None)
            times[which] = time.thread_time_ns() - begin
        spent.append((times[0], times[1]))
    for generation in generations:
        runner.leave(generation)
    return spent


def main() -> None:
    """Measure, and print one line per batch."""
    parser = argparse.ArgumentParser(prog="python -m tests.reference.timing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="crowds per batch, of some 200 pairs each")
    asked = parser.parse_args()
    torch.set_num_threads(1)  # this thread does all the work
    loaded = build_or_load(device="cpu")
    for batch in (1, 8):
        spent = [pair for _ in range(asked.rounds) for pair in pairs(loaded, batch)]
        ratios = [on / off for on, off in spent]
        draw = random.Random(0)
        again = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(1000))
        print(
            f"batch {batch}: {len(spent)} pairs of steps of {statistics.median(off for _, off in spent) / 1e3:.0f} us; "
            f"on / off {statistics.median(ratios):.4f}, 95 %: {again[25]:.4f} to {again[974]:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
