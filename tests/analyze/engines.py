"""Engines' own spans as they export them: vLLM, SGLang, TGI, Triton, TensorRT-LLM, each by its names and scope."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson

from tests.analyze.writing import EPOCH, MS, Writer, attributes

LATENCIES = {
    "time_to_first_token": 0.51,
    "e2e": 0.92,
    "time_in_queue": 0.2,
    "time_in_model_prefill": 0.3,
    "time_in_model_decode": 0.4,
    "time_in_model_inference": 0.7,
}
"""vLLM's, seconds."""


class Engine(Writer):
    """Spans of one service and scope, which are exported together."""

    def __init__(self, service: str, scope: str, first: int = 0) -> None:
        super().__init__(service, count=first)
        self.scope = scope

    def document(self) -> dict[str, Any]:
        resource = {"attributes": attributes({"service.name": self.service})}
        return {
            "resourceSpans": [
                {"resource": resource, "scopeSpans": [{"scope": {"name": self.scope}, "spans": self.spans}]}
            ]
        }

    def events(self, **at: float) -> None:
        """Events of the last span, by ms."""
        self.spans[-1]["events"] = [
            {"name": name, "timeUnixNano": str(EPOCH + round(time * MS))} for name, time in at.items()
        ]


def vllm(start: float = 0.0, *, trace: int = 1, parent: str = "", unit: float = 1.0, **other: float | None) -> Engine:
    """vLLM's ``llm_request``, 920 ms; ``unit``: how many of its numbers make a second."""
    engine = Engine("vllm", "vllm.llm_engine", 1000 * trace)
    told: Mapping[str, float | None] = LATENCIES | other
    latencies = {f"gen_ai.latency.{name}": value * unit for name, value in told.items() if value is not None}
    counts = {"gen_ai.usage.prompt_tokens": 100, "gen_ai.usage.completion_tokens": 20, "gen_ai.request.id": "cmpl-1"}
    reasons = {"gen_ai.response.finish_reasons": '["stop"]'}
    engine.span("llm_request", start, start + 920, latencies | counts | reasons, trace=trace, parent=parent, kind=2)
    return engine


def sglang(*, trace: int = 1, parent: str = "") -> Engine:
    """SGLang's request of 1 s, its thread and its stages: 200 ms waiting, 240 ms prefill, 480 ms decode."""
    engine = Engine("sglang", "sglang server", 1000 * trace)
    about = {
        "rid": "abcdef1234",
        "module": "sglang::request",
        "gen_ai.response.model": "qwen",
        "gen_ai.usage.prompt_tokens": 50,
        "gen_ai.usage.completion_tokens": 9,
        "gen_ai.latency.time_in_model_prefill": 0.5,  # with the wait, as SGLang has it
        "gen_ai.latency.time_to_first_token": 0.5,
        "gen_ai.latency.e2e": 1.0,
    }
    request = engine.span(" Req abcdef12", 0, 1000, about, trace=trace, parent=parent)
    thread = engine.span("Scheduler [TP 0] (host:ab | pid:1)", 50, 990, {"pid": 1}, trace=trace, parent=request)
    engine.span("prefill_waiting", 60, 260, trace=trace, parent=thread)
    engine.span("prefill_forward", 260, 500, trace=trace, parent=thread)
    engine.span("decode_forward", 500, 980, trace=trace, parent=thread)
    engine.span("decode_loop", 500, 510, trace=trace, parent=thread)
    return engine


def tgi(*, trace: int = 1, parent: str = "") -> Engine:
    """TGI's ``generate``, with durations as Rust writes them: 100 ms until it was taken up, 890 ms of inference."""
    engine = Engine("text-generation-inference.router", "", 1000 * trace)
    told = {
        "total_time": "990.5ms", "validation_time": "2ms", "queue_time": "98.000001ms", "inference_time": "890ms",
        "time_per_token": "20.2ms", "seed": "None",
    }  # fmt: skip
    engine.span("generate", 0, 1000, told, trace=trace, parent=parent)
    return engine


def triton(*, trace: int = 1, parent: str = "", own_span: bool = True) -> Engine:
    """Triton's span of a model's request: 100 ms queued, 880 ms computing, in a span of its own or not."""
    engine = Engine("triton-inference-server", "triton-server", 1000 * trace)
    about = {"triton.model_name": "llama", "triton.model_version": 1, "triton.trace_id": 3, "triton.trace_parent_id": 0}
    model = engine.span("llama", 0, 1000, about, trace=trace, parent=parent)
    computing = {"COMPUTE_START": 110, "COMPUTE_INPUT_END": 120, "COMPUTE_OUTPUT_START": 985, "COMPUTE_END": 990}
    engine.events(REQUEST_START=0, QUEUE_START=10, **({} if own_span else computing), REQUEST_END=1000)
    if own_span:
        engine.span("compute", 110, 990, trace=trace, parent=model)
        engine.events(**computing)
    return engine


def one_by_one(whole: Engine) -> list[Engine]:
    """The same spans, each exported by itself, the last one that began first."""
    alone = [Engine(whole.service, whole.scope) for _ in whole.spans]
    for engine, span in zip(alone, reversed(whole.spans), strict=True):
        engine.spans.append(span)
    return alone


def save(path: Path, writers: Iterable[Writer]) -> str:
    """All of them in one file, a document a line."""
    path.write_bytes(b"".join(orjson.dumps(writer.document()) + b"\n" for writer in writers))
    return str(path)
