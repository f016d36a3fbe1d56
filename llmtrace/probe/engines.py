"""What engines count of the tokens that they have made, and under which names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Engine:
    """Where one engine counts. Names without ``_total`` are gauges."""

    name: str
    tokens: str
    """Output tokens made; of ``steps``, the steps that made them."""
    running: Sequence[str]
    """Calls that run or wait."""
    finished: str = ""
    aborted: str = ""
    aborted_label: str = ""
    """What the labels of ``aborted`` contain where it counts other ends too."""
    live: bool = False
    """``tokens`` moves with every token, not when a call ends."""
    counts_cut: bool = True
    """``tokens`` counts those of calls that were cut short too."""
    steps: bool = False


ENGINES: Final = (
    # vllm/v1/metrics/loggers.py: counted at every step of the engine.
    Engine(
        "vLLM", "vllm:generation_tokens_total", ("vllm:num_requests_running", "vllm:num_requests_waiting"),
        "vllm:request_success_total", "vllm:request_success_total", 'finished_reason="abort"', live=True,
    ),
    # sglang/srt/managers/tokenizer_manager.py: a call's tokens are added as it finishes; an aborted one does not.
    Engine(
        "SGLang", "sglang:generation_tokens_total", ("sglang:num_running_reqs", "sglang:num_queue_reqs"),
        "sglang:num_requests_total", "sglang:num_aborted_requests_total", counts_cut=False,
    ),
    # llama.cpp, tools/server: tokens_predicted_total leaves out what was cancelled; n_decode_total counts each step.
    Engine(
        "llama.cpp", "llamacpp:n_decode_total", ("llamacpp:requests_processing", "llamacpp:requests_deferred"),
        live=True, steps=True,
    ),
    Engine(
        "the reference server", "llmtrace:generation_tokens_total",
        ("llmtrace:num_requests_running", "llmtrace:num_requests_waiting"),
        "llmtrace:requests_total", "llmtrace:requests_total", 'outcome="cancelled"',
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reading:
    """An engine's counters at one moment (monotonic s); None where it does not count that."""

    moment: float
    tokens: float
    running: float
    finished: float | None = None
    aborted: float | None = None
