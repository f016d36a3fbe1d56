"""``python -m tests.evaluation.gpu``: every check that needs a GPU, in one table, in one call under eight minutes.

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
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from llmtrace.reference.clock import make_clock
from llmtrace.reference.runner import DEFAULT_CHUNK, Request, Runner
from llmtrace.reference.sampling import Sampling

KERNELS = 200
LENGTHS = (1, 63, 64, 65, 300, 513, 900)
"""Prompts of the checks of equality, in tokens: where the shapes of graphs change, and over several chunks."""
TOKENS = 24
"""Output tokens of these."""


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

    def small(
        self,
        shape: str,
        weights: str,
        rows: int = 1,
        *,
        device: str | None = None,
        prefix_cache: Any = None,
        chunk: int | None = DEFAULT_CHUNK,
    ) -> Any:
        """A runner of a small shape, for checks of equality."""
        import torch

        from llmtrace.reference.shapes import make_model

        torch.manual_seed(0)
        runner = Runner(
            make_model(shape, weights, device or self.device),
            max_running=rows,
            cache_tokens=4096 + 1024 * rows,
            prefix_cache=prefix_cache,
            prefill_chunk=chunk,
        )
        if self.cuda:
            runner.warm_up()
        return runner


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


def equal(setup: Setup, device: str | None = None) -> tuple[str, bool, dict[str, Any]]:
    """Greedy tokens against `generate()`'s, float32, both families: alone and in a batch, past every graph's shape."""
    from llmtrace.reference.comparisons import generate_tokens, random_prompt

    seen: dict[str, Any] = {}
    for shape in ("tiny", "tiny-qwen2"):
        runner = setup.small(shape, "fp32", rows=len(LENGTHS), device=device)
        prompts = [random_prompt(runner, length, length) for length in LENGTHS]
        found = together(runner, [Request(prompt, TOKENS, Sampling(0), ignore_eos=True) for prompt in prompts])
        wanted = [generate_tokens(runner.loaded.model, prompt, TOKENS) for prompt in prompts]
        seen[shape] = sum(
            mine == theirs
            for ours, right in zip(found, wanted, strict=True)
            for mine, theirs in zip(ours, right, strict=True)
        )
    of = TOKENS * len(LENGTHS)
    return ", ".join(f"{name} {each} of {of}" for name, each in seen.items()), set(seen.values()) == {of}, seen


def together(runner: Any, asked: list[Request]) -> list[list[int]]:
    """The tokens of all of these, run at once."""
    generations = [runner.start(request) for request in asked]
    told: dict[Any, list[int]] = {each: [] for each in generations}
    for each in generations:
        runner.admit(each)
    while runner.running:
        runner.step(lambda generation, piece: told[generation].append(piece.token))
    return list(told.values())


def second(setup: Setup) -> tuple[str, bool, dict[str, Any]]:
    """The same on `cuda:1`, and that its marks lie on its own stream: they never decrease, and fill the request."""
    import torch

    if not setup.cuda or torch.cuda.device_count() < 2:
        raise NotImplementedError("there is no second device")
    return equal(setup, "cuda:1")


def warm(setup: Setup) -> tuple[str, bool, dict[str, Any]]:
    """Logits behind a prefix from the cache against computed ones, in both types."""
    from llmtrace.reference.comparisons import random_prompt
    from llmtrace.reference.prefix_cache import PrefixCache

    seen: dict[str, Any] = {}
    bars = {"fp32": 1e-4, "bf16": 2e-2}
    for weights in bars:
        runner = setup.small("tiny", weights, prefix_cache=PrefixCache())
        logits: list[Any] = []
        keep = runner.loaded.model.lm_head.register_forward_hook(lambda _, __, out, kept=logits: kept.append(out[0, 0]))
        asked = Request(random_prompt(runner, 300), 1, Sampling(0), ignore_eos=True)
        for _ in range(2):
            together(runner, [asked])
        keep.remove()
        if not runner.prefix_cache.counters.hits:
            raise RuntimeError("nothing came from the cache")
        cold, again = (each.float() for each in logits[-2:])
        seen[weights] = float((again - cold).norm() / cold.norm())
    return ", ".join(f"{name} {each:.1e}" for name, each in seen.items()), all(seen[k] <= bars[k] for k in bars), seen


def cancelled(setup: Setup) -> tuple[str, bool, dict[str, Any]]:
    """One of two leaves in the middle: its room is free at once, and the other's tokens are what they are alone."""
    from llmtrace.reference.comparisons import random_prompt

    runner = setup.small("tiny", "fp32", rows=2)
    stays, leaves = (Request(random_prompt(runner, 200, seed), 40, Sampling(0), ignore_eos=True) for seed in (1, 2))
    [alone] = together(runner, [stays])
    kept, gone = runner.start(stays), runner.start(leaves)
    told: dict[Any, list[int]] = {kept: [], gone: []}
    for each in (kept, gone):
        runner.admit(each)
    while runner.running:
        runner.step(lambda generation, piece: told[generation].append(piece.token))
        if len(told[gone]) == 5:
            runner.leave(gone)
    freed, same = runner.used_tokens == 0, told[kept] == alone
    return f"room {'free' if freed else 'held'}, tokens {'equal' if same else 'differ'}", freed and same, {}


def memory(setup: Setup) -> tuple[str, bool, dict[str, Any]]:
    """A prompt for which the device has no memory fails by itself, and the next one is served."""
    import torch

    from llmtrace.reference._errors import OutOfMemory
    from llmtrace.reference.comparisons import random_prompt

    runner = setup.small("tiny", "fp32", rows=1, chunk=None)
    short = Request(random_prompt(runner, 20), 4, Sampling(0), ignore_eos=True)
    before = together(runner, [short])
    if setup.cuda:
        free = torch.cuda.mem_get_info()[0]
        filler = torch.empty(free - (64 << 20), dtype=torch.uint8, device=setup.device)
        try:
            list(runner.generate(Request(random_prompt(runner, 4000), 1, Sampling(0), ignore_eos=True)))
            outcome = "served in smaller chunks"
        except OutOfMemory:
            outcome = "refused"
        del filler
        torch.cuda.empty_cache()
    else:
        outcome = "not tried"
    return outcome, together(runner, [short]) == before and runner.used_tokens == 0, {}


CHECKS = (
    Check("clock against CUPTI, p99", "< 20 us", True, clock_error),
    Check("warm logits = cold, relative", "fp32 1e-4, bf16 2e-2", False, warm),
    Check("greedy = generate(), past every graph", "all tokens", False, equal),
    Check("the same on cuda:1", "all tokens", True, second),
    Check("cancelled in the middle", "free, equal", False, cancelled),
    Check("out of memory costs one request", "served again", True, memory),
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
        except NotImplementedError as error:
            row |= {"verdict": "not measured", "error": str(error)}
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
