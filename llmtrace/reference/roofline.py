"""Measures a model's speed on this device against the device's own limits, for `llmtrace bench`.

Two ceilings are measured first: bytes per second of a large copy (read and write counted), and floating-point
operations per second of a large matrix product in the weights' type. Then, by the runner's own steps,

- MFU = (2 P t + 2 L d t^2) / (time x matrix rate): P parameters in matrix products (the input embeddings are only
  looked up), t prompt tokens, L layers, d the width of all heads together; the second term is causal attention, half of
  the 4 L d t^2 of PaLM (Chowdhery et al. 2022, appendix B);
- MBU = (bytes of weights + bytes of keys and values) / (time per step x copy bandwidth): what one decode step must
  read at least, as Databricks' "LLM Inference Performance Engineering" defines it;
- how long it takes to find a prefix in the prefix cache;
- what a weight format changes: on one text, how often its likeliest next token is that of the first format measured,
  and the mean KL divergence from it (see `formats`), and what energy a token takes where there is a counter;
- the same model behind the real server, as a client on this machine has it (see `served`);
- the runner with timing against itself without, and against `transformers.generate()` (see `comparisons`).
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmtrace.observe.clock import now
from llmtrace.reference._errors import RunnerError, missing_extra
from llmtrace.reference.clock import Mark, make_clock
from llmtrace.reference.comparisons import against_generate, random_prompt, timing_cost
from llmtrace.reference.energy import Counter, NoCounter, energy_counter, measure_energy
from llmtrace.reference.formats import fixed_text, lost, next_chances
from llmtrace.reference.model import LoadedModel, pick_device
from llmtrace.reference.other_load import OtherLoad
from llmtrace.reference.prefix_cache import DEFAULT_BLOCK, LEAST_BLOCK, PrefixCache
from llmtrace.reference.runner import Generation, Request, Runner
from llmtrace.reference.sampling import Sampling
from llmtrace.reference.served import measure_served
from llmtrace.reference.shapes import BASE, FORMATS, SHAPES, check_name, estimate_bytes, make_model, unpacked
from llmtrace.reference.timings import Timings
from llmtrace.whole_file import write_text

__all__ = ["FORMATS", "SHAPES", "Bench", "Measured", "Plan", "Yardstick", "copy_rate", "estimate_bytes", "matrix_rate"]

NO_LAUNCHES = "not applicable: on this device a step is done when it returns, so the host always sets the pace"
_REPEATS = 3
_LONG = 128
"""Output tokens per answer where energy is measured, if there is room: the prompt's part is to be small."""
_ROOM = 256
"""Room is given in steps of so many tokens."""

Progress = Callable[[str, int, int], None]
"""Called with the name of the current measurement, the number of measurements done, and their number in all."""


@dataclass(frozen=True)
class Plan:
    """The measurements to make."""

    formats: Sequence[str]
    """Names of `FORMATS`."""
    prompts: Sequence[int]
    """Prompt lengths, tokens."""
    batches: Sequence[int]
    """Sequences per decode step."""
    contexts: Sequence[int]
    """Tokens before the first decode step."""
    steps: int = 16
    """Decode steps per point, of which the median counts; also the output tokens of the comparisons."""
    pairs: int = 5
    """Pairs of runs per comparison."""
    served: bool = True
    """Whether to measure the model behind the server too (see `served`)."""

    @property
    def room(self) -> int:
        """The most tokens that a sequence can have."""
        longest = max((*self.prompts, *(context + self.steps + 1 + max(self.batches) for context in self.contexts)))
        return -(-longest // _ROOM) * _ROOM


@dataclass(frozen=True)
class Measured:
    """Several runs of one piece of work, between marks."""

    marks: Sequence[Mark]

    @property
    def lengths(self) -> list[float]:
        """The duration of each run on the device, in seconds."""
        times = [mark.at or 0 for mark in self.marks]
        return [max(1, after - before) / 1e9 for before, after in itertools.pairwise(times)]


def measure(device: str, work: Callable[[], Any], repeats: int = _REPEATS) -> Measured:
    """Run `work` `repeats` times, and once before, to warm up."""
    work()
    clock = make_clock(device)
    clock.start()
    marks = [clock.mark()]
    for _ in range(repeats):
        work()
        marks.append(clock.mark())
    clock.resolve()
    return Measured(marks)


def copy_rate(device: str) -> float:
    """Bytes per second, read and written, of the best of some large copies."""
    import torch

    size = 1 << (30 if device.startswith("cuda") else 27)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / min(measure(device, lambda: target.copy_(source), 10).lengths)


def matrix_rate(device: str, dtype: Any) -> float:
    """Floating-point operations per second of the best of some large matrix products."""
    import torch

    size = 8192 if device.startswith("cuda") else 512
    left_factor = torch.randn(size, size, device=device).to(dtype)
    return 2 * size**3 / min(measure(device, lambda: torch.nn.functional.linear(left_factor, left_factor), 10).lengths)


class Yardstick:
    """Measures how long the parts of a model take in the runner. Use it under `torch.inference_mode()`."""

    def __init__(
        self, loaded: LoadedModel, *, rows: int, room: int, copy: float, matrix: float, block: int = DEFAULT_BLOCK
    ) -> None:
        """`rows` sequences of at most `room` tokens; `copy` bytes and `matrix` operations per second are the ceilings.

        `block`: tokens per block of keys and values. Raises `ValueError` where the model's context is shorter than
        `room`, `RunnerError` where memory is short.
        """
        if room > loaded.context:
            raise ValueError(f"{room} tokens are wanted and the model's context is {loaded.context}: ask for fewer")
        self.runner = Runner(
            loaded,
            max_running=rows,
            cache_tokens=(rows + 1) * (room + block),
            prefill_chunk=None,
            prefix_cache=PrefixCache(block=block),
        )
        self._loaded, self._copy, self._matrix = loaded, copy, matrix
        self._seed = 0
        model, config = loaded.model, loaded.model.config
        embedded = model.get_input_embeddings().weight
        tied = bool(getattr(config, "tie_word_embeddings", False))
        self.weight_bytes = sum(_held(tensor) for tensor in {id(p): p for p in model.parameters()}.values())
        self._read = self.weight_bytes if tied else self.weight_bytes - _held(embedded)
        self._products = sum(p.numel() for p in model.parameters()) - (0 if tied else embedded.numel())
        heads = config.num_attention_heads
        head = getattr(config, "head_dim", None) or config.hidden_size // heads
        kv_heads = getattr(config, "num_key_value_heads", heads)
        layers = config.num_hidden_layers
        self._attention = layers * heads * head
        self._per_token = 2 * layers * kv_heads * head * model.get_input_embeddings().weight.dtype.itemsize

    def prefill(self, tokens: int) -> dict[str, Any]:
        """Measure a whole prompt, which no cache knows, in one step."""
        spent = statistics.median([self._prefill_seconds(self._prompt(tokens)) for _ in range(1 + _REPEATS)][1:])
        flops = 2 * self._products * tokens + 2 * self._attention * tokens**2
        return {
            "tokens": tokens,
            "seconds": spent,
            "tokens_per_second": tokens / spent,
            "flops": flops,
            "bytes": self._read + self._per_token * tokens,
            "mfu": flops / spent / self._matrix,
        }

    def decode(self, batch: int, context: int, steps: int) -> dict[str, Any]:
        """Measure a step of the runner for `batch` sequences with `context` tokens behind them: a median.

        They begin one after another; the gaps between the last one's tokens are steps for all of them.
        """
        last = self._run(batch, context, steps)[-1]
        gaps = [max(1, after - before) / 1e9 for before, after in itertools.pairwise(last.timings.tokens)]
        spent = statistics.median(gaps)
        least = self._read + self._per_token * batch * context
        return {
            "batch": batch,
            "context": context,
            "seconds_per_step": spent,
            "tokens_per_second": batch / spent,
            "flops": 2 * self._products * batch + 4 * self._attention * context * batch,
            "bytes": least,
            "mbu": least / spent / self._copy,
            "launch_bound_ratio": last.timings.launch_bound,
        }

    def energy(self, counter: Counter, batch: int, context: int, steps: int) -> dict[str, Any]:
        """Measure the energy of a prompt's token, and of an output token: what the prompt took is taken off."""

        def prefill() -> int:
            self._prefill_seconds(self._prompt(context))
            return context

        def decode() -> int:
            return sum(len(generation.output) for generation in self._run(batch, context, steps))

        prompts, answers = (measure_energy(counter, work) for work in (prefill, decode))
        per_prompt_token = prompts.joules / prompts.tokens
        joules = max(0.0, answers.joules - answers.runs * batch * context * per_prompt_token)
        return {
            "batch": batch,
            "context": context,
            "joules_per_prompt_token": per_prompt_token,
            "joules_per_token": joules / answers.tokens,
            "watts": answers.joules / answers.seconds,
        }

    def cache_hit(self, tokens: int) -> dict[str, Any] | None:
        """Measure how long it takes to find a prompt's prefix, which is shared and not copied; None without reuse."""
        prompt, times, cached = self._prompt(tokens), list[float](), 0
        self._prefill_seconds(prompt)
        for _ in range(_REPEATS):
            timings = Timings(arrived=now())
            self._prefill_seconds(prompt, timings)
            cached = timings.cached_tokens
            times.append(timings.seconds().get("kv_cache_hit", 0.0))
        if not cached:
            return None
        return {"tokens": cached, "bytes": cached * self._per_token, "seconds": statistics.median(times)}

    def _run(self, batch: int, context: int, steps: int) -> list[Generation]:
        """Let so many sequences decode together, until the last one has made `steps` tokens beyond its first."""
        runner = self.runner
        asked = [Request(self._prompt(context), steps + 1 + batch, Sampling(0), ignore_eos=True) for _ in range(batch)]
        generations = [runner.start(request) for request in asked]
        for generation in generations:
            runner.admit(generation)
        last = generations[-1]
        try:
            while not last.done and len(last.output) <= steps:
                runner.step(_raised)
        finally:
            for generation in generations:
                runner.leave(generation)
        return generations

    def _prefill_seconds(self, prompt: Sequence[int], timings: Timings | None = None) -> float:
        timings = timings or Timings(arrived=now())
        for _ in self.runner.generate(Request(prompt, 1, Sampling(0), ignore_eos=True), timings):
            pass
        return timings.seconds()["prefill"]

    def _prompt(self, tokens: int) -> list[int]:
        """A prompt that has not been before."""
        self._seed += 1
        return random_prompt(self.runner, tokens, self._seed)


def _raised(_: Any, news: Any) -> None:
    if isinstance(news, Exception):
        raise news


class Bench:
    """One run. `results` is complete JSON at any moment; `done` says whether the run came to its end."""

    def __init__(self, model: str, device: str, tell: Progress, out: Path | None = None) -> None:
        """`model` is a name of `SHAPES` or a folder; `out` is written after every measurement. Raises `RunnerError`."""
        check_name(model)
        self.device = pick_device(device)
        self._model = model
        self._tell = tell
        self._out = out
        self._count = self._of = 0
        self._reference: tuple[str, Any] | None = None  # the first format, and its chances
        self._counter: Counter | None = None
        self.results: dict[str, Any] = {
            "schema": 4,
            "model": model,
            "device": self.device,
            "done": False,
            "formats": {},
        }

    def run(self, plan: Plan) -> None:
        """Measure everything. A format that fails here gets a `reason`, and the others go on."""
        try:
            import torch
        except ImportError as error:
            raise missing_extra(error) from error
        others = OtherLoad()
        try:
            self._run(plan, torch)
        finally:
            others.into(self.results)

    def _run(self, plan: Plan, torch: Any) -> None:
        try:
            self._counter = energy_counter(self.device)
            self.results["energy"] = f"{self._counter.name}, over decode; other programs' share is in it"
        except NoCounter as error:
            self.results["energy"] = f"not measured, {error}"
        per_format = 5 + len(plan.prompts) + len(plan.batches) * len(plan.contexts) + (self._counter is not None)
        per_format += plan.served
        self._count, self._of = 0, 1 + per_format * len(plan.formats)
        self.results["torch"] = torch.__version__
        self.results["threads"] = torch.get_num_threads()
        if not self.device.startswith("cuda"):
            self.results["launch_bound"] = NO_LAUNCHES
        self._now("copy bandwidth")
        self.results["copy_bytes_per_second"] = copy_rate(self.device)
        for number, weights in enumerate(plan.formats):
            self._count = 1 + per_format * number
            results: dict[str, Any] = {}
            self.results["formats"][weights] = results
            try:
                with torch.inference_mode():
                    self._format(results, weights, plan)
            except Exception as error:  # torch and torchao say in many ways what they cannot do
                results["reason"] = _reason(error)
            if self.device.startswith("cuda"):
                torch.cuda.empty_cache()  # the next format's model needs the room
        self.results["done"] = True
        self._count = self._of
        self._now("done")

    def write(self, file: Path) -> None:
        """Write the results as JSON; the file is replaced as a whole."""
        write_text(file, json.dumps(self.results, indent=1) + "\n")

    def _now(self, doing: str) -> None:
        """Begin another measurement: write the results so far and report the progress."""
        if self._out is not None:
            self.write(self._out)
        self._tell(doing, min(self._count, self._of), self._of)
        self._count += 1

    def _format(self, results: dict[str, Any], weights: str, plan: Plan) -> None:
        import torch

        self._now(f"{weights}: building the model")
        results["matrix_flops_per_second"] = matrix = matrix_rate(self.device, getattr(torch, BASE[weights]))
        torch.manual_seed(0)  # random weights are the same ones in every format
        if self.device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats(self.device)
        loaded = make_model(self._model, weights, self.device)
        if (note := unpacked(weights, self.device)) is not None:
            results["note"] = note
        yardstick = Yardstick(
            loaded,
            rows=max(plan.batches),
            room=plan.room,
            copy=self.results["copy_bytes_per_second"],
            matrix=matrix,
            block=min(DEFAULT_BLOCK, max(LEAST_BLOCK, max(plan.prompts) // 2)),
        )
        results["weight_bytes"] = yardstick.weight_bytes
        results["prefill"] = []
        for tokens in plan.prompts:
            self._now(f"{weights}: prefill of {tokens} tokens")
            results["prefill"].append(yardstick.prefill(tokens))
        best = min(results["prefill"], key=lambda row: row["seconds"] / row["tokens"], default=None)
        if best is not None:
            results["seconds_per_prefill_token"] = best["seconds"] / best["tokens"]
        results["decode"] = []
        for batch in plan.batches:
            for context in plan.contexts:
                self._now(f"{weights}: decode, batch {batch}, context {context}")
                results["decode"].append(yardstick.decode(batch, context, plan.steps))
        self._now(f"{weights}: what the format changes")
        tokens, self.results["text"] = fixed_text(loaded, self._model, plan.room)
        chances = next_chances(loaded, tokens)
        if self._reference is None:
            self._reference = weights, chances
        if self.device.startswith("cuda"):
            results["peak_bytes"] = torch.cuda.max_memory_allocated(self.device)
        results["against"] = {"format": self._reference[0], **lost(self._reference[1], chances)}
        if self._counter is not None:
            self._now(f"{weights}: energy")
            batch, context = min(plan.batches), min(plan.contexts)
            steps = max(plan.steps, min(_LONG, plan.room - context - 1 - batch))
            results["energy"] = yardstick.energy(self._counter, batch, context, steps)
        self._now(f"{weights}: prefix cache")
        if (lookup := yardstick.cache_hit(max(plan.prompts))) is not None:
            results["cache_hit"] = lookup
        if plan.served:
            self._now(f"{weights}: behind the server")
            try:
                results["serving"] = measure_served(loaded, max(plan.prompts))
            except RunnerError as error:
                results["serving_reason"] = str(error)
        prompt, tokens = random_prompt(yardstick.runner, min(plan.contexts)), max(2, plan.steps)
        self._now(f"{weights}: timing on and off")
        results["timing"] = timing_cost(yardstick.runner, prompt, tokens, plan.pairs).as_json()
        self._now(f"{weights}: against generate()")
        ratio, equal = against_generate(yardstick.runner, prompt, tokens, plan.pairs)
        results["generate"] = {**ratio.as_json(), "tokens": tokens, "equal_tokens": equal}


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _held(tensor: Any) -> int:
    """Bytes of a parameter; of a quantized one (torchao's) those of the tensors that it is made of."""
    names = getattr(tensor, "tensor_data_names", None)
    if names:
        parts = [*names, *getattr(tensor, "optional_tensor_data_names", ())]
        return sum(_held(part) for name in parts if (part := getattr(tensor, name, None)) is not None)
    return int(tensor.numel()) * int(tensor.element_size())
