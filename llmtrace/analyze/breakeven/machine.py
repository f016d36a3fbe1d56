"""A measured machine: how long one step of continuous batching takes, from the file of ``llmtrace bench``.

A step takes ``base`` s, and more for each sequence in it, for each token of context that its decoding reads, for each
prompt token, and for each prompt token times the tokens before it (attention). These five are fitted to what the bench
measured of the runner, relative errors least, none below zero. Where it measured behind a socket too, that takes their
place: a step is measured by how many streams it serves, with its context; the first tokens of prompts of several
lengths say what a prompt's token takes there and what each request has on top; and the first token after a pause what
a machine that had nothing to do takes to wake up.
"""

from __future__ import annotations

import json
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
    """What a step takes on top, by streams at once: what the server adds, or how far it is off the straight line."""
    wake: float = 0.0
    """What a request takes more when it finds the machine without work for ``pause`` s or longer."""
    pause: float = 0.3
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
        """What a step takes on top in which so many requests take part."""
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
    """A sentence for each weight format that was asked for and gives no machine; and why the others may be wrong."""
    loaded = [f"llmtrace bench warned: {results['warning']}"] if isinstance(results.get("warning"), str) else []
    return loaded + [
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


def _least_squares(
    rows: Sequence[Sequence[float]], times: Sequence[float], whole: Sequence[float] | None = None
) -> list[float]:
    """The factors, none below zero, with the least errors relative to ``whole`` (by default the times themselves):
    those that would be below are dropped, worst first.

    With so few of them, and of so few points, this is as good as any better-known way.
    """
    import numpy as np

    measured = np.array(times if whole is None else whole)
    weighed = np.array(rows) / measured[:, None]
    scale = np.abs(weighed).max(axis=0)
    scale[scale == 0] = 1.0
    kept = list(range(weighed.shape[1]))
    aim = np.array(times) / measured
    while True:
        factors, *_ = np.linalg.lstsq(weighed[:, kept] / scale[kept], aim, rcond=None)
        if len(kept) == 1 or factors.min() >= 0:
            break
        kept.pop(int(factors.argmin()))
    all_factors = np.zeros(weighed.shape[1])
    all_factors[kept] = np.maximum(factors, 0) / scale[kept]
    return [float(value) for value in all_factors]


def _behind_a_server(machine: Machine, serving: Mapping[str, Any]) -> Machine:
    """The machine as a client has it: steps, prompts and requests as they were measured behind the server."""
    rows = [row for row in serving["rows"] if row["seconds_per_step"] > 0]  # else their streams never ran at once
    machine = replace(
        machine, chunk=serving["chunk"], slots=serving["slots"], budget=serving["budget"], block=serving["block"],
        served=True,
    )  # fmt: skip
    alone = [row for row in rows if row["batch"] == 1]
    paused = [row for row in alone if row.get("pause_seconds")]
    unpaused = [row for row in alone if not row.get("pause_seconds")]
    machine = _with_steps(machine, rows, serving["tokens"], len(unpaused) > 2)
    machine = _with_prompts(machine, unpaused)
    if paused:
        later = _mean([row["ttft_seconds"] - machine.request - machine.alone(row["prompt"]) for row in paused])
        machine = replace(machine, wake=max(0.0, later), pause=max(row["pause_seconds"] for row in paused))
    return machine


def _with_steps(machine: Machine, rows: Sequence[Mapping[str, Any]], tokens: int, enough: bool) -> Machine:
    """The machine with steps that take what they take behind the server, by streams at once.

    ``enough``: the rows tell what context costs; else that and the cost of a stream stay those of the runner.
    """
    batches = sorted({row["batch"] for row in rows}) or [1]
    contexts = [row["batch"] * (row["prompt"] + tokens / 2) for row in rows]
    if enough:
        terms = [
            [*(float(row["batch"] == batch) for batch in batches), context]
            for row, context in zip(rows, contexts, strict=True)
        ]
        *by_batch, per_context = _least_squares(terms, [row["seconds_per_step"] for row in rows])
        base, per_row = _least_squares([[1.0, float(batch)] for batch in batches], by_batch)
        steps = tuple((batch, own - base - per_row * batch) for batch, own in zip(batches, by_batch, strict=True))
        return replace(machine, base=base, per_row=per_row, per_context=per_context, added=steps)
    added: dict[int, list[float]] = {batch: [] for batch in batches}
    for row, context in zip(rows, contexts, strict=True):
        added[row["batch"]].append(row["seconds_per_step"] - machine.compute(row["batch"], context, 0, 0))
    return replace(machine, added=tuple((batch, max(0.0, min(each, default=0.0))) for batch, each in added.items()))


def _with_prompts(machine: Machine, rows: Sequence[Mapping[str, Any]]) -> Machine:
    """The machine with what a prompt's tokens and a request take behind the server, from first tokens of lone calls.

    Of at least three lengths; of fewer, prompts are as fast as the runner's, or slower by one factor.
    """
    first = {row["prompt"]: row["ttft_seconds"] for row in rows}
    if len(first) > 2:
        bare = replace(machine, per_prompt=0.0, per_attention=0.0)
        steps = {prompt: bare.alone(prompt) for prompt in first}
        terms = [[1.0, prompt, prompt * prompt / 2] for prompt in first]
        # A first token that comes sooner than its steps alone says nothing of its prompt.
        times = [max(time / 10, time - steps[prompt]) for prompt, time in first.items()]
        request, per_prompt, per_attention = _least_squares(terms, times, list(first.values()))
        return replace(machine, request=request, per_prompt=per_prompt, per_attention=per_attention)
    if len(first) == 2:
        (short, sooner), (long, later) = sorted(first.items())
        # What the longer prompt took beyond the short one's time, over what the runner alone would have taken.
        runner = machine.alone(long) - machine.alone(short)
        factor = (later - sooner) / runner if later > sooner and runner > 0 else 1.0
        machine = replace(machine, per_prompt=machine.per_prompt * factor, per_attention=machine.per_attention * factor)
    request = _mean([time - machine.alone(prompt) for prompt, time in first.items()]) if first else 0.0
    return replace(machine, request=max(0.0, request))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
