"""``python -m tests.evaluation.gpu``: every check that needs a GPU, in one table, in one call under ten minutes.

Without CUDA the same code runs on the CPU with a tiny shape, as a rehearsal: what holds on any device is judged, what
only a GPU can tell is listed as not measured. A check that fails with an error is reported, and the others go on. The
exit code is 1 if a bar was missed or a check failed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from llmtrace.reference.clock import make_clock

KERNELS = 200


@dataclass(frozen=True)
class Check:
    """One line of the table."""

    name: str
    bar: str
    """As people read it."""
    gpu_only: bool
    """Whether on a CPU the figure would say nothing."""
    work: Callable[[Setup], tuple[str, bool, dict[str, Any]]]
    """The figure as people read it, whether it meets the bar, and everything measured."""


class Setup:
    """The model under test, built once and only when a check asks for it, and the device's ceilings."""

    def __init__(self, shape: str, device: str, prompt: int, steps: int, pairs: int) -> None:
        self.shape, self.device = shape, device
        self.prompt, self.steps, self.pairs = prompt, steps, pairs
        self.cuda = device.startswith("cuda")
        self._yardstick: Any = None
        self._why: Exception | None = None

    @property
    def yardstick(self) -> Any:
        """bf16, one sequence. Raises what building it raised, also the second time."""
        from llmtrace.reference.roofline import Yardstick, copy_rate, matrix_rate
        from llmtrace.reference.shapes import make_model

        if self._why is not None:
            raise self._why
        if self._yardstick is None:
            import torch

            try:
                copy, matrix = copy_rate(self.device), matrix_rate(self.device, torch.bfloat16)
                loaded = make_model(self.shape, "bf16", self.device)
                self._yardstick = Yardstick(loaded, rows=1, room=self.prompt + 256, copy=copy, matrix=matrix)
            except Exception as error:
                self._why = error
                raise
        return self._yardstick

    def small(self, shape: str, weights: str, rows: int = 1) -> Any:
        """A runner of a small shape, for checks of equality."""
        import torch

        from llmtrace.reference.runner import Runner
        from llmtrace.reference.shapes import make_model

        torch.manual_seed(0)
        return Runner(make_model(shape, weights, self.device), max_running=rows, cache_tokens=512 * rows)


def clock_errors(device: str) -> tuple[list[float], float]:
    """How far the marks are from the torch profiler's (CUPTI) timestamps, and the error that the clock states; all s.

    Sorted, of `KERNELS` matrix products with a mark behind each. The profiler's zero is its own, so the median
    difference is taken off first. Raises `RuntimeError` where the profiler did not see every product.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile

    clock = make_clock(device)
    side = torch.randn(2048, 2048, device=device)
    for _ in range(3):
        torch.mm(side, side)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
        clock.start()
        marks = [clock.mark()]
        for _ in range(KERNELS):
            torch.mm(side, side)
            marks.append(clock.mark())
        clock.resolve()
    kernels: dict[str, list[float]] = {}
    for event in seen.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            kernels.setdefault(event.name, []).append(event.time_range.end * 1e-6)
    # Names of kernels differ by device and library; a product is one of each that ran as often as there are products.
    each = [sorted(ends) for ends in kernels.values() if len(ends) == KERNELS]
    if not each:
        counts = {name: len(ends) for name, ends in kernels.items()}
        raise RuntimeError(f"the profiler saw no kernel {KERNELS} times: {counts}")
    ends = [max(at) for at in zip(*each, strict=True)]
    first = marks[0].at or 0
    apart = sorted(((mark.at or 0) - first) / 1e9 - end for mark, end in zip(marks[1:], ends, strict=True))
    offset = apart[len(apart) // 2]
    return sorted(abs(each - offset) for each in apart), clock.error_ns / 1e9


def clock_error(setup: Setup) -> tuple[str, bool, dict[str, Any]]:
    """p99 of the marks' distance from CUPTI's timestamps. There are none on a CPU; there only a clock's marks run."""
    if not setup.cuda:
        clock = make_clock(setup.device)
        clock.start()
        marks = [clock.mark() for _ in range(KERNELS)]
        clock.resolve()
        return "", all(mark.at is not None for mark in marks), {}
    errors, stated = clock_errors(setup.device)
    p99 = errors[math.ceil(len(errors) * 0.99) - 1]
    return f"{p99 * 1e6:.1f} us", p99 < 20e-6, {"p99_seconds": p99, "stated_seconds": stated}


def decode(setup: Setup) -> tuple[str, bool, dict[str, Any]]:
    """One sequence, a short context: the weights are nearly all that is read."""
    row = setup.yardstick.decode(1, min(128, setup.prompt), setup.steps)
    return f"{row['mbu']:.1%} ({row['tokens_per_second']:.1f} tokens/s)", row["mbu"] >= 0.8, row


def prefill(setup: Setup) -> tuple[str, bool, dict[str, Any]]:
    """One long prompt in one forward."""
    row = setup.yardstick.prefill(setup.prompt)
    return f"{row['mfu']:.1%} ({row['tokens_per_second']:.0f} tokens/s)", row["mfu"] >= 0.5, row


def timing(setup: Setup) -> tuple[str, bool, dict[str, Any]]:
    """Decode with marks against decode without, in turn."""
    from llmtrace.reference.comparisons import random_prompt, timing_cost

    runner = setup.yardstick.runner
    found = timing_cost(runner, random_prompt(runner, min(128, setup.prompt)), max(2, setup.steps), setup.pairs)
    lost, low, high = 1 - found.median, 1 - found.high, 1 - found.low
    return f"{lost:.2%} (quartiles {low:.2%} to {high:.2%})", lost < 0.01, found.as_json()


def graph(setup: Setup) -> tuple[str, bool, dict[str, Any]]:
    """The captured step's logits against the same step run uncaptured. A CPU captures nothing: there twice eager."""
    import torch

    runner = setup.small("tiny", "bf16")
    forward, slots = runner.forward, runner.slots
    worst = 0.0
    with torch.inference_mode():
        place = slots.take(64)
        logits = forward.prefill(place, torch.arange(1, 33, device=setup.device)[None])
        for _ in range(8):
            token = logits.argmax(-1)
            logits = forward.decode([place], [token]).clone()
            if setup.cuda:
                again = forward.last_graph.eager()[:1]
            else:
                slots.rewind(place, place.tokens - 1)
                again = forward.decode([place], [token])
            worst = max(worst, float((logits - again).abs().max()))
    return f"largest difference {worst:g}", worst == 0, {"largest_difference": worst}


def warm(setup: Setup) -> tuple[str, bool, dict[str, Any]]:
    """Logits after a prefix that was copied from the cache against computed ones, in both types."""
    import torch

    from llmtrace.reference.prefix_cache import PrefixCache

    seen: dict[str, Any] = {}
    bars = {"fp32": 1e-4, "bf16": 2e-2}
    for weights in bars:
        runner = setup.small("tiny", weights, 2)
        forward, slots = runner.forward, runner.slots
        ids = torch.arange(300, device=setup.device)[None] % runner.loaded.vocabulary
        prompt, cache = ids[0].tolist(), PrefixCache()
        with torch.inference_mode():
            cold_place, warm_place = slots.take(300), slots.take(300)
            cold = forward.prefill(cold_place, ids).float()
            cache.store(prompt, partial(slots.save, cold_place))
            slots.load(warm_place, cache.lookup(prompt))
            if not 0 < warm_place.tokens < 300:
                raise RuntimeError(f"{warm_place.tokens} of 300 tokens came from the cache")
            again = forward.prefill(warm_place, ids[:, warm_place.tokens :]).float()
        seen[weights] = float((again - cold).norm() / cold.norm())
    return ", ".join(f"{name} {each:.1e}" for name, each in seen.items()), all(seen[k] <= bars[k] for k in bars), seen


def greedy(setup: Setup) -> tuple[str, bool, dict[str, Any]]:
    """The runner's tokens against `generate()`'s, float32, both families."""
    from llmtrace.reference.comparisons import generate_tokens, random_prompt, runner_tokens

    seen: dict[str, Any] = {}
    for shape in ("tiny", "tiny-qwen2"):
        runner = setup.small(shape, "fp32")
        prompt = random_prompt(runner, 40)
        pairs = zip(runner_tokens(runner, prompt, 24), generate_tokens(runner.loaded.model, prompt, 24), strict=True)
        seen[shape] = sum(ours == theirs for ours, theirs in pairs)
    return ", ".join(f"{name} {each} of 24" for name, each in seen.items()), all(n == 24 for n in seen.values()), seen


CHECKS = (
    Check("clock against CUPTI, p99", "< 20 us", True, clock_error),
    Check("captured step = eager", "equal", True, graph),
    Check("warm logits = cold, relative", "fp32 1e-4, bf16 2e-2", False, warm),
    Check("greedy = generate()", "all tokens", False, greedy),
    Check("decode, bf16, batch 1: MBU", ">= 80 %", True, decode),
    Check("prefill, bf16: MFU", ">= 50 %", True, prefill),
    Check("timing on against off, tokens/s lost", "< 1 %", True, timing),
)


def run(setup: Setup, told: Console, rows: list[dict[str, Any]]) -> None:
    """Every check, whatever becomes of the others; `rows` grows as they come."""
    import torch

    for check in CHECKS:
        told.print(f"{check.name} ...", style="dim")
        begin = time.perf_counter()
        row: dict[str, Any] = {"check": check.name, "bar": check.bar, "figure": None}
        try:
            with torch.inference_mode():
                figure, met, seen = check.work(setup)
        except Exception as error:
            row["verdict"] = "failed"
            row["error"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        else:
            if check.gpu_only and not setup.cuda:
                row["verdict"] = "not measured"
            else:
                row |= {"figure": figure, "verdict": "met" if met else "missed", "measured": seen}
        row["seconds"] = round(time.perf_counter() - begin, 3)
        rows.append(row)


def main() -> int:
    """Run everything, print the table, write the JSON."""
    import torch

    from llmtrace.reference import RunnerError
    from llmtrace.reference.model import pick_device
    from llmtrace.reference.shapes import check_name

    parser = argparse.ArgumentParser(prog="python -m tests.evaluation.gpu", description=__doc__)
    parser.add_argument("--device", default="auto", help="auto, cuda, cpu")
    parser.add_argument("--shape", help="the model for decode, prefill and timing (llama-8b on CUDA, else tiny)")
    parser.add_argument("--prompt", type=int, help="prompt tokens (4096 on CUDA, else 64)")
    parser.add_argument("--steps", type=int, help="decode steps (64 on CUDA, else 4)")
    parser.add_argument("--pairs", type=int, help="pairs of runs with timing on and off (15 on CUDA, else 2)")
    parser.add_argument("--out", type=Path, default=Path("gpu-checks.json"), help="the JSON file")
    asked = parser.parse_args()
    try:
        device = pick_device(asked.device)
        check_name(asked.shape or "tiny")
    except RunnerError as error:
        print(error, file=sys.stderr)
        return 2
    cuda = device.startswith("cuda")
    setup = Setup(
        asked.shape or ("llama-8b" if cuda else "tiny"),
        device,
        asked.prompt or (4096 if cuda else 64),
        asked.steps or (64 if cuda else 4),
        asked.pairs or (15 if cuda else 2),
    )
    if not cuda:
        torch.set_num_threads(1)  # a rehearsal: nothing here is timed for its own sake
    name = torch.cuda.get_device_name() if cuda else "CPU"
    rows: list[dict[str, Any]] = []
    whole = {"device": device, "name": name, "torch": torch.__version__, "shape": setup.shape, "prompt": setup.prompt}
    begin = time.perf_counter()
    try:
        run(setup, Console(stderr=True, highlight=False), rows)
    except KeyboardInterrupt:
        return 130
    finally:
        whole |= {"seconds": round(time.perf_counter() - begin, 1), "done": len(rows) == len(CHECKS), "checks": rows}
        asked.out.write_text(json.dumps(whole, indent=1) + "\n")
    console = Console(highlight=False)
    table = Table("check", "bar", "figure", "verdict", "s")
    for row in rows:
        figure = row["figure"] or row.get("error") or "not measured"
        table.add_row(row["check"], row["bar"], figure, row["verdict"], f"{row['seconds']:.1f}")
    console.print(f"{name}, torch {torch.__version__}, {setup.shape}, prompt of {setup.prompt} tokens")
    console.print(table)
    if not cuda:
        console.print("No CUDA device: figures that only a GPU can tell are not measured.")
    console.print(f"wrote {asked.out}", soft_wrap=True)
    return int(any(row["verdict"] in ("missed", "failed") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
