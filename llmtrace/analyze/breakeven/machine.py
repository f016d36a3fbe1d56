"""A measured machine: how long one step of continuous batching takes, from the file of ``llmtrace bench``.

A step takes ``base`` s, and more for each sequence in it, for each token of context that its decoding reads, for each
prompt token, and for each prompt token times the tokens before it (attention). These five are fitted to what the bench
measured of the runner, relative errors least, none below zero. What the server adds to a step (by how many streams it
serves) and to a request is the difference to what the bench measured behind a socket.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmtrace.errors import LlmtraceError

_NO_BENCH = "`llmtrace bench` makes one"


@dataclass(frozen=True, slots=True)
class Machine:
    """A model in one weight format on one machine. Times in s."""

    format: str
    base: float
    per_row: float
    per_context: float
    per_prompt: float
    per_attention: float
    request: float = 0.0
    """What the server and the socket add to each request before its first token."""
    added: tuple[tuple[int, float], ...] = ((1, 0.0),)
    """What the server adds to a step, by streams at once."""
    slots: int = 8
    chunk: int = 512
    """The most prompt tokens of a request in a step."""
    budget: int = 1024
    """The most tokens of a step."""
    block: int = 128
    """Prefixes are shared in whole blocks of so many tokens."""
    weight_bytes: int | None = None
    joules_per_prompt_token: float | None = None
    joules_per_token: float | None = None
    top1: float | None = None
    """The share of a text's tokens of which the likeliest next one is the first format's."""
    kl: float | None = None
    against: str = ""
    served: bool = False
    """Whether it was measured behind a server."""

    def compute(self, rows: int, context: float, prompt: float, attention: float) -> float:
        """One step of the runner: ``rows`` that decode with ``context`` tokens behind them, and ``prompt`` tokens."""
        return (
            self.base
            + self.per_row * rows
            + self.per_context * context
            + self.per_prompt * prompt
            + self.per_attention * attention
        )

    def alone(self, prompt: int) -> float:
        """s to the first token of a request that nobody else slows down, without what is once for each request."""
        parts = [(begin, min(self.chunk, prompt - begin)) for begin in range(0, prompt, self.chunk)]
        return sum(self.compute(0, 0, part, part * (begin + part / 2)) + self.overhead(1) for begin, part in parts)

    def overhead(self, streams: int) -> float:
        """What the server adds to a step in which so many requests take part."""
        places = [batch for batch, _ in self.added]
        at = bisect_left(places, streams)
        if at == 0:
            return self.added[0][1]
        if at == len(places):
            return self.added[-1][1]
        (low, before), (high, after) = self.added[at - 1], self.added[at]
        return before + (after - before) * (streams - low) / (high - low)


def read(path: str | Path) -> dict[str, Any]:
    """The results of a bench. Raises LlmtraceError where the file is none."""
    path = Path(path)
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LlmtraceError(f"no bench file {path}: {error.strerror}; {_NO_BENCH}") from None
    except ValueError:
        raise LlmtraceError(f"{path} is no JSON; {_NO_BENCH}") from None
    if not isinstance(results, dict) or not isinstance(results.get("formats"), dict):
        raise LlmtraceError(f"{path} is not what llmtrace bench writes; {_NO_BENCH}")
    return results


def machines(results: Mapping[str, Any], path: str | Path = "the bench file") -> list[Machine]:
    """A machine for each weight format that was measured. Raises LlmtraceError where there is none."""
    made = [_fitted(name, measured) for name, measured in results["formats"].items() if _enough(measured)]
    if not made:
        raise LlmtraceError(
            f"{path} has no weight format with two prompts and two decode points; run llmtrace bench with "
            "--prompts 128,512 --batches 1,4"
        )
    return made


def left_out(results: Mapping[str, Any]) -> list[str]:
    """A sentence for each weight format that was asked for and gives no machine."""
    return [
        f"{name} is left out: {measured.get('reason', 'too few points were measured')}"
        for name, measured in results["formats"].items()
        if not _enough(measured)
    ]


def _enough(measured: Mapping[str, Any]) -> bool:
    return len(measured.get("prefill", ())) >= 2 and len(measured.get("decode", ())) >= 2


def _fitted(name: str, measured: Mapping[str, Any]) -> Machine:
    rows: list[list[float]] = []
    times: list[float] = []
    for each in measured["decode"]:
        rows.append([1.0, each["batch"], each["batch"] * each["context"], 0.0, 0.0])
        times.append(each["seconds_per_step"])
    for each in measured["prefill"]:
        tokens = each["tokens"]
        rows.append([1.0, 0.0, 0.0, tokens, tokens * tokens / 2])
        times.append(each["seconds"])
    base, per_row, per_context, per_prompt, per_attention = _least_squares(rows, times)
    energy, against = measured.get("energy") or {}, measured.get("against") or {}
    machine = Machine(
        name,
        base,
        per_row,
        per_context,
        per_prompt,
        per_attention,
        weight_bytes=measured.get("weight_bytes"),
        joules_per_prompt_token=energy.get("joules_per_prompt_token"),
        joules_per_token=energy.get("joules_per_token"),
        top1=against.get("top1"),
        kl=against.get("kl_nats"),
        against=against.get("format", ""),
    )
    return _behind_a_server(machine, measured["serving"]) if measured.get("serving") else machine


def _least_squares(rows: Sequence[Sequence[float]], times: Sequence[float]) -> list[float]:
    """The factors, none below zero, with the least relative errors: those that would be below are dropped, worst first.

    With so few of them, and of so few points, this is as good as any better-known way.
    """
    import numpy as np

    weighed = np.array([[value / time for value in row] for row, time in zip(rows, times, strict=True)])
    scale = np.abs(weighed).max(axis=0)
    scale[scale == 0] = 1.0
    kept = list(range(weighed.shape[1]))
    ones = np.ones(len(times))
    while True:
        factors, *_ = np.linalg.lstsq(weighed[:, kept] / scale[kept], ones, rcond=None)
        if len(kept) == 1 or factors.min() >= 0:
            break
        kept.pop(int(factors.argmin()))
    whole = np.zeros(weighed.shape[1])
    whole[kept] = np.maximum(factors, 0) / scale[kept]
    return [float(value) for value in whole]


def _behind_a_server(machine: Machine, serving: Mapping[str, Any]) -> Machine:
    """The machine as a client has it: with what serving adds to a step and a request, and prompts as fast as there."""
    tokens, chunk = serving["tokens"], serving["chunk"]
    added: dict[int, list[float]] = {}
    for row in serving["rows"]:
        own = machine.compute(row["batch"], row["batch"] * (row["prompt"] + tokens / 2), 0, 0)
        added.setdefault(row["batch"], []).append(row["seconds_per_step"] - own)
    steps = tuple((batch, max(0.0, min(each))) for batch, each in sorted(added.items())) or ((1, 0.0),)
    alone = sorted((row["prompt"], row["ttft_seconds"]) for row in serving["rows"] if row["batch"] == 1)
    machine = replace(machine, added=steps, chunk=chunk)
    if len(alone) > 1 and alone[-1][1] > alone[0][1]:
        # What the longer prompt took beyond the short one's time, over what the runner alone would have taken.
        short, long = (machine.alone(prompt) for prompt, _ in (alone[0], alone[-1]))
        factor = (alone[-1][1] - alone[0][1]) / (long - short) if long > short else 1.0
        machine = replace(machine, per_prompt=machine.per_prompt * factor, per_attention=machine.per_attention * factor)
    return replace(
        machine,
        request=max(0.0, _middle([first - machine.alone(prompt) for prompt, first in alone])) if alone else 0.0,
        slots=serving["slots"],
        budget=serving["budget"],
        block=serving["block"],
        served=True,
    )


def _middle(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) / 2
    return (ordered[math.ceil(middle) - 1] + ordered[math.floor(middle)]) / 2
