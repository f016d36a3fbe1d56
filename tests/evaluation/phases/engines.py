"""The engines that know the truth, each started for one run and stopped again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from llmtrace.reference.process import ServerProcess
from tests.e2e import servers

FEW, FREE = "few slots", "free slots"
_CONTEXT = 4096


class NotHere(Exception):
    """An engine is not installed, or did not start; says what to do."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A server that answers, and what its numbers mean."""

    key: str
    title: str
    base_url: str
    model: str
    slots: int
    whole_queue: bool
    """Its queue begins with the request's arrival: tokenising and the wait for the step that was running are in it."""
    admitted: bool
    """Its headers come when the request is admitted, not with the first token."""
    has_queue: bool = True
    """It reports its queue."""
    arrivals: Callable[[], dict[str, float]] = field(default=dict)
    """When each request reached the server, epoch s by trace id; empty where it does not tell."""


DEFINITIONS = {
    "reference": "queue: from the request's arrival, before it is parsed, until the scheduler begins with it (the step "
    "that was running then is in it, tokenising too); prefill: from there to the first token, copying a cached prefix "
    "included; network: from the call's start to that arrival, on one machine's clock.",
    "vllm": "queue: from the engine core's taking the request in until it is scheduled (without tokenising, and "
    "without the step that was running when it came); prefill: scheduled to first token; network: not told.",
    "llama": "no queue is told; prefill: `prompt_ms`, the evaluation of the uncached part of the prompt; decode: "
    "`predicted_ms`, which begins with the first token's sampling; network: not told.",
    "recorded": "as for vLLM. These recordings were at hand while the estimator was built: they show what it can do, "
    "the fresh runs how well that carries over.",
}
"""What each engine's numbers mean."""


@contextmanager
def reference(slots: str, folder: Path) -> Iterator[Engine]:
    """The project's own server with its tiny model."""
    count = 2 if slots == FEW else 16
    with ServerProcess(max_running=count, max_queue=1000, faults=False) as server:
        model = str(json.loads(server.get("/v1/models"))["data"][0]["id"])

        def arrivals() -> dict[str, float]:
            rows: list[dict[str, Any]] = json.loads(server.get("/debug/requests"))["requests"]
            return {row["trace_id"]: row["arrived_unix_s"] for row in rows if row.get("trace_id")}

        yield Engine("reference", "Reference server", server.base_url, model, count, True, True, arrivals=arrivals)


@contextmanager
def vllm(slots: str, folder: Path) -> Iterator[Engine]:
    """vLLM on the CPU, with its per-request metrics in the stream's last chunk."""
    flags = ["--max-model-len", str(_CONTEXT)]
    flags += ["--max-num-seqs", "4"] if slots == FEW else []
    with _or_not_here(), servers.vllm_server(folder, *flags) as server:
        count = 4 if slots == FEW else 64
        yield Engine("vllm", "vLLM on the CPU", f"{server.url}/v1", "tiny", count, False, True)


@contextmanager
def llama(slots: str, folder: Path) -> Iterator[Engine]:
    """llama.cpp's server."""
    count = 2 if slots == FEW else 8
    with _or_not_here(), servers.llama_server(folder, "-c", str(_CONTEXT * count), slots=count) as server:
        yield Engine("llama", "llama-server", f"{server.url}/v1", "tiny", count, True, False, has_queue=False)


@contextmanager
def _or_not_here() -> Iterator[None]:
    try:
        yield
    except pytest.skip.Exception as missing:
        raise NotHere(f"not installed ({str(missing).rpartition(': ')[2]})") from None
    except pytest.fail.Exception as broken:
        raise NotHere(f"it did not start: {str(broken).splitlines()[-1]}") from None
