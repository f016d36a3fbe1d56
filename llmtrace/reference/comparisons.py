"""The runner against itself without timing, and against `transformers.generate()`: pairs, run in turn.

The times of two runs differ by more than the effect to be measured. So the two run one after the other, in changing
order, and the ratio of each of several pairs counts: their median, and the quartiles as its spread.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llmtrace.reference.generation import Request
from llmtrace.reference.runner import Runner
from llmtrace.reference.sampling import Sampling

__all__ = ["Ratio", "against_generate", "generate_tokens", "random_prompt", "runner_tokens", "timing_cost"]


@dataclass(frozen=True)
class Ratio:
    """The speed of one over the speed of the other: the ratio of tokens per second, over pairs of runs."""

    median: float
    low: float
    """The lower quartile; with fewer than four pairs the least."""
    high: float
    pairs: int

    @classmethod
    def of(cls, ratios: Sequence[float]) -> Ratio:
        """The summary of one ratio for each pair."""
        low, high = min(ratios), max(ratios)
        if len(ratios) >= 4:
            low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return cls(statistics.median(ratios), low, high, len(ratios))

    def as_json(self) -> dict[str, Any]:
        return {"ratio": self.median, "low": self.low, "high": self.high, "pairs": self.pairs}


def timing_cost(runner: Runner, prompt: Sequence[int], tokens: int, pairs: int) -> Ratio:
    """Decode with timing on against timing off, tokens per second: 0.99 means that timing costs 1 %.

    From the first token to the last, as the host reads them, of one request of `tokens` tokens (at least 2).
    """
    own_clock = runner.clock

    def decode(timing: bool) -> float:
        runner.clock = runner.new_clock(timing=timing)
        return _decode_seconds(runner, prompt, tokens)

    try:
        return _pairs(lambda: decode(True), lambda: decode(False), pairs)
    finally:
        runner.clock = own_clock


def against_generate(runner: Runner, prompt: Sequence[int], tokens: int, pairs: int) -> tuple[Ratio, int]:
    """The runner, timing on, against `generate()` with a static cache: the ratio, and how many first tokens are equal.

    Greedy, batch 1, prefill included. `generate()` is not compiled. Beyond float32, two tokens of nearly the same
    logit may change places, since the two don't add in the same order; what follows then differs.
    """
    ours, theirs = runner_tokens(runner, prompt, tokens), generate_tokens(runner.loaded.model, prompt, tokens)
    equal = next(
        (at for at, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
    )
    ratio = _pairs(
        lambda: _seconds(lambda: runner_tokens(runner, prompt, tokens), runner.loaded.device),
        lambda: _seconds(lambda: generate_tokens(runner.loaded.model, prompt, tokens), runner.loaded.device),
        pairs,
    )
    return ratio, equal


def random_prompt(runner: Runner, tokens: int, seed: int = 0) -> list[int]:
    """Random token ids, the same for the same seed."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, runner.loaded.vocabulary, (tokens,), generator=generator).tolist()


def runner_tokens(runner: Runner, prompt: Sequence[int], tokens: int) -> list[int]:
    """The tokens of the runner's greedy answer."""
    return [piece.token for piece in runner.generate(_request(prompt, tokens))]


def generate_tokens(model: Any, prompt: Sequence[int], tokens: int) -> list[int]:
    """The tokens of the greedy answer of `generate()`, with a static cache and uncompiled."""
    import torch
    from transformers import GenerationConfig

    ids = torch.tensor([list(prompt)], device=model.device)
    options = GenerationConfig(
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        cache_implementation="static",
        disable_compile=True,
    )
    out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=options)
    return out[0, len(prompt) :].tolist()


def _request(prompt: Sequence[int], tokens: int) -> Request:
    return Request(prompt, max_tokens=tokens, sampling=Sampling(temperature=0), ignore_eos=True)


def _decode_seconds(runner: Runner, prompt: Sequence[int], tokens: int) -> float:
    begin = end = 0.0
    for number, _ in enumerate(runner.generate(_request(prompt, tokens))):
        end = time.perf_counter()
        if number == 0:
            begin = end
    return end - begin


def _seconds(work: Callable[[], Any], device: str) -> float:
    """Seconds that `work` takes, until the device is done."""
    import torch

    begin = time.perf_counter()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def _pairs(ours: Callable[[], float], theirs: Callable[[], float], pairs: int) -> Ratio:
    """The ratio of their seconds to ours, the pairs in changing order; each runs once before, to warm up."""
    ours()
    theirs()
    ratios: list[float] = []
    for number in range(pairs):
        if number % 2:
            other = theirs()
            mine = ours()
        else:
            mine = ours()
            other = theirs()
        ratios.append(other / mine)
    return Ratio.of(ratios)
