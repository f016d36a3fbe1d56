"""What an engine reported of its own work on a call, read without llmtrace's help."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.evaluation.phases.measured import Truth


def truth_of(answer: Mapping[str, Any]) -> Truth | None:
    """The truth in an answer's own fields (of a stream: its last event's); None where there is none.

    vLLM and the reference server: ``metrics``, ms, where the "time to first token" begins when the request is
    scheduled and is prefill, the copying of a cached prefix included. llama-server: ``timings``, ms, no queue.
    """
    metrics, timings = answer.get("metrics"), answer.get("timings")
    if isinstance(metrics, Mapping) and metrics.get("time_to_first_token_ms") is not None:
        return Truth(
            queue=_seconds(metrics.get("queue_time_ms")),
            prefill=_seconds(metrics["time_to_first_token_ms"]),
            decode=_seconds(metrics.get("generation_time_ms")),
        )
    if isinstance(timings, Mapping) and timings.get("prompt_ms") is not None:
        decode = _seconds(timings.get("predicted_ms"))
        return Truth(queue=None, prefill=_seconds(timings["prompt_ms"]), decode=decode)
    return None


def _seconds(ms: Any) -> float | None:
    return None if ms is None else float(ms) / 1e3
