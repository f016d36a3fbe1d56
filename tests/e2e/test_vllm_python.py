"""vLLM in the application's own process: a batch is one call, a request of the asynchronous engine is a stream."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

from tests.e2e.servers import CONTEXT, MODEL, ROOT, needed, python_of

PROGRAM = """
import asyncio, json, sys
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
import llmtrace
from llmtrace.observe import internal_errors

def output(made):
    stats = made.metrics
    return {
        "prompt": len(made.prompt_token_ids), "made": sum(len(one.token_ids) for one in made.outputs),
        "cached": made.num_cached_tokens, "id": made.request_id,
        "stats": stats and [stats.queued_ts, stats.scheduled_ts, stats.first_token_ts, stats.last_token_ts],
    }

def main():
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    capture = "span_only" if sys.argv[3] == "silent" else "no_content"
    llmtrace.instrument("vllm", tracer_provider=provider, capture_content=capture)
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import RequestOutputKind

    answers, told = [], {}
    set_up = dict(
        model=sys.argv[1], dtype="float32", max_model_len=int(sys.argv[2]), enforce_eager=True, max_num_seqs=2,
        disable_log_stats=False,
    )
    params = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
    kind = sys.argv[3]
    if kind != "async":
        if kind == "silent":
            del set_up["disable_log_stats"]
        engine = LLM(**set_up)
        told["resource"] = dict(llmtrace.model_resource(engine).attributes)
        long = "The prompt is read once, in parallel, before the first word. " * 30
        def ask(call, *args, **more):
            answers.append([output(one) for one in call(*args, use_tqdm=False, **more)])
        ask(engine.generate, "Once upon a time", params)
        if kind == "silent":
            chats = [[{"role": "user", "content": text}] for text in ("Hello there.", "And good night.")]
            each = [params, SamplingParams(max_tokens=3, n=2, seed=1)]
            ask(engine.chat, chats, each, chat_template="{{ messages[0]['content'] }}")
            told["texts"] = [one.text for made in engine.generate(["A", "B"], params) for one in made.outputs]
        if kind == "within":
            ask(engine.generate, ["The sea.", "And the wind over it."], params)
        if kind == "whole":
            ask(engine.chat, [{"role": "user", "content": "Hello there."}], sampling_params=params,
                chat_template="{{ messages[0]['content'] }}")
            ask(engine.generate, ["The sea.", "And the wind over it."], params)
            ask(engine.generate, [f"{number} ships" for number in range(5)], params)
            ask(engine.generate, long, params)
            ask(engine.generate, long, params)
            ask(engine.generate, [{"prompt_token_ids": [5, 6, 7]}], SamplingParams(n=2, max_tokens=4, seed=1))
            try:
                engine.generate("word " * 5000, params, use_tqdm=False)
            except Exception as error:
                told["raised"] = type(error).__name__
    else:
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        async def live():
            del set_up["disable_log_stats"]
            engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**set_up))
            told["resource"] = dict(llmtrace.model_resource(engine).attributes)
            for name in ("CUMULATIVE", "DELTA", "FINAL_ONLY"):
                chosen = SamplingParams(
                    max_tokens=48, temperature=0, ignore_eos=True, output_kind=RequestOutputKind[name]
                )
                stream = engine.generate("Tell me of the sea.", chosen, request_id=name)
                told["kind"] = type(stream).__name__
                chunks = [one async for one in stream]
                answers.append([output(chunks[-1]) | {"chunks": len(chunks), "length": 48}])
            more = SamplingParams(max_tokens=400, ignore_eos=True)
            left = engine.generate("And of the wind.", more, request_id="left")
            await anext(left), await anext(left)
            await left.aclose()
            engine.shutdown()
        asyncio.run(live())
    spans = [
        {
            "name": span.name, "kind": span.kind.name, "seconds": (span.end_time - span.start_time) / 1e9,
            "id": span.context.span_id, "parent": span.parent and span.parent.span_id,
            "attributes": {key: value for key, value in span.attributes.items()},
        }
        for span in exporter.get_finished_spans()
    ]
    told |= {"answers": answers, "spans": spans, "internal_errors": sum(internal_errors.counts.values())}
    print(json.dumps(told), flush=True)

if __name__ == "__main__":
    main()
"""


def live(folder: Any, kind: str, **more: str) -> dict[str, Any]:
    python = python_of("e2e-vllm")
    needed(MODEL / "config.json", "e2e-model")
    program = folder / "program.py"  # the engine's process imports it: it has to be a file
    program.write_text(PROGRAM)
    quiet = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [str(python), str(program), str(MODEL), str(CONTEXT), kind],
        env=os.environ | quiet | more | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{")))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return live(tmp_path_factory.mktemp("whole"), "whole")


@pytest.fixture(scope="module")
def within(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return live(tmp_path_factory.mktemp("within"), "within", VLLM_ENABLE_V1_MULTIPROCESSING="0")


@pytest.fixture(scope="module")
def silent(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return live(tmp_path_factory.mktemp("silent"), "silent")


@pytest.fixture(scope="module")
def streamed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return live(tmp_path_factory.mktemp("async"), "async")


def parents(lived: dict[str, Any]) -> list[dict[str, Any]]:
    return [span for span in lived["spans"] if "gen_ai.operation.name" in span["attributes"]]


def phases(lived: dict[str, Any], parent: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        span["attributes"]["llmtrace.phase"]: span
        for span in lived["spans"]
        if span["parent"] == parent["id"] and "llmtrace.phase" in span["attributes"]
    }


def assert_sound(lived: dict[str, Any], outcomes: list[str]) -> None:
    """Every call once, in this process, its phases filling it, its tokens the outputs' sums."""
    assert lived["internal_errors"] == 0
    found = parents(lived)
    assert [span["attributes"]["llmtrace.call.outcome"] for span in found] == outcomes
    (load,) = [span for span in lived["spans"] if span["name"] == "llm.model_load"]
    assert load["attributes"]["gen_ai.request.model"] == MODEL.name
    before = [span["attributes"].get("llmtrace.model_load.before") for span in found]
    assert before == [pytest.approx(load["seconds"], abs=1e-3), *[None] * (len(found) - 1)]
    for span in found:
        assert span["name"] == f"{span['attributes']['gen_ai.operation.name']} {MODEL.name}"
        assert span["kind"] == "INTERNAL"
        assert span["attributes"]["gen_ai.provider.name"] == "vllm"
        assert abs(sum(phase["seconds"] for phase in phases(lived, span).values()) - span["seconds"]) < 1e-6
    for span, outputs in zip(found, lived["answers"], strict=False):
        attrs = span["attributes"]
        assert attrs["gen_ai.usage.input_tokens"] == sum(one["prompt"] for one in outputs)
        assert attrs["gen_ai.usage.output_tokens"] == (outputs[0].get("length") or sum(one["made"] for one in outputs))
        assert attrs["gen_ai.usage.cache_read.input_tokens"] == sum(one["cached"] for one in outputs)


def assert_told(lived: dict[str, Any], span: dict[str, Any], outputs: list[dict[str, Any]], streamed: bool) -> None:
    """The engine's phases are as long as its stamps say."""
    queued, scheduled, first, last = zip(*(one["stats"] for one in outputs), strict=True)
    parts = phases(lived, span)
    expected = {
        "queue": min(scheduled) - min(queued),
        "prefill": min(first) - min(scheduled),
        "decode": max(last) - min(first),
    }
    for name, seconds in expected.items():
        attrs = parts[name]["attributes"]
        if streamed and name == "decode":
            assert attrs["llmtrace.phase.server_duration"] == pytest.approx(seconds, abs=2e-6)
        else:
            assert attrs["llmtrace.phase.source"] == "server"
            assert parts[name]["seconds"] == pytest.approx(seconds, abs=3e-6)


def test_whole(whole: dict[str, Any]) -> None:
    assert_sound(whole, ["completed"] * 7 + ["error"])
    found, answers = parents(whole), whole["answers"]
    names = [span["attributes"]["gen_ai.operation.name"] for span in found]
    assert names == ["text_completion", "chat", *["text_completion"] * 6]
    sizes = [span["attributes"]["llmtrace.generate.batch_size"] for span in found]
    assert sizes == [1, 1, 2, 5, 1, 1, 1, 1]
    for place in (0, 1, 4, 5):
        assert_told(whole, found[place], answers[place], streamed=False)
    assert found[-1]["attributes"]["error.type"].rpartition(".")[2] == whole["raised"]


def test_a_batch(whole: dict[str, Any]) -> None:
    """Five prompts for two slots: there is no one prefill, and only the whole is told."""
    five = parents(whole)[3]
    assert five["attributes"]["gen_ai.request.choice.count"] == 5
    assert five["attributes"]["gen_ai.response.finish_reasons"] == ["length"] * 5
    assert set(phases(whole, five)) == {"unattributed", "opaque"}
    opaque, stats = phases(whole, five)["opaque"], whole["answers"][3]
    assert opaque["attributes"]["llmtrace.phase.source"] == "server"
    seconds = max(one["stats"][3] for one in stats) - min(one["stats"][0] for one in stats)
    assert opaque["seconds"] == pytest.approx(seconds, abs=3e-6)


def test_a_batch_in_one_step(within: dict[str, Any]) -> None:
    assert_sound(within, ["completed"] * 2)
    outputs = within["answers"][1]
    assert len({one["stats"][2] for one in outputs}) == 1, "one step brought both first tokens"
    assert_told(within, parents(within)[1], outputs, streamed=False)


def test_the_same_prompt_again(whole: dict[str, Any]) -> None:
    first, second = parents(whole)[4:6]
    assert first["attributes"]["gen_ai.usage.cache_read.input_tokens"] == 0
    assert second["attributes"]["gen_ai.usage.cache_read.input_tokens"] >= 128
    assert phases(whole, first)["prefill"]["seconds"] > phases(whole, second)["prefill"]["seconds"]


def test_several_sequences_of_one_prompt(whole: dict[str, Any]) -> None:
    span = parents(whole)[6]
    assert span["attributes"]["gen_ai.request.choice.count"] == 2
    assert span["attributes"]["gen_ai.usage.output_tokens"] == 8
    assert set(phases(whole, span)) == {"unattributed", "opaque"}


def test_an_engine_without_statistics(silent: dict[str, Any]) -> None:
    assert_sound(silent, ["completed"] * 3)
    assert silent["answers"][0][0]["stats"] is None
    for span in parents(silent):
        parts = phases(silent, span)
        assert set(parts) == {"opaque"}
        assert parts["opaque"]["attributes"]["llmtrace.phase.source"] == "client"


def test_sampling_parameters_of_each_prompt(silent: dict[str, Any]) -> None:
    attrs = parents(silent)[1]["attributes"]
    assert attrs["llmtrace.generate.batch_size"] == 2
    assert attrs["gen_ai.request.choice.count"] == 3
    assert "gen_ai.request.max_tokens" not in attrs


def test_content_where_it_is_asked_for(silent: dict[str, Any]) -> None:
    def texts(span: dict[str, Any], field: str) -> list[str]:
        return [part["content"] for message in json.loads(span["attributes"][field]) for part in message["parts"]]

    one, chats, two = parents(silent)
    assert texts(one, "gen_ai.input.messages") == ["Once upon a time"]
    assert texts(chats, "gen_ai.input.messages") == ["Hello there.", "And good night."]
    assert len(texts(chats, "gen_ai.output.messages")) == 3
    assert texts(two, "gen_ai.input.messages") == ["A", "B"]
    assert texts(two, "gen_ai.output.messages") == silent["texts"]


def test_streams(streamed: dict[str, Any]) -> None:
    assert streamed["kind"] == "async_generator"
    assert_sound(streamed, ["completed"] * 3 + ["closed_early"])
    found, answers = parents(streamed), streamed["answers"]
    for span, outputs in zip(found, answers, strict=False):
        attrs = span["attributes"]
        assert attrs["gen_ai.response.id"] == outputs[0]["id"]
        assert attrs["llmtrace.stream.chunks"] == outputs[0]["chunks"]
    for span, outputs in zip(found[:2], answers, strict=False):
        assert_told(streamed, span, outputs, streamed=True)
    # Handed over at its end: the client saw nothing of its phases, they are the engine's.
    assert_told(streamed, found[2], answers[2], streamed=False)
    assert set(phases(streamed, found[3])) == {"queue_prefill", "decode"}
    assert found[3]["attributes"]["gen_ai.usage.output_tokens"] < 400


def test_the_engine_as_a_resource(whole: dict[str, Any], streamed: dict[str, Any]) -> None:
    """Both kinds of engine name the one model that they serve, in the same way."""
    assert whole["resource"] == streamed["resource"]
    assert whole["resource"]["llmtrace.model.dtype"] == "float32"
    assert len(whole["resource"]["llmtrace.model.fingerprint"]) == 16
