"""The engines that know the truth, each started for one run and stopped again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from llmtrace.reference.process import ServerProcess
from tests.e2e import servers

SLOTS = 4
"""Calls that each runs at once."""
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
    whole_queue: bool
    """Its queue begins with the request's arrival: tokenising and the wait for the step that was running are in it."""
    admitted: bool
    """Its headers come when the request is admitted, not with the first token."""
    host: str | None = None
    """The host's name as the traced client has it, where a deployment's usually shows the engine."""
    arrivals: Callable[[], dict[str, float]] = field(default=dict)
    """When each request reached the server, epoch s by trace id; empty where it does not tell."""


DEFINITIONS = {
    "reference": "Reference server. Queue: from the request's arrival, before it is parsed, until the scheduler begins "
    "with it (the step that was running then is in it, tokenising too). Prefill: from there to the first token, "
    "copying a cached prefix included.",
    "vllm": "vLLM on the CPU. Queue: from the engine core's taking the request in until it is scheduled, so without "
    "tokenising and without the step that was running when it came. Prefill: scheduled to first token.",
    "llama": "llama-server. No queue is told, so only prefill and decode are scored. Prefill: `prompt_ms`, the "
    "evaluation of the uncached part of the prompt. Decode: `predicted_ms`, which begins with the first token's "
    "sampling.",
    "engine": "The simulated engine. Queue: from the engine's door until the first step that computes the prompt, the "
    "step that was running in it; its own (as vLLM counts) without that step. Prefill: from there to the end of the "
    "step that makes the first token.",
}
"""What each engine's numbers mean."""


@contextmanager
def reference(folder: Path) -> Iterator[Engine]:
    """The project's own server with its tiny model."""
    with ServerProcess(max_running=SLOTS, max_queue=1000, faults=False) as server:
        model = str(json.loads(server.get("/v1/models"))["data"][0]["id"])

        def arrivals() -> dict[str, float]:
            rows: list[dict[str, Any]] = json.loads(server.get("/debug/requests"))["requests"]
            return {row["trace_id"]: row["arrived_unix_s"] for row in rows if row.get("trace_id")}

        yield Engine("reference", "Reference server", server.base_url, model, True, True, arrivals=arrivals)


@contextmanager
def vllm(folder: Path) -> Iterator[Engine]:
    """vLLM on the CPU, with its per-request metrics in the answer."""
    flags = ["--max-model-len", str(_CONTEXT), "--max-num-seqs", str(SLOTS)]
    with or_not_here(), servers.vllm_server(folder, *flags) as server:
        yield Engine("vllm", "vLLM on the CPU", f"{server.url}/v1", "tiny", False, True, "vllm.internal")


@contextmanager
def llama(folder: Path) -> Iterator[Engine]:
    """llama.cpp's server."""
    with or_not_here(), servers.llama_server(folder, "-c", str(_CONTEXT * SLOTS), slots=SLOTS) as server:
        yield Engine("llama", "llama-server", f"{server.url}/v1", "tiny", True, False)


ENGINES: dict[str, Callable[[Path], AbstractContextManager[Engine]]] = {
    "reference": reference,
    "vllm": vllm,
    "llama": llama,
}
"""How each is started; a folder for its files."""


def missing(key: str) -> str | None:
    """What to do where an engine is not installed; None where it is."""
    try:
        with or_not_here():
            if key != "reference":
                servers.python_of(f"e2e-{key}")
    except NotHere as why:
        return str(why)
    return None


@contextmanager
def or_not_here() -> Iterator[None]:
    """Turn a skip or a failed start into ``NotHere``."""
    try:
        yield
    except pytest.skip.Exception as missing:
        raise NotHere(f"not installed ({str(missing).rpartition(': ')[2]})") from None
    except pytest.fail.Exception as broken:
        raise NotHere(f"it did not start: {str(broken).splitlines()[-1]}") from None
