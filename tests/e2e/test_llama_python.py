"""A model in the application's own process: llama-cpp-python, prefill and decode by llama.cpp's own counters."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

from tests.e2e.servers import GGUF, ROOT, needed, python_of

PROGRAM = """
import json, sys
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
import llmtrace
from llmtrace.observe import internal_errors

exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
llmtrace.instrument("llama-cpp-python", tracer_provider=provider)
import llama_cpp

model = llama_cpp.Llama(sys.argv[1], n_ctx=512, verbose=False, seed=1)
answers = []
def ask(text, **more):
    return model.create_chat_completion(messages=[{"role": "user", "content": text}], max_tokens=12, **more)

answers.append(ask("Hello there, how are you today?")["usage"])
answers.append(ask("Hello there, how are you today?")["usage"])
stream = ask("Tell me of the sea, and of the ships on it.", stream=True)
kind = type(stream).__name__
chunks = len(list(stream))
left = ask("And of the wind.", stream=True)
next(left), next(left)
left.close()
answers.append(model("Once upon a time", max_tokens=4)["usage"])
spans = [
    {
        "name": span.name, "kind": span.kind.name, "seconds": (span.end_time - span.start_time) / 1e9,
        "id": span.context.span_id, "parent": span.parent and span.parent.span_id,
        "attributes": {key: value for key, value in span.attributes.items()},
    }
    for span in exporter.get_finished_spans()
]
errors = sum(internal_errors.counts.values())
told = {"answers": answers, "kind": kind, "chunks": chunks, "spans": spans, "internal_errors": errors}
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def lived() -> dict[str, Any]:
    python = os.environ.get("LLMTRACE_LLAMA_PYTHON") or python_of("e2e-llama-python")
    model = needed(GGUF, "e2e-llama-python")
    done = subprocess.run(
        [str(python), "-c", PROGRAM, str(model)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def parents(lived: dict[str, Any]) -> list[dict[str, Any]]:
    return [span for span in lived["spans"] if "gen_ai.operation.name" in span["attributes"]]


def phases(lived: dict[str, Any], parent: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        span["attributes"]["llmtrace.phase"]: span
        for span in lived["spans"]
        if span["parent"] == parent["id"] and "llmtrace.phase" in span["attributes"]
    }


def test_every_call_once(lived: dict[str, Any]) -> None:
    assert lived["internal_errors"] == 0
    assert lived["kind"] == "generator"
    found = parents(lived)
    assert [span["name"] for span in found] == [
        *[f"chat {GGUF.name}"] * 4,
        f"text_completion {GGUF.name}",
    ]
    outcomes = [span["attributes"]["llmtrace.call.outcome"] for span in found]
    assert outcomes == ["completed", "completed", "completed", "closed_early", "completed"]
    for span in found:
        assert span["kind"] == "INTERNAL"
        assert span["attributes"]["gen_ai.provider.name"] == "llama.cpp"
        assert abs(sum(phase["seconds"] for phase in phases(lived, span).values()) - span["seconds"]) < 1e-6


def test_its_load_is_a_span_that_the_first_call_points_to(lived: dict[str, Any]) -> None:
    (load,) = [span for span in lived["spans"] if span["name"] == "llm.model_load"]
    parts = [span["name"] for span in lived["spans"] if span["parent"] == load["id"]]
    assert parts == ["llm.model_load.read"]
    assert load["attributes"]["gen_ai.request.model"] == GGUF.name
    first, *later = parents(lived)
    assert first["attributes"]["llmtrace.model_load.before"] == pytest.approx(load["seconds"], abs=1e-3)
    assert not any("llmtrace.model_load.before" in span["attributes"] for span in later)


def test_whole_answers_by_the_librarys_counters(lived: dict[str, Any]) -> None:
    first, second = parents(lived)[:2]
    for span, usage in zip((first, second), lived["answers"], strict=False):
        attrs = span["attributes"]
        assert attrs["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
        assert attrs["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
        parts = phases(lived, span)
        assert {"prefill", "decode"} <= set(parts)
        assert all(parts[name]["attributes"]["llmtrace.phase.source"] == "server" for name in ("prefill", "decode"))
    assert first["attributes"]["gen_ai.usage.cache_read.input_tokens"] == 0
    # The same prompt again: all but its last token is still in the context.
    assert second["attributes"]["gen_ai.usage.cache_read.input_tokens"] == lived["answers"][1]["prompt_tokens"] - 1
    assert phases(lived, first)["prefill"]["seconds"] > phases(lived, second)["prefill"]["seconds"]


def test_a_stream(lived: dict[str, Any]) -> None:
    span = parents(lived)[2]
    attrs = span["attributes"]
    assert attrs["llmtrace.stream.chunks"] == lived["chunks"]
    assert attrs["gen_ai.usage.output_tokens"] == 12
    decode = phases(lived, span)["decode"]["attributes"]
    assert decode["llmtrace.phase.source"] == "client"
    assert decode["llmtrace.phase.server_duration"] > 0
