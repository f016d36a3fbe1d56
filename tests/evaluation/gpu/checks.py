"""``python -m tests.evaluation.gpu``: every check that needs a GPU, in one table, in one call under eight minutes.

Without CUDA the same code runs on the CPU with a tiny shape, as a rehearsal: what holds on any device is judged, what
only a GPU can tell is listed as not measured. The checks run in a process of their own (`watch`), each within its time:
one that fails, hangs or takes its process with it is reported, and the others go on; results are written as they come.
The exit code is 1 if a bar was missed or a check failed.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from llmtrace.reference.clock import make_clock
from llmtrace.reference.runner import DEFAULT_CHUNK, Request, Runner
from llmtrace.reference.sampling import Sampling
from tests.evaluation.gpu.watch import watch

WHOLE = 450.0
"""Seconds for all checks: with the table, under eight minutes."""
KERNELS = 200
Row = dict[str, Any]
LENGTHS = (1, 63, 64, 65, 300, 513, 900)
"""Prompts of the checks of equality, in tokens: where the shapes of graphs change, and over several chunks."""
REHEARSED = (1, 65, 130)
"""The same on a CPU, which has no graphs."""
TOKENS = 24
"""Output tokens of these."""
PATIENCE = 20
"""How many times as long a rehearsal may take: a CPU is slower, and others use it too."""


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
    limit: float
    """The seconds after which it has failed."""


class Setup:
    """The model under test, built once and only when a check asks for it, and the device's ceilings."""

    def __init__(self, shape: str, device: str, prompt: int, steps: int, pairs: int) -> None:
        self.shape, self.device = shape, device
        self.prompt, self.steps, self.pairs = prompt, steps, pairs
        self.cuda = device.startswith("cuda")
        self.lengths = LENGTHS if self.cuda else REHEARSED
        self.tokens = TOKENS if self.cuda else 8
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
        graphs: bool = True,
    ) -> Any:
        """A runner of a small shape, for checks of equality. Without `graphs` every step is launched anew."""
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
        if not graphs:
            model_runner: Any = runner._engine._processor.model_runner
            model_runner.use_cuda_graph_varlen = model_runner.use_cuda_graph_decode = False
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
    torch.cuda.synchronize(device)
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
    from llmtrace.reference.comparisons import generate_tokens

    seen: dict[str, Any] = {}
    for shape in ("tiny", "tiny-qwen2"):
        runner = setup.small(shape, "fp32", rows=len(setup.lengths), device=device)
        prompts, answers = crowd(setup, runner)
        wanted = [generate_tokens(runner.loaded.model, prompt, setup.tokens) for prompt in prompts]
        seen[shape] = sum(
            mine == theirs
            for ours, right in zip(answers, wanted, strict=True)
            for mine, theirs in zip(ours, right, strict=True)
        )
    of = setup.tokens * len(setup.lengths)
    return ", ".join(f"{name} {each} of {of}" for name, each in seen.items()), set(seen.values()) == {of}, seen


def tied(setup: Setup) -> tuple[str, bool, dict[str, Any]]:
    """bf16, as flash attention and graphs want it: how far each token's logit is off the best one's, over their spread.

    Two orders of adding change bf16's last bits, and so now and then a token; a wrong key or value changes more.
    """
    import torch

    worst, kinds, graphs = 0.0, set[str](), False
    for shape in ("tiny", "tiny-qwen2"):
        runner = setup.small(shape, "bf16", rows=len(setup.lengths))
        prompts, answers = crowd(setup, runner)
        model = runner.loaded.model
        kinds.add(str(model.config._attn_implementation))
        graphs |= bool(runner._engine._processor.model_runner.use_cuda_graph_varlen)
        for prompt, answer in zip(prompts, answers, strict=True):
            ids = torch.tensor([[*prompt, *answer]], device=model.device)
            logits = model(ids).logits[0, len(prompt) - 1 : -1].float()
            chosen = logits.gather(1, torch.tensor(answer, device=model.device)[:, None])[:, 0]
            worst = max(worst, float(((logits.max(1).values - chosen) / logits.std(1)).max()))
        if runner.failed_captures:
            raise RuntimeError("a graph could not be captured")
    how = f"{', '.join(sorted(kinds))}, {'graphs' if graphs else 'no graphs'}"
    return f"{worst:.3f} ({how})", worst < 0.1, {"worst": worst, "attention": sorted(kinds), "graphs": graphs}


def crowd(setup: Setup, runner: Any) -> tuple[list[list[int]], list[list[int]]]:
    """A prompt of each length, and the answers to them, run at once."""
    from llmtrace.reference.comparisons import random_prompt

    prompts = [random_prompt(runner, length, length) for length in setup.lengths]
    return prompts, together(
        runner, [Request(prompt, setup.tokens, Sampling(0), ignore_eos=True) for prompt in prompts]
    )


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
        # A hook on the model hears nothing of a graph that is replayed.
        runner = setup.small("tiny", weights, prefix_cache=PrefixCache(), graphs=False)
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

    from llmtrace.observe.clock import now
    from llmtrace.reference._errors import OutOfMemory
    from llmtrace.reference.comparisons import random_prompt
    from llmtrace.reference.timings import Timings

    runner = setup.small("tiny", "fp32", rows=1, chunk=None)
    short = Request(random_prompt(runner, 20), 4, Sampling(0), ignore_eos=True)
    before = together(runner, [short])
    timings, outcome, ran_out = Timings(arrived=now()), "not tried", True
    if setup.cuda:
        torch.cuda.empty_cache()
        filler = torch.empty(
            torch.cuda.mem_get_info(setup.device)[0] - (16 << 20), dtype=torch.uint8, device=setup.device
        )
        try:
            for _ in runner.generate(Request(random_prompt(runner, 4000), 1, Sampling(0), ignore_eos=True), timings):
                pass
            outcome, ran_out = f"served in {len(timings.chunks)} chunks", len(timings.chunks) > 1
        except OutOfMemory:
            outcome = "refused"
        del filler
        torch.cuda.empty_cache()
    again = together(runner, [short]) == before
    return outcome, ran_out and again and runner.used_tokens == 0, {"chunks": len(timings.chunks)}


CHECKS = (
    Check("clock against CUPTI, p99", "< 20 us", True, clock_error, 30),
    Check("warm logits = cold, relative", "fp32 1e-4, bf16 2e-2", False, warm, 40),
    Check("greedy = generate(), past every bucket", "all tokens", False, equal, 60),
    Check("bf16 greedy, off the best logit / spread", "< 0.1", False, tied, 60),
    Check("the same on cuda:1", "all tokens", True, second, 40),
    Check("cancelled in the middle", "free, equal", False, cancelled, 30),
    Check("out of memory costs one request", "served again", True, memory, 30),
    Check("decode, bf16, batch 1: MBU", ">= 80 %", True, decode, 75),
    Check("prefill, bf16: MFU", ">= 50 %", True, prefill, 75),
    Check("timing on against off, tokens/s lost", "< 1 %", True, timing, 75),
)


def run(setup: Setup, checks: Sequence[Check], begun: Callable[[str], None], news: Callable[[Row], None]) -> None:
    """These checks in this process, up to the first that fails: a failed device would fail the others too."""
    import torch

    for check in checks:
        begun(check.name)
        begin = time.perf_counter()
        row: Row = {"check": check.name, "figure": None}
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
        news(row)
        if row["verdict"] == "failed":
            return


def _child(setup: Setup, names: Sequence[str], lines: Path) -> None:
    """Run the checks of these names, and write their rows to the file."""

    def write(row: Row) -> None:
        with lines.open("a") as file:
            file.write(json.dumps(row) + "\n")

    chosen = [check for check in CHECKS if check.name in names]
    run(setup, chosen, lambda name: write({"check": name, "begun": True}), write)


def main() -> int:
    """Have everything run, print the table, write the JSON."""
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
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--only", action="append", help="the checks of these names")
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
    chosen = {check.name: check for check in CHECKS if not asked.only or check.name in asked.only}
    if asked.rows is not None:
        if not cuda:
            torch.set_num_threads(1)  # a rehearsal: nothing here is timed for its own sake
        _child(setup, list(chosen), asked.rows)
        return 0
    return _watched(setup, chosen, asked.out)


def _watched(setup: Setup, checks: Mapping[str, Check], out: Path) -> int:
    import torch

    device_name = torch.cuda.get_device_name() if setup.cuda else "CPU"
    rows: list[Row] = []
    whole = {"device": setup.device, "name": device_name, "torch": torch.__version__}
    whole |= {"shape": setup.shape, "prompt": setup.prompt}
    progress = Console(stderr=True, highlight=False)
    begin = time.perf_counter()

    def start(names: list[str], lines: Path) -> subprocess.Popen[bytes]:
        options = {"device": setup.device, "shape": setup.shape, "prompt": setup.prompt}
        options |= {"steps": setup.steps, "pairs": setup.pairs, "rows": lines}
        given = [item for key, value in options.items() for item in (f"--{key}", str(value))]
        wanted = [item for name in names for item in ("--only", name)]
        return subprocess.Popen([sys.executable, "-m", "tests.evaluation.gpu", *given, *wanted])

    def news(row: Row) -> None:
        rows.append({**row, "bar": checks[row["check"]].bar})
        progress.print(f"{row['check']}: {row['verdict']}", style="dim")
        done = {"seconds": round(time.perf_counter() - begin, 1), "done": len(rows) == len(checks), "checks": rows}
        out.write_text(json.dumps(whole | done, indent=1) + "\n")

    try:
        patience = 1 if setup.cuda else PATIENCE
        watch({name: patience * check.limit for name, check in checks.items()}, start, news, whole=patience * WHOLE)
    except KeyboardInterrupt:
        return 130
    console = Console(highlight=False)
    table = Table("check", "bar", "figure", "verdict", "s")
    for row in rows:
        figure = row["figure"] or row.get("error") or "not measured"
        table.add_row(row["check"], row["bar"], figure, row["verdict"], f"{row['seconds']:.1f}")
    console.print(f"{device_name}, torch {torch.__version__}, {setup.shape}, prompt of {setup.prompt} tokens")
    console.print(table)
    if not setup.cuda:
        console.print("No CUDA device: figures that only a GPU can tell are not measured.")
    console.print(f"wrote {out}", soft_wrap=True)
    return int(any(row["verdict"] in ("missed", "failed") for row in rows))
