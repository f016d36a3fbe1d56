"""Engines started with settings drawn for one round, and what is known of them."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmtrace.probe.clients import Client
from llmtrace.probe.maths import fits
from llmtrace.probe.plan import CURVE, GREET, SHORTEST, Step
from llmtrace.probe.prompts import Prompts
from llmtrace.reference.process import ServerProcess
from tests.e2e import servers
from tests.evaluation.common.quantiles import median
from tests.evaluation.phases.engines import or_not_here

INTEGERS = ("cache.block", "concurrency.limit", "prefill.chunk")
"""Figures that have to be the very setting."""
_WAYS = 20
"""Calls that show how long the way to an engine and back is."""


@dataclass(frozen=True, slots=True)
class Engine:
    """One that runs, with what is known of it by the figure's name."""

    base_url: str
    known: dict[str, float | str]
    longest: int
    life_s: float | None = None
    measured: Callable[[list[Step], Client], dict[str, float]] = field(default=lambda steps, client: {})
    """What its own records say once the probe is over, and calls of the same client."""


@contextmanager
def reference(draw: random.Random, folder: Path) -> Generator[Engine]:
    """The project's own server: every setting is drawn."""
    block, chunk = draw.choice((32, 64, 128)), draw.choice((128, 256, 512))
    slots, life = draw.randint(2, 9), round(draw.uniform(3.0, 8.0), 2)
    arguments = ["--block-size", str(block), "--prefill-chunk", str(chunk), "--prefix-cache-ttl", str(life)]
    with ServerProcess(
        device="cpu", max_running=slots, faults=False, arguments=[*arguments, "--threads", "1"], timeout=900
    ) as server:
        known: dict[str, float | str] = {
            "cache.block": block,
            "cache.minimum": block,
            "concurrency.limit": slots,
            "prefill.chunk": chunk,
            "cache.life": life,
            "queue.order": "fifo",
        }
        yield Engine(server.base_url, known, 3000, 40.0, lambda steps, client: _recorded(server, steps, client))


def _recorded(server: ServerProcess, steps: list[Step], client: Client) -> dict[str, float]:
    """The costs that the server's own clock saw, for the same calls and by the same fit; and in front of them the way
    through client and HTTP, from short calls of our own, whose time on the server is known as well."""
    rows = _requests(server)
    calls = {step.name: step.calls for step in steps}
    start = calls[GREET]
    curve = rows[start : start + calls[CURVE]]
    cost = fits.prompt_cost([(row["prompt_tokens"], row["token_times_s"][0]) for row in curve])
    prompts = Prompts()
    seen = [client.send(prompts.unique(SHORTEST), client.least).ttft for _ in range(_WAYS)]
    way = median([ttft - row["token_times_s"][0] for ttft, row in zip(seen, _requests(server)[-_WAYS:], strict=True)])
    return {} if cost is None else {"prompt.thousand": cost.thousand.value + way}


def _requests(server: ServerProcess) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(server.get("/debug/requests"))["requests"]
    return sorted(rows, key=lambda row: row["arrived_unix_s"])


@contextmanager
def vllm(draw: random.Random, folder: Path) -> Generator[Engine]:
    """vLLM on the CPU, whose blocks have 128 tokens there."""
    slots, budget = draw.randint(2, 6), draw.choice((256, 512))
    flags = ["--max-num-seqs", str(slots), "--max-num-batched-tokens", str(budget)]
    with or_not_here(), servers.vllm_server(folder, *flags) as server:
        known: dict[str, float | str] = {
            "cache.block": 128,
            "cache.minimum": 128,
            "concurrency.limit": slots,
            "prefill.chunk": budget,
            "queue.order": "fifo",
        }
        yield Engine(f"{server.url}/v1", known, 1700)


@contextmanager
def llama(draw: random.Random, folder: Path) -> Generator[Engine]:
    """llama.cpp's server: a slot keeps the last prompt, to the token."""
    slots, batch = draw.randint(2, 4), draw.choice((128, 256))
    flags = ["-b", str(batch), "-ub", str(batch)]
    with or_not_here(), servers.llama_server(folder, *flags, slots=slots) as server:
        known: dict[str, float | str] = {
            "cache.block": 1,
            "concurrency.limit": slots,
            "prefill.chunk": batch,
        }
        yield Engine(f"{server.url}/v1", known, 1700)


ENGINES: dict[str, Callable[[random.Random, Path], AbstractContextManager[Engine]]] = {
    "reference": reference,
    "vllm": vllm,
    "llama": llama,
}
TITLES = {"reference": "Reference server", "vllm": "vLLM on the CPU", "llama": "llama-server"}


def right(name: str, known: float | str, value: object, low: float | None, high: float | None) -> bool:
    """Whether a figure agrees with what is known: an integer setting exactly, others by their interval."""
    if isinstance(known, str) or name in INTEGERS:
        return value == known
    if low is None and high is None:
        return False
    return (-math.inf if low is None else low) <= known <= (math.inf if high is None else high)
